//! Time and randomness. Everything else in the crate is handed a `Clock` or calls the functions
//! below; `.clippy.toml` forbids the ambient calls everywhere but here.

#![expect(clippy::disallowed_methods, reason = "this is the one place where they are wrapped")]

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, SecondsFormat, SubsecRound as _, Utc};
use uuid::Uuid;

/// What time it is, in UTC to the microsecond: PostgreSQL's resolution, so a time that was stored
/// and read again is the same time.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>);

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        Self(Arc::new(Utc::now))
    }

    /// A clock that a test turns by hand.
    #[must_use]
    pub fn from_fn(now: impl Fn() -> DateTime<Utc> + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        (self.0)().trunc_subsecs(6)
    }

    /// The date now, in UTC.
    #[must_use]
    pub fn today(&self) -> NaiveDate {
        self.now().date_naive()
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

/// What a call gives within the limit, or `None`. The limit is waited for in slices: each ends only when
/// this process has looked at its sockets again, so one that gets no processor for a while, or that
/// hundreds of requests reached at once, hears the answers that lie there before it gives up.
pub async fn within<T>(limit: Duration, call: impl Future<Output = T>) -> Option<T> {
    const SLICES: u32 = 10;
    let mut call = std::pin::pin!(call);
    for _ in 0..SLICES {
        if let Ok(answer) = tokio::time::timeout(limit / SLICES, &mut call).await {
            return Some(answer);
        }
    }
    None
}

/// RFC 3339 in UTC with exactly six digits after the second and `Z`: one spelling everywhere.
#[must_use]
pub fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// The time of `seconds` after 1970-01-01T00:00:00Z, or `None` outside the calendar.
#[must_use]
pub fn from_unix(seconds: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(seconds, 0)
}

/// A new id that sorts by the time it was made (RFC 9562, version 7).
#[must_use]
pub fn new_id() -> Uuid {
    Uuid::now_v7()
}

/// `N` bytes that nobody can guess, from the system's cryptographic generator.
///
/// # Panics
/// When the system's generator fails: nothing secret can be made then.
#[must_use]
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's random generator works");
    bytes
}
