//! Compares the served table of a projection with the log.

use std::time::Duration;

use tokio::time::Instant;

use super::checkpoint::checkpoint_of;
use super::parked::{self, Parked};
use super::projection::{Projection, ProjectionError};
use super::reader::take_snapshot;
use super::stream_reader::{END, StreamReader};
use super::table_slot::TableSlot;
use crate::events::log::read;
use crate::postgres::{Connection, Pool};

/// How long a projection that does not move is waited for.
const STILL_LIMIT: Duration = Duration::from_secs(2);

/// How often its checkpoint is read.
const POLL: Duration = Duration::from_millis(50);

/// The result of a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The position up to which table and log were compared.
    pub position: i64,
    /// A text on the first difference; `None` if there is none.
    pub difference: Option<String>,
    /// The parked customers, which were excluded.
    pub parked: Vec<Parked>,
}

/// Waits until the projection has applied the log up to its present head, for as long as the projection
/// moves: its lag behind a log that grows is not a difference. Returns that head.
pub async fn wait_until_applied(
    projection: &dyn Projection,
    pool: &Pool,
) -> Result<i64, ProjectionError> {
    let head = read::head(pool).await?;
    let (mut last, mut moved) = (-1, Instant::now());
    loop {
        let checkpoint = checkpoint_of(projection, pool).await?;
        if checkpoint != last {
            (last, moved) = (checkpoint, Instant::now());
        }
        if checkpoint >= head || moved.elapsed() > STILL_LIMIT {
            return Ok(head);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Folds the log up to the checkpoint, stream by stream, and compares the rows with the table, all in one
/// snapshot.
pub async fn verify(projection: &dyn Projection, pool: &Pool) -> Result<Verified, ProjectionError> {
    let (mut transaction, position) = take_snapshot(projection, pool).await?;
    let parked = parked::list(projection, &mut *transaction).await?;
    let difference = difference(projection, &mut transaction, position, &parked).await?;
    Ok(Verified { position, difference, parked })
}

async fn difference(
    projection: &dyn Projection,
    db: &mut Connection,
    position: i64,
    parked: &[Parked],
) -> Result<Option<String>, ProjectionError> {
    let mut streams = StreamReader::new("", END, position);
    let mut expected = 0;
    loop {
        let page = streams.next(db).await?;
        if page.is_empty() {
            break;
        }
        let page = parked::exclude_parked(projection, db, TableSlot::Live, page).await?;
        let (rows, difference) = projection.compare(db, &page).await?;
        if difference.is_some() {
            return Ok(difference);
        }
        expected += rows;
    }
    let parked: Vec<i64> = parked.iter().map(|parked| parked.customer_id).collect();
    let rows = count(projection, db, &parked).await?;
    if rows == expected {
        return Ok(None);
    }
    Ok(Some(match stray(projection, db, &parked).await? {
        Some(id) => format!("customer {id}: in the table, not in the log"),
        None => format!("the table has {rows} rows, the log has {expected}"),
    }))
}

/// The number of rows of the table, without those of parked customers.
async fn count(
    projection: &dyn Projection,
    db: &mut Connection,
    parked: &[i64],
) -> Result<i64, sqlx::Error> {
    let (table, key) = (projection.table(), projection.key()[0]);
    sqlx::query_scalar(&format!("select count(*) from {table} where {key} <> all($1)"))
        .bind(parked)
        .fetch_one(db)
        .await
}

/// A customer with a row in the table and without an event in the log.
async fn stray(
    projection: &dyn Projection,
    db: &mut Connection,
    parked: &[i64],
) -> Result<Option<i64>, sqlx::Error> {
    let (table, key) = (projection.table(), projection.key()[0]);
    sqlx::query_scalar(&format!(
        "select min({key}) from {table}
         where {key} <> all($1) and not exists (
             select from events where aggregate_type = 'customer' and aggregate_id = {key}::text)"
    ))
    .bind(parked)
    .fetch_one(db)
    .await
}
