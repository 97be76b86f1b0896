//! Snapshots: rows and checkpoint of one moment. The rows show at least the checkpoint that is read with
//! them, even after a crash of PostgreSQL that lost the last pages.

use std::ops::{Deref, DerefMut};

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, Postgres, Transaction};

use super::checkpoint::checkpoint_of;
use super::projection::{Projection, ProjectionError};
use crate::postgres::Pool;
use crate::postgres::transaction;

/// A connection to read from.
pub enum Reader {
    /// Each statement sees the commits before its own start.
    Plain(PoolConnection<Postgres>),
    /// All statements see the same snapshot.
    Snapshot(Transaction<'static, Postgres>),
}

impl Deref for Reader {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        match self {
            Self::Plain(connection) => connection,
            Self::Snapshot(transaction) => transaction,
        }
    }
}

impl DerefMut for Reader {
    fn deref_mut(&mut self) -> &mut PgConnection {
        match self {
            Self::Plain(connection) => connection,
            Self::Snapshot(transaction) => transaction,
        }
    }
}

/// A snapshot of a projection, and its checkpoint in that snapshot.
pub async fn take(
    projection: &dyn Projection,
    pool: &Pool,
) -> Result<(Transaction<'static, Postgres>, i64), ProjectionError> {
    let begin = "begin isolation level repeatable read, read only";
    let mut transaction = transaction::begin_with(pool, begin).await?;
    // The table is locked before the snapshot is taken: a rebuild that swaps in another table after
    // the snapshot would show rows that the snapshot cannot see.
    let table = projection.table();
    sqlx::query(&format!("lock table {table} in access share mode"))
        .execute(&mut *transaction)
        .await?;
    let checkpoint = checkpoint_of(projection, &mut *transaction).await?;
    Ok((transaction, checkpoint))
}

/// A reader that shows at least `position`; without a position, any state. `None` if the projection has
/// not applied the position.
pub async fn showing(
    projection: &dyn Projection,
    pool: &Pool,
    position: Option<i64>,
) -> Result<Option<Reader>, ProjectionError> {
    let Some(position) = position else {
        return Ok(Some(Reader::Plain(pool.acquire().await?)));
    };
    let (transaction, checkpoint) = take(projection, pool).await?;
    Ok((checkpoint >= position).then_some(Reader::Snapshot(transaction)))
}
