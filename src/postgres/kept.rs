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

    /// Begins a transaction with a statement, whose rows are returned, in text form. If the connection is lost, on
    /// a fresh one.
    pub async fn begin(
        &mut self,
        statement: &str,
    ) -> Result<(KeptTransaction<'_>, Vec<PgRow>), sqlx::Error> {
        let statements = format!("begin; {statement}");
        let was_open = self.open.is_some();
        let (connection, rows) = match self.execute(&statements).await {
            Err(error) if self.pool.server().report(&error) && was_open => {
                self.execute(&statements).await?
            }
            begun => begun?,
        };
        Ok((KeptTransaction { connection, kept: self }, rows))
    }

    /// Takes the connection out of its place: it is put back only outside of a transaction.
    async fn execute(&mut self, statements: &str) -> Result<(Connection, Vec<PgRow>), sqlx::Error> {
        let is_valid = self.pool.server().is_valid_since(self.opened_at);
        let mut connection = if let Some(open) = self.open.take().filter(|_| is_valid) {
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
