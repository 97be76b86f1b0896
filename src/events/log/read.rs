//! Ways to read the log back. Every query names the position or the stream it starts from; none
//! sorts.

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use sqlx::PgExecutor;

use super::payload::{DecodeError, decode};
use crate::events::customer::{CUSTOMER, CustomerEvent};
use crate::events::metadata::Metadata;
use crate::events::values::CustomerId;

/// An event as it stands in the log.
#[derive(Debug, Clone)]
pub struct StoredEvent {
    pub position: i64,
    pub aggregate_type: String,
    pub aggregate_id: String,
    pub sequence: i64,
    pub event_type: String,
    pub event_version: String,
    pub payload: String,
    pub metadata: String,
    pub recorded_at: DateTime<Utc>,
}

impl StoredEvent {
    /// The event itself.
    ///
    /// # Errors
    /// When it is none that this program knows.
    pub fn decode<E: DeserializeOwned>(&self) -> Result<E, DecodeError> {
        decode(&self.event_type, &self.event_version, &self.payload)
    }

    /// Who, from where and why.
    ///
    /// # Errors
    /// When it is no flat object of strings.
    pub fn metadata(&self) -> Result<Metadata, DecodeError> {
        Ok(serde_json::from_str(&self.metadata)?)
    }

    /// Whose event it is, if a customer's.
    #[must_use]
    pub fn customer(&self) -> Option<CustomerId> {
        (self.aggregate_type == CUSTOMER)
            .then(|| CustomerId::parse(&self.aggregate_id).ok())
            .flatten()
    }
}

/// A customer's last event and what else an answer tells of it.
#[derive(Debug, Clone)]
pub struct LastEvent {
    pub event: CustomerEvent,
    pub position: i64,
    pub sequence: i64,
    pub recorded_at: DateTime<Utc>,
    /// The time of the customer's first event.
    pub created_at: DateTime<Utc>,
}

/// The position of the last event in the log; 0 when there is none.
///
/// # Errors
/// When PostgreSQL cannot be asked.
pub async fn head(executor: impl PgExecutor<'_>) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(r#"select coalesce(max(position), 0) as "head!" from events"#)
        .fetch_one(executor)
        .await
}

/// Whether any customer was ever created here.
///
/// # Errors
/// When PostgreSQL cannot be asked.
pub async fn has_customers(executor: impl PgExecutor<'_>) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select exists (select from events where aggregate_type = $1) as "exists!""#,
        CUSTOMER
    )
    .fetch_one(executor)
    .await
}

/// The customer's last event, or `None` if it was never created.
///
/// # Errors
/// When PostgreSQL cannot be asked or the event cannot be read.
pub async fn last_event(
    executor: impl PgExecutor<'_>,
    id: CustomerId,
) -> Result<Option<LastEvent>, ReadError> {
    let row = sqlx::query!(
        r#"select e.position, e.sequence, e.recorded_at, e.event_type, e.event_version,
                  e.payload::text as "payload!",
                  (select f.recorded_at from events f
                   where f.aggregate_type = e.aggregate_type and f.aggregate_id = e.aggregate_id
                     and f.sequence = 1) as "created_at!"
           from events e
           where e.aggregate_type = $1 and e.aggregate_id = $2
           order by e.sequence desc
           limit 1"#,
        CUSTOMER,
        id.to_string()
    )
    .fetch_optional(executor)
    .await?;
    row.map(|row| {
        Ok(LastEvent {
            event: decode(&row.event_type, &row.event_version, &row.payload)?,
            position: row.position,
            sequence: row.sequence,
            recorded_at: row.recorded_at,
            created_at: row.created_at,
        })
    })
    .transpose()
}

/// Whose event stands at `position`, and the customer as it left it.
///
/// # Errors
/// When PostgreSQL cannot be asked, no customer's event stands there or it cannot be read.
pub async fn customer_at(
    executor: impl PgExecutor<'_>,
    position: i64,
) -> Result<(CustomerId, LastEvent), ReadError> {
    let row = sqlx::query!(
        r#"select e.aggregate_id, e.sequence, e.recorded_at, e.event_type, e.event_version,
                  e.payload::text as "payload!",
                  (select f.recorded_at from events f
                   where f.aggregate_type = e.aggregate_type and f.aggregate_id = e.aggregate_id
                     and f.sequence = 1) as "created_at!"
           from events e
           where e.position = $1 and e.aggregate_type = $2"#,
        position,
        CUSTOMER
    )
    .fetch_one(executor)
    .await?;
    let id = CustomerId::parse(&row.aggregate_id)
        .map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    let last = LastEvent {
        event: decode(&row.event_type, &row.event_version, &row.payload)?,
        position,
        sequence: row.sequence,
        recorded_at: row.recorded_at,
        created_at: row.created_at,
    };
    Ok((id, last))
}

