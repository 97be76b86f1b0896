//! Time and randomness. All other modules get a `Clock` or call the functions below; `.clippy.toml`
//! forbids the ambient calls outside this file.

#![expect(clippy::disallowed_methods, reason = "this module wraps them")]

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, SecondsFormat, SubsecRound as _, Utc};
use uuid::Uuid;

/// A source of the current time, in UTC to the microsecond: the resolution of PostgreSQL, so that a time
/// is the same after it was stored and read.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>);

impl Clock {
    /// The system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self(Arc::new(Utc::now))
    }

    /// A clock that calls `now`, for tests that set the time.
    #[must_use]
    pub fn from_fn(now: impl Fn() -> DateTime<Utc> + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The current time.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        (self.0)().trunc_subsecs(6)
    }

    /// The current date, in UTC.
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

/// The result of the call, or `None` after the limit. The limit is divided into slices, each of which ends
/// only after this process has polled its sockets: a process that got no CPU for a while, or that received
/// hundreds of requests at once, reads the answers that have arrived before it times out.
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

/// Formats a time as RFC 3339 in UTC, always with six fractional digits and `Z`.
#[must_use]
pub fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// The time `seconds` after 1970-01-01T00:00:00Z, or `None` outside the range of chrono.
#[must_use]
pub fn from_unix(seconds: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(seconds, 0)
}

/// A new id that sorts by the time it was made (RFC 9562, version 7).
#[must_use]
pub fn new_id() -> Uuid {
    Uuid::now_v7()
}

/// `N` random bytes from the cryptographic generator of the operating system. Panics if that fails,
/// because no secret can be made without it.
#[must_use]
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's random generator works");
    bytes
}
