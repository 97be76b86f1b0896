//! The end of the log: which log it is, its last position, and whether its last time has come yet.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

/// How far the last event may lie in the future, in seconds: a difference between two clocks, not a wrong
/// clock.
pub const AHEAD_MAX: f64 = 60.0;

/// The identity of the log and its last position, of one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEnd {
    /// The current identity of the log (migration 0012).
    pub log: Uuid,
    /// The position of the last event; 0 when the log is empty.
    pub head: i64,
}

/// Reads the end of the log.
pub async fn log_end(executor: impl PgExecutor<'_>) -> Result<LogEnd, sqlx::Error> {
    sqlx::query_as!(
        LogEnd,
        r#"select id as log, (select coalesce(max(position), 0) from events) as "head!"
           from log_identities where ended_at is null"#
    )
    .fetch_one(executor)
    .await
}

/// How many seconds the last event lies in the future of the database's clock; at most 0 if it does not, or
/// if the log is empty. Every later event gets a time after it.
pub async fn seconds_ahead(executor: impl PgExecutor<'_>) -> Result<f64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select coalesce((
               select extract(epoch from recorded_at - clock_timestamp())::float8
               from events order by position desc limit 1
           ), 0) as "seconds!""#
    )
    .fetch_one(executor)
    .await
}

/// The latest time that an event may have now: the database's clock and [`AHEAD_MAX`].
pub async fn latest_time(executor: impl PgExecutor<'_>) -> Result<DateTime<Utc>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select clock_timestamp() + make_interval(secs => $1) as "time!""#,
        AHEAD_MAX
    )
    .fetch_one(executor)
    .await
}
