//! Restores a whole log into an empty installation, with the same positions, times and bytes.

use sqlx::{Connection as _, PgConnection};

use super::StoredEvent;
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
    /// The position of an event that does not belong there, and the problem.
    #[error("position {0}: {1}")]
    Event(i64, String),
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
            sink.send(rows.take()).await.map_err(|error| E::from(refused(error)))?;
        }
    }
    sink.send(rows.finish()).await.map_err(database)?;
    sink.finish().await.map_err(|error| E::from(refused(error)))?;
    check_sequences(&mut transaction).await?;
    check_order(&mut transaction).await?;
    check_external_ids(&mut transaction).await?;
    // The table of external ids (migration 16).
    sqlx::query!("select keep_external_ids(0)")
        .fetch_one(&mut *transaction)
        .await
        .map_err(database)?;
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

/// Names the event that PostgreSQL refuses: its context is `COPY events, line 3`, and row 3 has position 3.
fn refused(error: sqlx::Error) -> RestoreError {
    let position = error
        .as_database_error()
        .and_then(|error| error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>())
        .and_then(|error| error.r#where()?.strip_prefix("COPY events, line "))
        .and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok());
    match position {
        Some(position) => RestoreError::Event(position, error.to_string()),
        None => error.into(),
    }
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
        "select position, aggregate_type, aggregate_id from (
             select position, aggregate_type, aggregate_id, sequence,
                    row_number() over (partition by aggregate_type, aggregate_id order by position) as n
             from events
         ) numbered
         where sequence <> n order by position limit 1"
    )
    .fetch_optional(connection)
    .await?;
    gap.map_or(Ok(()), |gap| {
        let (kind, id) = (gap.aggregate_type, gap.aggregate_id);
        Err(RestoreError::Event(gap.position, format!("the sequences of {kind} {id} have a gap")))
    })
}

/// A customer begins with its creation, is created once, and is only restored after it was deleted.
async fn check_order(connection: &mut PgConnection) -> Result<(), RestoreError> {
    let wrong = sqlx::query!(
        "select position, aggregate_id, sequence, event_type from (
             select position, aggregate_id, sequence, event_type,
                    lag(event_type) over (partition by aggregate_id order by sequence) as previous
             from events where aggregate_type = $1
         ) followed
         where (event_type = 'CustomerCreated') <> (previous is null)
            or previous = 'CustomerDeleted' and event_type <> 'CustomerRestored'
         order by position limit 1",
        CUSTOMER
    )
    .fetch_optional(connection)
    .await?;
    wrong.map_or(Ok(()), |wrong| {
        let (id, event, number) = (wrong.aggregate_id, wrong.event_type, wrong.sequence);
        let problem = format!(
            "the events of customer {id} do not follow each other: {event} is number {number}"
        );
        Err(RestoreError::Event(wrong.position, problem))
    })
}

/// No two customers that are there have the same external id.
async fn check_external_ids(connection: &mut PgConnection) -> Result<(), RestoreError> {
    let shared = sqlx::query!(
        r#"select max(position) as "position!", external_id as "external_id!" from (
             select distinct on (aggregate_id) position, payload ->> 'external_id' as external_id
             from events where aggregate_type = $1 order by aggregate_id, sequence desc
         ) last
         where external_id is not null
         group by external_id having count(*) > 1
         order by 1 limit 1"#,
        CUSTOMER
    )
    .fetch_optional(connection)
    .await?;
    shared.map_or(Ok(()), |shared| {
        let problem = format!("two customers have the external id {}", shared.external_id);
        Err(RestoreError::Event(shared.position, problem))
    })
}
