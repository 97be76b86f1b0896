//! Appends a chunk of an import and stores the progress of the import, in one call of `import_customers`
//! (migration 0016).

use sqlx::PgExecutor;
use uuid::Uuid;

use super::NewEvent;
use super::payload::EncodedMetadata;
use crate::events::metadata::Metadata;
use crate::events::values::CustomerId;
use crate::postgres::Pool;

/// How many imports one step of the purge deletes.
const PURGE_STEP: i64 = 500;

/// Identifies an import: account, the client's import id, and the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportKey {
    pub account: String,
    pub id: String,
    /// SHA-256 of the file and its format.
    pub fingerprint: Vec<u8>,
}

/// The progress of an import.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// The number of the last line that is done.
    pub lines_done: i64,
    pub created: i64,
    /// The position of its last event; 0 without one.
    pub last_position: i64,
    /// How many events other commands appended between the last chunk of any import and this chunk.
    pub concurrent: i64,
}

/// Why a chunk was not appended.
#[derive(Debug, thiserror::Error)]
pub enum ChunkError {
    #[error("the import id was used for another file")]
    FileMismatch,
    /// Nothing was appended; the caller retries with other ids.
    #[error("a customer id is taken")]
    IdTaken,
    /// The chunk may have been appended; the caller finds out when it sends the chunk again.
    #[error(transparent)]
    Database(sqlx::Error),
}

impl From<sqlx::Error> for ChunkError {
    fn from(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
        match code.as_deref() {
            Some("CU001") => Self::FileMismatch,
            Some("CU002") => Self::IdTaken,
            _ => Self::Database(error),
        }
    }
}

/// The stored progress of an import; zero for an unknown one.
pub async fn progress(
    executor: impl PgExecutor<'_>,
    key: &ImportKey,
) -> Result<Progress, ChunkError> {
    let row = sqlx::query!(
        "select fingerprint, lines_done, created, last_position from imports
         where account = $1 and import_id = $2",
        key.account,
        key.id
    )
    .fetch_optional(executor)
    .await?;
    let Some(row) = row else { return Ok(Progress::default()) };
    if row.fingerprint != key.fingerprint {
        return Err(ChunkError::FileMismatch);
    }
    Ok(Progress {
        lines_done: row.lines_done,
        created: row.created,
        last_position: row.last_position,
        concurrent: 0,
    })
}

/// The customer of a line.
pub struct Create<'a> {
    pub line: i64,
    pub id: CustomerId,
    pub event: &'a NewEvent,
}

/// Appends a chunk of creates and moves the import from line `before` to line `after`; appends nothing
/// when the import is at another line. A line whose external id is taken is passed over, and kept for
/// [`taken`]. Returns its progress.
pub async fn append_chunk(
    executor: impl PgExecutor<'_>,
    key: &ImportKey,
    (before, after): (i64, i64),
    creates: &[Create<'_>],
    metadata: &Metadata,
) -> Result<Progress, ChunkError> {
    let Some(first) = creates.first() else { return progress(executor, key).await };
    let command_ids: Vec<Uuid> = creates.iter().map(|_| crate::clock::new_id()).collect();
    let aggregate_ids: Vec<String> = creates.iter().map(|create| create.id.to_string()).collect();
    let payloads: Vec<&str> = creates.iter().map(|create| create.event.payload.as_str()).collect();
    let lines: Vec<i64> = creates.iter().map(|create| create.line).collect();
    let metadata = EncodedMetadata::from(metadata);
    let row = sqlx::query!(
        r#"select lines_done as "lines_done!", created as "created!",
                  last_position as "last_position!", others as "others!"
           from import_customers($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"#,
        key.account,
        key.id,
        key.fingerprint,
        before,
        after,
        &command_ids,
        &aggregate_ids,
        first.event.event_type.as_ref(),
        first.event.event_version.as_ref(),
        &payloads as &[&str],
        metadata.as_str(),
        &lines
    )
    .fetch_one(executor)
    .await?;
    Ok(Progress {
        lines_done: row.lines_done,
        created: row.created,
        last_position: row.last_position,
        concurrent: row.others,
    })
}

/// The lines from `first` to `last` whose external ids were taken, each with the customer that had the id.
pub async fn taken(
    executor: impl PgExecutor<'_>,
    key: &ImportKey,
    first: i64,
    last: i64,
) -> Result<Vec<(i64, CustomerId)>, ChunkError> {
    let rows = sqlx::query!(
        "select line, customer_id from taken_external_ids
         where account = $1 and import_id = $2 and line between $3 and $4
         order by line",
        key.account,
        key.id,
        first,
        last
    )
    .fetch_all(executor)
    .await?;
    let customer = |id| CustomerId::new(id).unwrap_or(CustomerId::MAX);
    Ok(rows.into_iter().map(|row| (row.line, customer(row.customer_id))).collect())
}

/// Deletes the progress of an import.
pub async fn delete_progress(pool: &Pool, key: &ImportKey) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "delete from imports where account = $1 and import_id = $2 and fingerprint = $3",
        key.account,
        key.id,
        key.fingerprint
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Deletes imports that were not continued for a week, step by step.
pub async fn purge(pool: &Pool) -> Result<(), sqlx::Error> {
    loop {
        let deleted = sqlx::query!(
            "delete from imports where (account, import_id) in (
                 select account, import_id from imports
                 where updated_at < now() - interval '7 days'
                 order by updated_at limit $1
             )",
            PURGE_STEP
        )
        .execute(pool)
        .await?
        .rows_affected();
        if i64::try_from(deleted).is_ok_and(|deleted| deleted < PURGE_STEP) {
            return Ok(());
        }
    }
}