/// Up to `limit` events behind `after`, in the order of their positions.
///
/// # Errors
/// When PostgreSQL cannot be asked.
pub async fn page(
    executor: impl PgExecutor<'_>,
    after: i64,
    limit: i64,
) -> Result<Vec<StoredEvent>, sqlx::Error> {
    sqlx::query_as!(
        StoredEvent,
        r#"select position, aggregate_type, aggregate_id, sequence, event_type, event_version,
                  payload::text as "payload!", metadata::text as "metadata!", recorded_at
           from events
           where position > $1
           order by position
           limit $2"#,
        after,
        limit
    )
    .fetch_all(executor)
    .await
}

/// Up to `limit` events behind `after` that end or bind sessions, in the order of their positions.
///
/// # Errors
/// When PostgreSQL cannot be asked.
pub async fn of_sessions(
    executor: impl PgExecutor<'_>,
    after: i64,
    limit: i64,
) -> Result<Vec<StoredEvent>, sqlx::Error> {
    // Word for word the condition of the index events_of_sessions.
    sqlx::query_as!(
        StoredEvent,
        r#"select position, aggregate_type, aggregate_id, sequence, event_type, event_version,
                  payload::text as "payload!", metadata::text as "metadata!", recorded_at
           from events
           where aggregate_type = 'account' and event_type in (
               'SessionBound', 'SessionClosed', 'TokenReplayDetected',
               'PasswordChanged', 'RoleChanged', 'AccountDisabled'
           ) and position > $1
           order by position
           limit $2"#,
        after,
        limit
    )
    .fetch_all(executor)
    .await
}

/// The last position of the log `seconds` ago; 0 if it was empty.
///
/// # Errors
/// When PostgreSQL cannot be asked.
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

/// Up to `limit` events of customers, stream by stream: behind the event of that aggregate and
/// sequence, of aggregates before `to`, not behind `position`.
///
/// # Errors
/// When PostgreSQL cannot be asked.
pub async fn streams(
    executor: impl PgExecutor<'_>,
    (behind, sequence): (&str, i64),
    to: &str,
    position: i64,
    limit: i64,
) -> Result<Vec<StoredEvent>, sqlx::Error> {
    sqlx::query_as!(
        StoredEvent,
        r#"select position, aggregate_type, aggregate_id, sequence, event_type, event_version,
                  payload::text as "payload!", metadata::text as "metadata!", recorded_at
           from events
           where aggregate_type = $1 and (aggregate_id, sequence) > ($2, $3) and aggregate_id < $4
             and position <= $5
           order by aggregate_id, sequence
           limit $6"#,
        CUSTOMER,
        behind,
        sequence,
        to,
        position,
        limit
    )
    .fetch_all(executor)
    .await
}

/// The events of a customer from `from` to `to`, oldest first.
///
/// # Errors
/// When PostgreSQL cannot be asked.
pub async fn stream(
    executor: impl PgExecutor<'_>,
    id: CustomerId,
    (from, to): (i64, i64),
) -> Result<Vec<StoredEvent>, sqlx::Error> {
    sqlx::query_as!(
        StoredEvent,
        r#"select position, aggregate_type, aggregate_id, sequence, event_type, event_version,
                  payload::text as "payload!", metadata::text as "metadata!", recorded_at
           from events
           where aggregate_type = $1 and aggregate_id = $2 and position between $3 and $4
           order by sequence"#,
        CUSTOMER,
        id.to_string(),
        from,
        to
    )
    .fetch_all(executor)
    .await
}

/// The position of the last event recorded up to `moment` (migration 0007); `None` when the moment
/// has not come yet.
///
/// # Errors
/// When PostgreSQL cannot be asked.
pub async fn position_at(
    executor: impl PgExecutor<'_>,
    moment: DateTime<Utc>,
) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar!("select position_at($1)", moment).fetch_one(executor).await
}

/// Where and when each event of a customer was recorded, by sequence from 1.
///
/// # Errors
/// When PostgreSQL cannot be asked.
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

/// Why the log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Decode(#[from] DecodeError),
}
