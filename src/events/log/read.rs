//! Reads the log. Every query starts from a position or in a stream; no query sorts.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use sqlx::PgExecutor;
use uuid::Uuid;

use super::StoredEvent;
use super::payload::{DecodeError, decode};
use crate::events::customer::CUSTOMER;
use crate::events::values::CustomerId;

/// Fetches whole events by a checked query, with the column list in one place; `$rest` follows
/// `from events`.
macro_rules! fetch_events {
    ($executor:expr, $rest:tt, $($parameter:expr),* $(,)?) => {
        sqlx::query_as!(
            StoredEvent,
            r#"select position, aggregate_type, aggregate_id, sequence, event_type, event_version,
                      payload::text as "payload!", metadata::text as "metadata!", recorded_at
               from events "# + $rest,
            $($parameter),*
        )
        .fetch_all($executor)
        .await
    };
}

/// A checked query for the last event of a stream, and the time of its first; `$rest` follows
/// `from events e`.
macro_rules! last_event {
    ($rest:tt, $($parameter:expr),* $(,)?) => {
        sqlx::query_as!(
            LastRow,
            r#"select e.aggregate_id, e.position, e.sequence, e.recorded_at, e.event_type,
                      e.event_version, e.payload::text as "payload!",
                      (select f.recorded_at from events f
                       where f.aggregate_type = e.aggregate_type
                         and f.aggregate_id = e.aggregate_id and f.sequence = 1) as "created_at!"
               from events e "# + $rest,
            $($parameter),*
        )
    };
}

/// The last event of a stream, and the time of its first.
#[derive(Debug, Clone)]
pub struct LastEvent<E> {
    pub event: E,
    pub position: i64,
    pub sequence: i64,
    pub recorded_at: DateTime<Utc>,
    /// The time of the stream's first event.
    pub created_at: DateTime<Utc>,
}

/// The position of the last event in the log; 0 when the log is empty.
pub async fn head(executor: impl PgExecutor<'_>) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(r#"select coalesce(max(position), 0) as "head!" from events"#)
        .fetch_one(executor)
        .await
}

/// The same on a standby; `None` if the server is not in recovery.
pub async fn head_of_standby(executor: impl PgExecutor<'_>) -> Result<Option<i64>, sqlx::Error> {
    let shown = sqlx::query!(
        r#"select pg_is_in_recovery() as "in_recovery!", coalesce(max(position), 0) as "head!"
           from events"#
    )
    .fetch_one(executor)
    .await?;
    Ok(shown.in_recovery.then_some(shown.head))
}

/// What tells one log from another: command and time of the event at that position.
pub async fn identity(
    executor: impl PgExecutor<'_>,
    position: i64,
) -> Result<Option<(Uuid, DateTime<Utc>)>, sqlx::Error> {
    let event = sqlx::query!(
        r#"select command_id as "command_id!", recorded_at from events where position = $1"#,
        position
    )
    .fetch_optional(executor)
    .await?;
    Ok(event.map(|event| (event.command_id, event.recorded_at)))
}

/// How long ago the event at that position was recorded, by the clock of the server; zero without it.
pub async fn age(executor: impl PgExecutor<'_>, position: i64) -> Result<Duration, sqlx::Error> {
    let seconds = sqlx::query_scalar!(
        r#"select extract(epoch from clock_timestamp() - recorded_at)::float8 as "seconds!"
           from events where position = $1"#,
        position
    )
    .fetch_optional(executor)
    .await?;
    Ok(seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or_default())
}

/// Whether the log has an event of any customer.
pub async fn has_customers(executor: impl PgExecutor<'_>) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select exists (select from events where aggregate_type = $1) as "exists!""#,
        CUSTOMER
    )
    .fetch_one(executor)
    .await
}

/// The actor of the first event; `None` without an event or its actor.
pub async fn first_actor(executor: impl PgExecutor<'_>) -> Result<Option<String>, sqlx::Error> {
    let actor = sqlx::query_scalar!(
        "select coalesce(metadata ->> 'actor', '') as actor from events where position = 1"
    )
    .fetch_optional(executor)
    .await?;
    Ok(actor.flatten())
}

/// A row of [`last_event!`].
struct LastRow {
    aggregate_id: String,
    position: i64,
    sequence: i64,
    recorded_at: DateTime<Utc>,
    event_type: String,
    event_version: String,
    payload: String,
    created_at: DateTime<Utc>,
}

impl LastRow {
    fn decode<E: DeserializeOwned>(&self) -> Result<LastEvent<E>, ReadError> {
        Ok(LastEvent {
            event: decode(&self.event_type, &self.event_version, &self.payload)?,
            position: self.position,
            sequence: self.sequence,
            recorded_at: self.recorded_at,
            created_at: self.created_at,
        })
    }
}

/// The last event of a stream; `None` if the stream is empty.
pub async fn last_event<E: DeserializeOwned>(
    executor: impl PgExecutor<'_>,
    aggregate_type: &str,
    aggregate_id: &str,
) -> Result<Option<LastEvent<E>>, ReadError> {
    let row = last_event!(
        "where e.aggregate_type = $1 and e.aggregate_id = $2
           order by e.sequence desc
           limit 1",
        aggregate_type,
        aggregate_id
    )
    .fetch_optional(executor)
    .await?;
    row.map(|row| row.decode()).transpose()
}

