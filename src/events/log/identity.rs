//! The identities that the log had and has (migration 0012). A restored backup has the identity of the log
//! that was backed up, until the operator restarts the log.

use chrono::{DateTime, Utc};
use sqlx::{Connection as _, PgConnection, PgExecutor};
use uuid::Uuid;

use super::read;
use crate::clock;

/// One identity of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub id: Uuid,
    pub started_at: DateTime<Utc>,
    /// When it was replaced; `None` for the current one.
    pub ended_at: Option<DateTime<Utc>>,
    /// The last position of the log when it was replaced.
    pub last_position: Option<i64>,
}

/// All identities, the oldest first; the last one is the current one.
pub async fn list(executor: impl PgExecutor<'_>) -> Result<Vec<Identity>, sqlx::Error> {
    sqlx::query_as!(
        Identity,
        "select id, started_at, ended_at, last_position from log_identities
         order by ended_at nulls last"
    )
    .fetch_all(executor)
    .await
}

/// The last position that a replaced identity has in common with the current log; `None` for an id that is
/// unknown or current.
pub async fn last_position(
    executor: impl PgExecutor<'_>,
    id: Uuid,
) -> Result<Option<i64>, sqlx::Error> {
    let position =
        sqlx::query_scalar!("select last_position from log_identities where id = $1", id)
            .fetch_optional(executor)
            .await?;
    Ok(position.flatten())
}

/// Gives the log a new identity, as the owner of the table, and records the end of the old one. Returns the
/// old one, if the log had one, and the new one. A copy of single tables has none.
pub async fn restart(
    connection: &mut PgConnection,
) -> Result<(Option<Identity>, Identity), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    // The append lock (migration 10), so that no event is appended between the position and the new id.
    sqlx::query!("lock table locks.append in exclusive mode").execute(&mut *transaction).await?;
    let head = read::head(&mut *transaction).await?;
    let old = sqlx::query_as!(
        Identity,
        "update log_identities set ended_at = clock_timestamp(), last_position = $1
         where ended_at is null returning id, started_at, ended_at, last_position",
        head
    )
    .fetch_optional(&mut *transaction)
    .await?;
    let new = sqlx::query_as!(
        Identity,
        "insert into log_identities (id, started_at) values ($1, clock_timestamp())
         returning id, started_at, ended_at, last_position",
        clock::new_id()
    )
    .fetch_one(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok((old, new))
}
