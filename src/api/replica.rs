//! Reads from a replica, as long as it is there and knows enough; else from the primary, without the
//! client's knowledge.

use std::sync::Mutex;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use sqlx::PgPool;
use tokio::time::Instant;

use super::Api;

/// How long a replica may take to begin to answer.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_millis(500);

/// How long a replica is waited for that does not show a position yet.
pub(super) const WAIT: Duration = Duration::from_millis(250);

/// How long nobody asks a replica that did not answer.
const AWAY: Duration = Duration::from_secs(1);

/// Where a request reads.
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

/// Connections to a replica.
pub struct Replica {
    /// Short queries.
    pub(super) read: PgPool,
    /// Long ones.
    pub(super) bulk: PgPool,
    away_until: Mutex<Option<Instant>>,
}

impl Replica {
    #[must_use]
    pub fn new(read: PgPool, bulk: PgPool) -> Self {
        Self { read, bulk, away_until: Mutex::default() }
    }

    fn is_away(&self) -> bool {
        let until = self.away_until.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    /// It did not answer: nobody else need wait for it.
    pub(super) fn leave_alone(&self) {
        let mut until = self.away_until.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *until = Some(Instant::now() + AWAY);
    }
}

/// Asks the replica first. What it cannot answer, or does not know, the primary is asked: it lags, it
/// is away, or it cancelled the query to replay what the query stood in the way of.
pub(super) async fn first(State(api): State<Api>, request: Request, next: Next) -> Response {
    let Some(replica) = api.replica() else { return next.run(request).await };
    if replica.is_away() {
        return next.run(request).await;
    }
    // A GET: nobody reads its body.
    let (parts, _) = request.into_parts();
    let mut asked = Request::from_parts(parts.clone(), Body::empty());
    asked.extensions_mut().insert(Source::Replica);
    let response = next.clone().run(asked).await;
    if response.status() != StatusCode::NOT_FOUND && !response.status().is_server_error() {
        return response;
    }
    metrics::counter!("customers_replica_fallbacks_total").increment(1);
    next.run(Request::from_parts(parts, Body::empty())).await
}