/// The event at `position` and its aggregate's id; `RowNotFound` if that type has no event there.
pub async fn event_at<E: DeserializeOwned>(
    executor: impl PgExecutor<'_>,
    aggregate_type: &str,
    position: i64,
) -> Result<(String, LastEvent<E>), ReadError> {
    let row =
        last_event!("where e.position = $1 and e.aggregate_type = $2", position, aggregate_type)
            .fetch_one(executor)
            .await?;
    let last = row.decode()?;
    Ok((row.aggregate_id, last))
}

/// Up to `limit` events after the position `after`, in the order of their positions.
pub async fn page(
    executor: impl PgExecutor<'_>,
    after: i64,
    limit: i64,
) -> Result<Vec<StoredEvent>, sqlx::Error> {
    fetch_events!(
        executor,
        "where position > $1
           order by position
           limit $2",
        after,
        limit
    )
}

/// Up to `limit` events after the position `after` that change sessions
/// ([`AccountEvent::changes_sessions`](crate::events::account::AccountEvent::changes_sessions)), in the
/// order of their positions.
pub async fn of_sessions(
    executor: impl PgExecutor<'_>,
    after: i64,
    limit: i64,
) -> Result<Vec<StoredEvent>, sqlx::Error> {
    // The condition of the index events_of_sessions, word for word, so that PostgreSQL uses the index.
    fetch_events!(
        executor,
        "where aggregate_type = 'account' and event_type in (
               'SessionBound', 'SessionClosed', 'TokenReplayDetected',
               'PasswordChanged', 'RoleChanged', 'AccountDisabled', 'ServiceKeyRevoked'
           ) and position > $1
           order by position
           limit $2",
        after,
        limit
    )
}

/// The last position of the log `seconds` ago; 0 if the log was empty then.
pub async fn position_before(
    executor: impl PgExecutor<'_>,
    seconds: i64,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select coalesce(position_at(clock_timestamp() - $1::bigint * interval '1 second'), 0)
               as "position!""#,
        seconds
    )
    .fetch_one(executor)
    .await
}

/// Up to `limit` events of customers, stream by stream: after the event with the aggregate id `after` and
/// that sequence, with aggregate ids before `to`, up to `position`.
pub async fn streams(
    executor: impl PgExecutor<'_>,
    (after, sequence): (&str, i64),
    to: &str,
    position: i64,
    limit: i64,
) -> Result<Vec<StoredEvent>, sqlx::Error> {
    fetch_events!(
        executor,
        "where aggregate_type = $1 and (aggregate_id, sequence) > ($2, $3) and aggregate_id < $4
             and position <= $5
           order by aggregate_id, sequence
           limit $6",
        CUSTOMER,
        after,
        sequence,
        to,
        position,
        limit
    )
}

/// The events of a customer from position `from` to position `to`, both included, oldest first.
pub async fn stream(
    executor: impl PgExecutor<'_>,
    id: CustomerId,
    (from, to): (i64, i64),
) -> Result<Vec<StoredEvent>, sqlx::Error> {
    fetch_events!(
        executor,
        "where aggregate_type = $1 and aggregate_id = $2 and position between $3 and $4
           order by sequence",
        CUSTOMER,
        id.to_string(),
        from,
        to
    )
}

/// The position of the last event recorded up to `moment` (migration 0007); `None` when the moment is
/// in the future.
pub async fn position_at(
    executor: impl PgExecutor<'_>,
    moment: DateTime<Utc>,
) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar!("select position_at($1)", moment).fetch_one(executor).await
}

/// Position and time of each event of a customer, by sequence from 1.
pub async fn positions(
    executor: impl PgExecutor<'_>,
    id: CustomerId,
) -> Result<Vec<(i64, DateTime<Utc>)>, sqlx::Error> {
    let rows = sqlx::query!(
        "select position, recorded_at from events
         where aggregate_type = $1 and aggregate_id = $2
         order by sequence",
        CUSTOMER,
        id.to_string()
    )
    .fetch_all(executor)
    .await?;
    Ok(rows.into_iter().map(|row| (row.position, row.recorded_at)).collect())
}

/// Up to `limit` events of an aggregate after the sequence `after`, in the order of their sequences.
pub(super) async fn stream_page(
    executor: impl PgExecutor<'_>,
    aggregate_type: &str,
    aggregate_id: &str,
    after: i64,
    limit: i64,
) -> Result<Vec<StoredEvent>, sqlx::Error> {
    fetch_events!(
        executor,
        "where aggregate_type = $1 and aggregate_id = $2 and sequence > $3
         order by sequence
         limit $4",
        aggregate_type,
        aggregate_id,
        after,
        limit
    )
}

/// Up to `limit` events of one aggregate type after the position `after`, in the order of the log.
pub(super) async fn type_page(
    executor: impl PgExecutor<'_>,
    aggregate_type: &str,
    after: i64,
    limit: i64,
) -> Result<Vec<StoredEvent>, sqlx::Error> {
    fetch_events!(
        executor,
        "where aggregate_type = $1 and position > $2
         order by position
         limit $3",
        aggregate_type,
        after,
        limit
    )
}

/// Why the log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Decode(#[from] DecodeError),
}
