//! The server and the pool that a request reads from.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use sqlx::PgPool;
use tokio::time::Instant;

/// How long requests skip a replica that did not answer.
const UNAVAILABLE_FOR: Duration = Duration::from_secs(1);

/// The server that a request reads from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Primary,
    Replica,
}

impl<S: Sync> FromRequestParts<S> for Source {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(parts.extensions.get().copied().unwrap_or(Self::Primary))
    }
}

/// The kind of queries of a pool.
#[derive(Debug, Clone, Copy)]
pub(super) enum PoolKind {
    Short,
    Long,
}

/// Connections to a replica.
pub struct Replica {
    /// For short queries.
    pub(super) short: PgPool,
    /// For long queries.
    pub(super) long: PgPool,
    unavailable_until: Mutex<Option<Instant>>,
}

impl Replica {
    #[must_use]
    pub fn new(short: PgPool, long: PgPool) -> Self {
        Self { short, long, unavailable_until: Mutex::default() }
    }

    pub(super) fn is_unavailable(&self) -> bool {
        let until = self.unavailable_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    /// Records that it did not answer, so that other requests do not wait for it.
    pub(super) fn mark_unavailable(&self) {
        let mut until = self.unavailable_until.lock().unwrap_or_else(PoisonError::into_inner);
        *until = Some(Instant::now() + UNAVAILABLE_FOR);
    }
}
