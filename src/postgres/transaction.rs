//! Transactions: what is not committed is rolled back.

use std::borrow::Cow;
use std::ops::{Deref, DerefMut};

use sqlx::TransactionManager as _;
use sqlx::postgres::PgTransactionManager;

use super::connection::Connection;
use super::pool::Pool;

/// A transaction; each of its statements is answered within the limit of its connection, or fails.
#[derive(Debug)]
pub struct Transaction {
    connection: Connection,
    is_open: bool,
}

impl Transaction {
    /// Commits. After an error whose connection was lost it is unknown whether that was carried out.
    pub async fn commit(mut self) -> Result<(), sqlx::Error> {
        let (raw, mut wait) = self.connection.parts();
        wait.of(PgTransactionManager::commit(raw)).await?;
        self.is_open = false;
        Ok(())
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if self.is_open {
            // Queued: it is sent when the connection returns to its pool.
            PgTransactionManager::start_rollback(self.connection.parts().0);
        }
    }
}

impl Deref for Transaction {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

/// Begins a transaction on a connection of the pool; on a fresh one, if that connection is lost.
///
/// The `begin` runs to its end even when the caller drops the future; it is rolled back in that case. A
/// `begin` of sqlx 0.8 that is dropped half-way returns its connection to the pool inside the
/// transaction, and the writes of the next user of that connection are never committed.
pub async fn begin(pool: &Pool) -> Result<Transaction, sqlx::Error> {
    begin_with(pool, "begin").await
}

/// As [`begin`], with this statement: a `begin` with options and without a second statement, because a
/// transaction whose second statement fails would not be rolled back.
pub async fn begin_with(pool: &Pool, statement: &'static str) -> Result<Transaction, sqlx::Error> {
    match begin_once(pool, statement).await {
        Err(error) if pool.server().report(&error) => begin_once(pool, statement).await,
        begun => begun,
    }
}

async fn begin_once(pool: &Pool, statement: &'static str) -> Result<Transaction, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    let begun = tokio::spawn(async move {
        let (raw, mut wait) = connection.parts();
        wait.of(PgTransactionManager::begin(raw, Some(Cow::Borrowed(statement)))).await?;
        Ok(Transaction { connection, is_open: true })
    });
    begun.await.map_err(|_| sqlx::Error::WorkerCrashed)?
}
