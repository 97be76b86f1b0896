//! How a transaction is begun.

use std::borrow::Cow;

use sqlx::{PgPool, Postgres, Transaction};

/// Begins a transaction on a connection of the pool.
///
/// It is begun also when nobody waits for it any more, and then rolled back: a begin of sqlx 0.8 that
/// is dropped on its way gives the connection back in the middle of the transaction, and what the next
/// one writes on it is never committed.
///
/// # Errors
/// When PostgreSQL cannot be asked.
pub async fn begin(pool: &PgPool) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    begin_with(pool, "begin").await
}

/// Begins one by this statement. It is a `begin` and nothing behind it: a transaction that has begun
/// and failed at once would not be rolled back.
///
/// # Errors
/// When PostgreSQL cannot be asked.
pub async fn begin_with(
    pool: &PgPool,
    statement: &'static str,
) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let connection = pool.acquire().await?;
    let begun = tokio::spawn(Transaction::begin(connection, Some(Cow::Borrowed(statement))));
    begun.await.map_err(|_| sqlx::Error::WorkerCrashed)?
}
