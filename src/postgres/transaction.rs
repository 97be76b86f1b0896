//! Begins transactions.

use std::borrow::Cow;

use sqlx::{Postgres, Transaction};

use super::pool::Pool;

/// Begins a transaction on a connection of the pool; on a fresh one, if that connection is lost.
///
/// The `begin` runs to its end even when the caller drops the future; it is rolled back in that case. A
/// `begin` of sqlx 0.8 that is dropped half-way returns its connection to the pool inside the
/// transaction, and the writes of the next user of that connection are never committed.
pub async fn begin(pool: &Pool) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    begin_with(pool, "begin").await
}

/// As [`begin`], with this statement: a `begin` with options and without a second statement, because a
/// transaction whose second statement fails would not be rolled back.
pub async fn begin_with(
    pool: &Pool,
    statement: &'static str,
) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    match begin_once(pool, statement).await {
        Err(error) if pool.server().report(&error) => begin_once(pool, statement).await,
        begun => begun,
    }
}

async fn begin_once(
    pool: &Pool,
    statement: &'static str,
) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let connection = pool.acquire().await?;
    let begun = tokio::spawn(Transaction::begin(connection, Some(Cow::Borrowed(statement))));
    begun.await.map_err(|_| sqlx::Error::WorkerCrashed)?
}
