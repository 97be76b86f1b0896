//! What the table of a projection is read from. With a position it is a snapshot, rows and checkpoint of one
//! moment: the rows show at least the checkpoint that is read with them, even after a crash of PostgreSQL
//! that lost the last pages.

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use sqlx::postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Describe, Either, Execute, Executor, Postgres};

use super::checkpoint::checkpoint_of;
use super::projection::{Projection, ProjectionError};
use crate::postgres::transaction::{self, Transaction};
use crate::postgres::{Connection, Pool};

/// What a projection's table is read from.
#[derive(Debug)]
pub enum Reader {
    /// Each statement sees the commits before its own start, and its rows are read as a whole.
    Pool(Pool),
    /// Each statement sees the commits before its own start; rows may be streamed.
    Connection(Connection),
    /// All statements see the same snapshot; rows may be streamed.
    Snapshot(Transaction),
}

impl Reader {
    /// A reader that shows at least `position`; without a position, any state: one whose rows are streamed,
    /// if `streams`. `None` if the projection has not applied the position.
    pub async fn showing(
        projection: &dyn Projection,
        pool: &Pool,
        position: Option<i64>,
        streams: bool,
    ) -> Result<Option<Self>, ProjectionError> {
        let Some(position) = position else {
            return Ok(Some(if streams {
                Self::Connection(pool.acquire().await?)
            } else {
                Self::Pool(pool.clone())
            }));
        };
        let (transaction, checkpoint) = take_snapshot(projection, pool).await?;
        Ok((checkpoint >= position).then_some(Self::Snapshot(transaction)))
    }
}

/// A snapshot of a projection, and its checkpoint in that snapshot.
pub(super) async fn take_snapshot(
    projection: &dyn Projection,
    pool: &Pool,
) -> Result<(Transaction, i64), ProjectionError> {
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

impl<'r> Executor<'r> for &'r mut Reader {
    type Database = Postgres;

    fn fetch_many<'e, 'q, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'r: 'e,
        E: Execute<'q, Postgres>,
        'q: 'e,
        E: 'q,
    {
        match self {
            Reader::Pool(pool) => (&*pool).fetch_many(query),
            Reader::Connection(connection) => (&mut *connection).fetch_many(query),
            Reader::Snapshot(transaction) => (&mut **transaction).fetch_many(query),
        }
    }

    fn fetch_optional<'e, 'q, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'r: 'e,
        E: Execute<'q, Postgres>,
        'q: 'e,
        E: 'q,
    {
        match self {
            Reader::Pool(pool) => (&*pool).fetch_optional(query),
            Reader::Connection(connection) => (&mut *connection).fetch_optional(query),
            Reader::Snapshot(transaction) => (&mut **transaction).fetch_optional(query),
        }
    }

    fn prepare_with<'e, 'q: 'e>(
        self,
        sql: &'q str,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement<'q>, sqlx::Error>>
    where
        'r: 'e,
    {
        match self {
            Reader::Pool(pool) => (&*pool).prepare_with(sql, parameters),
            Reader::Connection(connection) => (&mut *connection).prepare_with(sql, parameters),
            Reader::Snapshot(transaction) => (&mut **transaction).prepare_with(sql, parameters),
        }
    }

    fn describe<'e, 'q: 'e>(
        self,
        sql: &'q str,
    ) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
    where
        'r: 'e,
    {
        match self {
            Reader::Pool(pool) => (&*pool).describe(sql),
            Reader::Connection(connection) => (&mut *connection).describe(sql),
            Reader::Snapshot(transaction) => (&mut **transaction).describe(sql),
        }
    }
}
