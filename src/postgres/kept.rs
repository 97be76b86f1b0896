//! A connection that is kept from one transaction to the next, with its own prepared statements: a transaction begins
//! with its query and commits with its last statement, each in one round trip.

use std::ops::{Deref, DerefMut};

use sqlx::Executor as _;
use sqlx::postgres::PgRow;
use tokio::time::Instant;

use super::connection::Connection;
use super::pool::Pool;

/// A connection that is opened when it is needed, and kept.
pub struct KeptConnection {
    pool: Pool,
    /// Executed on each new connection: what its transactions begin and commit with is prepared.
    prepare: String,
    open: Option<Connection>,
    opened_at: Instant,
}

impl KeptConnection {
    /// With the settings of the pool, and outside of it.
    #[must_use]
    pub fn new(pool: Pool, prepare: String) -> Self {
        Self { pool, prepare, open: None, opened_at: Instant::now() }
    }

    /// Whether there is a connection that may be used: without one the server may have crashed, and lost what it had
    /// not written.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open.is_some() && self.pool.server().is_valid_since(self.opened_at)
    }

    /// Waits until the connection may not be used any more.
    pub async fn replaced(&self) {
        self.pool.server().replaced(self.opened_at).await;
    }

    /// Whether the error of a transaction says that the connection was lost.
    #[must_use]
    pub fn has_lost(&self, error: &sqlx::Error) -> bool {
        self.pool.server().report(error)
    }

    /// Begins a transaction with a statement, whose rows are returned, in text form.
    pub async fn begin(
        &mut self,
        statement: &str,
    ) -> Result<(KeptTransaction<'_>, Vec<PgRow>), sqlx::Error> {
        let (connection, rows) = self.execute(&format!("begin; {statement}")).await?;
        Ok((KeptTransaction { connection, kept: self }, rows))
    }

    /// Takes the connection out of its place: it is put back only outside of a transaction.
    async fn execute(&mut self, statements: &str) -> Result<(Connection, Vec<PgRow>), sqlx::Error> {
        let is_open = self.is_open();
        let mut connection = if let Some(open) = self.open.take().filter(|_| is_open) {
            open
        } else {
            // Not after: the server may be replaced meanwhile.
            self.opened_at = Instant::now();
            let mut connection = self.pool.acquire().await?.detach();
            connection.execute(sqlx::raw_sql(&self.prepare)).await?;
            connection
        };
        let rows = connection.fetch_all(sqlx::raw_sql(statements)).await?;
        Ok((connection, rows))
    }
}

/// A transaction on a kept connection. Dropped before its end it ends the connection, and so rolls back.
pub struct KeptTransaction<'k> {
    connection: Connection,
    kept: &'k mut KeptConnection,
}

impl KeptTransaction<'_> {
    /// Executes a statement and commits. After an error whose connection was lost it is unknown whether that was
    /// carried out.
    pub async fn commit_with(self, statement: &str) -> Result<(), sqlx::Error> {
        self.end(&format!("{statement}; commit")).await
    }

    pub async fn roll_back(self) -> Result<(), sqlx::Error> {
        self.end("rollback").await
    }

    async fn end(mut self, statements: &str) -> Result<(), sqlx::Error> {
        self.connection.execute(sqlx::raw_sql(statements)).await?;
        self.kept.open = Some(self.connection);
        Ok(())
    }
}

impl Deref for KeptTransaction<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl DerefMut for KeptTransaction<'_> {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }
}
