//! Begins transactions.

use std::borrow::Cow;

use sqlx::{PgPool, Postgres, Transaction};

/// Begins a transaction on a connection of the pool.
///
/// The `begin` runs to its end even when the caller drops the future; it is rolled back in that case. A
/// `begin` of sqlx 0.8 that is dropped half-way returns its connection to the pool inside the
/// transaction, and the writes of the next user of that connection are never committed.
pub async fn begin(pool: &PgPool) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    begin_with(pool, "begin").await
}

/// As [`begin`], with this statement: a `begin` with options and without a second statement, because a
/// transaction whose second statement fails would not be rolled back.
pub async fn begin_with(
    pool: &PgPool,
    statement: &'static str,
) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let connection = pool.acquire().await?;
    let begun = tokio::spawn(Transaction::begin(connection, Some(Cow::Borrowed(statement))));
    begun.await.map_err(|_| sqlx::Error::WorkerCrashed)?
}
