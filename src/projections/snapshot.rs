//! Rows and checkpoint of one moment: what is read shows at least the checkpoint that stands beside
//! it, also behind a crash that took the last pages with it.

use std::ops::{Deref, DerefMut};

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, PgPool, Postgres, Transaction};

use super::checkpoint::checkpoint_of;
use super::{Projection, ProjectionError};
use crate::transaction;

/// A connection to read from.
pub enum Reader {
    /// Each statement sees what is there when it begins.
    Plain(PoolConnection<Postgres>),
    /// All statements see the same moment.
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

/// One moment of a projection, and its checkpoint then.
///
/// # Errors
/// When PostgreSQL cannot be asked.
pub async fn take(
    projection: &dyn Projection,
    pool: &PgPool,
) -> Result<(Transaction<'static, Postgres>, i64), ProjectionError> {
    let begin = "begin isolation level repeatable read, read only";
    let mut transaction = transaction::begin_with(pool, begin).await?;
    // The tables are locked before the moment is chosen: the rows of tables that a rebuild puts in
    // their place behind it would be of no earlier one.
    let tables = projection.tables().join(", ");
    sqlx::query(&format!("lock table {tables} in access share mode"))
        .execute(&mut *transaction)
        .await?;
    let checkpoint = checkpoint_of(projection, &mut *transaction).await?;
    Ok((transaction, checkpoint))
}

/// A moment in which the projection has applied `position`; any if none is asked for; `None` if it
/// has not.
///
/// # Errors
/// When PostgreSQL cannot be asked.
pub async fn showing(
    projection: &dyn Projection,
    pool: &PgPool,
    position: Option<i64>,
) -> Result<Option<Reader>, ProjectionError> {
    let Some(position) = position else {
        return Ok(Some(Reader::Plain(pool.acquire().await?)));
    };
    let (transaction, checkpoint) = take(projection, pool).await?;
    Ok((checkpoint >= position).then_some(Reader::Snapshot(transaction)))
}
