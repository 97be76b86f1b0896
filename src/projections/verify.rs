//! Compares the served tables of a projection with the log.

use sqlx::{PgConnection, PgPool};

use super::parked::{self, Parked};
use super::streams::{END, Streams};
use super::tables::customer_key;
use super::{Place, Projection, ProjectionError, snapshot};

/// What a comparison found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Compared up to here.
    pub position: i64,
    /// The first difference, in words.
    pub difference: Option<String>,
    /// The customers that were left out, as their events wait.
    pub parked: Vec<Parked>,
}

/// Folds the log up to the checkpoint, customer by customer, and compares; all of one moment.
///
/// # Errors
/// When PostgreSQL cannot be asked or an event cannot be read.
pub async fn verify(
    projection: &dyn Projection,
    pool: &PgPool,
) -> Result<Verified, ProjectionError> {
    let (mut transaction, position) = snapshot::take(projection, pool).await?;
    let parked = parked::list(projection, &mut *transaction).await?;
    let difference = difference(projection, &mut transaction, position, &parked).await?;
    Ok(Verified { position, difference, parked })
}

async fn difference(
    projection: &dyn Projection,
    db: &mut PgConnection,
    position: i64,
    parked: &[Parked],
) -> Result<Option<String>, ProjectionError> {
    let mut streams = Streams::new("", END, position);
    let mut expected = 0;
    loop {
        let page = streams.next(db).await?;
        if page.is_empty() {
            break;
        }
        let page = parked::without_parked(projection, db, Place::Public, page).await?;
        let (rows, difference) = projection.compare(db, &page).await?;
        if difference.is_some() {
            return Ok(difference);
        }
        expected += rows;
    }
    let parked: Vec<i64> = parked.iter().map(|parked| parked.customer_id).collect();
    let mut rows = 0;
    for table in projection.tables() {
        rows += count(db, table, &parked).await?;
    }
    if rows == expected {
        return Ok(None);
    }
    for table in projection.tables() {
        if let Some(id) = stray(db, table, &parked).await? {
            return Ok(Some(format!("customer {id}: in the table, not in the log")));
        }
    }
    Ok(Some(format!("the tables have {rows} rows, the log leads to {expected}")))
}

/// How many rows a table has besides those of parked customers.
async fn count(db: &mut PgConnection, table: &str, parked: &[i64]) -> Result<i64, sqlx::Error> {
    let key = customer_key(db, table).await?;
    sqlx::query_scalar(&format!("select count(*) from {table} where {key} <> all($1)"))
        .bind(parked)
        .fetch_one(db)
        .await
}

/// A customer that has a row in the table and no event in the log.
async fn stray(
    db: &mut PgConnection,
    table: &str,
    parked: &[i64],
) -> Result<Option<i64>, sqlx::Error> {
    let key = customer_key(db, table).await?;
    sqlx::query_scalar(&format!(
        "select min({key}) from {table}
         where {key} <> all($1) and not exists (
             select from events where aggregate_type = 'customer' and aggregate_id = {key}::text)"
    ))
    .bind(parked)
    .fetch_one(db)
    .await
}
