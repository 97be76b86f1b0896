//! What a state of a projection's table is known by: the position that it shows, for readers that go on with
//! the log, and what is never the same for two states, for readers that have one already.

use sqlx::PgExecutor;
use uuid::Uuid;

use super::projection::{Projection, ProjectionError};

/// A state of a projection's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The projection's version: another one has other rows.
    pub version: i32,
    /// The checkpoint: the table shows the log up to it, but for parked customers.
    pub position: i64,
    /// The transaction that wrote the checkpoint. A rebuild, a rollback and the retry of parked customers write it,
    /// too, so this differs where rows have changed and the position has not.
    pub change: i64,
    /// The log, because a restored one may reach the position again; `None` in a copy of single tables.
    pub log: Option<Uuid>,
}

/// The mark of the state that `executor` shows: of the rows, if it is a snapshot.
pub async fn mark_of(
    projection: &dyn Projection,
    executor: impl PgExecutor<'_>,
) -> Result<Mark, ProjectionError> {
    let found = sqlx::query!(
        r#"select checkpoint as position, xmin::text::bigint as "change!",
                  (select id from log_identities where ended_at is null) as log
           from projections where name = $1 and version = $2"#,
        projection.name(),
        projection.version()
    )
    .fetch_optional(executor)
    .await?
    .ok_or(ProjectionError::NotRegistered(projection.name()))?;
    let version = projection.version();
    Ok(Mark { version, position: found.position, change: found.change, log: found.log })
}
