//! Restores a whole log into an empty installation, with the same positions, times and bytes.

use sqlx::{Connection as _, PgConnection};

use super::read::StoredEvent;
use crate::clock;
use crate::events::customer::CUSTOMER;
use crate::postgres::copy::CopyEncoder;

/// How many bytes go to PostgreSQL at a time.
const PIECE: usize = 64 * 1024;

/// Why a log was not restored. No event was written.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("the log is not empty: only an empty installation accepts another log")]
    NotEmpty,
    #[error("the sequences of {0} {1} have a gap")]
    SequenceGap(String, String),
    /// No command leads to such events.
    #[error("the events of customer {0} do not follow each other: {2} is number {1}")]
    Order(String, i64, String),
    #[error("cannot write to PostgreSQL: {0}")]
    Database(#[from] sqlx::Error),
}

/// Writes the events in one transaction, as the owner of the table. Their positions are 1, 2, 3 and so
/// on; the first error among them ends the restore. Command ids are new: only append recovery uses them.
pub async fn restore<E: From<RestoreError>>(
    connection: &mut PgConnection,
    events: impl Iterator<Item = Result<StoredEvent, E>>,
) -> Result<(), E> {
    let database = |error: sqlx::Error| E::from(error.into());
    let mut transaction = connection.begin().await.map_err(database)?;
    // The append lock (migration 10).
    sqlx::query!("lock table locks.append in exclusive mode")
        .execute(&mut *transaction)
        .await
        .map_err(database)?;
    if super::read::head(&mut *transaction).await.map_err(database)? > 0 {
        return Err(RestoreError::NotEmpty.into());
    }
    let statement = "copy events (position, aggregate_type, aggregate_id, sequence, event_type,
        event_version, payload, metadata, command_id, recorded_at) from stdin (format binary)";
    let mut sink = transaction.copy_in_raw(statement).await.map_err(database)?;
    let mut rows = CopyEncoder::default();
    for event in events {
        let encoded = event.and_then(|event| encode(&mut rows, &event).map_err(database));
        if let Err(error) = encoded {
            sink.abort("the log was rejected").await.map_err(database)?;
            return Err(error);
        }
        if rows.len() >= PIECE {
            sink.send(rows.take()).await.map_err(database)?;
        }
    }
    sink.send(rows.finish()).await.map_err(database)?;
    sink.finish().await.map_err(database)?;
    check_sequences(&mut transaction).await?;
    check_order(&mut transaction).await?;
    // The next block of ids begins after the largest id. PostgreSQL never rolls back a sequence, so this
    // comes after all checks.
    sqlx::query!(
        "select setval('customer_ids', max(aggregate_id::bigint)) from events
         where aggregate_type = $1 having count(*) > 0",
        CUSTOMER
    )
    .fetch_optional(&mut *transaction)
    .await
    .map_err(database)?;
    transaction.commit().await.map_err(database)
}

fn encode(rows: &mut CopyEncoder, event: &StoredEvent) -> Result<(), sqlx::Error> {
    rows.row(10);
    rows.field(event.position)?;
    rows.field(event.aggregate_type.as_str())?;
    rows.field(event.aggregate_id.as_str())?;
    rows.field(event.sequence)?;
    rows.field(event.event_type.as_str())?;
    rows.field(event.event_version.as_str())?;
    rows.field(event.payload.as_str())?;
    rows.field(event.metadata.as_str())?;
    rows.field(clock::new_id())?;
    rows.field(event.recorded_at)
}

async fn check_sequences(connection: &mut PgConnection) -> Result<(), RestoreError> {
    let gap = sqlx::query!(
        "select aggregate_type, aggregate_id from (
             select aggregate_type, aggregate_id, sequence,
                    row_number() over (partition by aggregate_type, aggregate_id order by position) as n
             from events
         ) numbered
         where sequence <> n limit 1"
    )
    .fetch_optional(connection)
    .await?;
    gap.map_or(Ok(()), |gap| Err(RestoreError::SequenceGap(gap.aggregate_type, gap.aggregate_id)))
}

/// A customer begins with its creation, is created once, and is neither updated nor deleted after it was
/// deleted.
async fn check_order(connection: &mut PgConnection) -> Result<(), RestoreError> {
    let wrong = sqlx::query!(
        "select aggregate_id, sequence, event_type from (
             select position, aggregate_id, sequence, event_type,
                    lag(event_type) over (partition by aggregate_id order by sequence) as previous
             from events where aggregate_type = $1
         ) followed
         where (event_type = 'CustomerCreated') <> (previous is null)
            or previous = 'CustomerDeleted'
         order by position limit 1",
        CUSTOMER
    )
    .fetch_optional(connection)
    .await?;
    wrong.map_or(Ok(()), |wrong| {
        Err(RestoreError::Order(wrong.aggregate_id, wrong.sequence, wrong.event_type))
    })
}
