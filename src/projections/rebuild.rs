//! Replays the log into a projection, and compares a projection with the log.

use sqlx::{Acquire as _, PgPool};

use super::projector::{checkpoint_of, set_checkpoint};
use super::{ALL, Projection, ProjectionError};
use crate::events::log::read;

/// How many events a rebuild takes over at a time; the larger, the fewer rows are written twice.
const PAGE: i64 = 10_000;

/// Where a projection stands.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Status {
    pub name: &'static str,
    pub checkpoint: i64,
    /// The position of the log's last event.
    pub head: i64,
    pub lag_events: i64,
    /// How long ago the first event was recorded that is not applied yet; 0 when all are.
    pub lag_seconds: f64,
}

/// Where every projection stands against the log's real head.
///
/// # Errors
/// When PostgreSQL cannot be asked.
pub async fn status(pool: &PgPool) -> Result<Vec<Status>, ProjectionError> {
    let mut all = Vec::with_capacity(ALL.len());
    for projection in ALL {
        // One statement, so one moment: a lag is never negative.
        let row = sqlx::query!(
            r#"select checkpoint,
                      coalesce((select max(position) from events), 0) as "head!",
                      coalesce(extract(epoch from clock_timestamp() - (
                          select recorded_at from events where position = checkpoint + 1
                      ))::float8, 0) as "lag_seconds!"
               from projections where name = $1 and version = $2"#,
            projection.name(),
            projection.version()
        )
        .fetch_optional(pool)
        .await?
        .ok_or(ProjectionError::Unknown(projection.name()))?;
        all.push(Status {
            name: projection.name(),
            checkpoint: row.checkpoint,
            head: row.head,
            lag_events: row.head - row.checkpoint,
            // Its time may be ahead of the clock by some microseconds.
            lag_seconds: row.lag_seconds.max(0.0),
        });
    }
    Ok(all)
}

/// Empties the projection and replays the whole log into it, in one transaction: readers see the
/// old rows until all new ones are there, and a rebuild that is stopped leaves nothing behind.
/// `progress` is told the position reached and the last one to reach. Returns the checkpoint.
///
/// # Errors
/// When PostgreSQL cannot be asked or an event cannot be taken over; nothing has changed then.
pub async fn rebuild(
    projection: &dyn Projection,
    pool: &PgPool,
    mut progress: impl FnMut(i64, i64),
) -> Result<i64, ProjectionError> {
    let mut transaction = pool.begin().await?;
    sqlx::query!(
        "select from projections where name = $1 and version = $2 for update",
        projection.name(),
        projection.version()
    )
    .fetch_optional(&mut *transaction)
    .await?
    .ok_or(ProjectionError::Unknown(projection.name()))?;
    projection.clear(&mut transaction).await?;
    let head = read::head(&mut *transaction).await?;
    let mut position = 0;
    loop {
        let page = read::page(&mut *transaction, position, PAGE).await?;
        let Some(last) = page.last() else { break };
        projection.apply(&mut transaction, &page).await?;
        position = last.position;
        progress(position, head.max(position));
    }
    set_checkpoint(&mut transaction, projection, position).await?;
    transaction.commit().await?;
    Ok(position)
}

/// Compares the live rows with a fold of the log up to the checkpoint, both of one moment.
/// Returns the checkpoint, and the first difference in words.
///
/// # Errors
/// When PostgreSQL cannot be asked or an event cannot be read.
pub async fn verify(
    projection: &dyn Projection,
    pool: &PgPool,
) -> Result<(i64, Option<String>), ProjectionError> {
    let mut connection = pool.acquire().await?;
    let mut transaction = connection.begin().await?;
    sqlx::query!("set transaction isolation level repeatable read, read only")
        .execute(&mut *transaction)
        .await?;
    let checkpoint = checkpoint_of(projection, &mut *transaction).await?;
    let difference = projection.difference(&mut transaction, checkpoint).await?;
    Ok((checkpoint, difference))
}
