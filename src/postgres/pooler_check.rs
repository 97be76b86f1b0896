//! Whether a pooler stands in front of a server, and takes the backend from a connection between two
//! statements.

use sqlx::{Connection as _, Executor as _, PgConnection, Row as _};

use super::server::{PATIENT_LIMIT, Server};

impl Server {
    /// Whether a proxy gives the statements of one connection to several backends (PgBouncer in transaction
    /// or statement mode). Settings, prepared statements and `LISTEN` would get lost.
    pub async fn is_transaction_pooled(&self) -> Result<bool, sqlx::Error> {
        let mut first = self.connect("customers check", &[], PATIENT_LIMIT).await?;
        let mut second = self.connect("customers check", &[], PATIENT_LIMIT).await?;
        let mut backends = std::collections::BTreeSet::new();
        for _ in 0..3 {
            // A transaction of the other connection takes the backend that the first one has just used.
            backends.insert(backend_of(&mut first).await?);
            second.execute("begin").await?;
            backends.insert(-backend_of(&mut second).await?);
            backends.insert(backend_of(&mut first).await?);
            second.execute("commit").await?;
        }
        let (own, other): (Vec<i32>, Vec<i32>) = backends.into_iter().partition(|pid| *pid > 0);
        first.close().await?;
        second.close().await?;
        Ok(own.len() > 1 || other.len() > 1 || own.iter().any(|pid| other.contains(&-pid)))
    }
}

async fn backend_of(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    let row = connection.fetch_one("select pg_catalog.pg_backend_pid()::text").await?;
    let pid: String = row.try_get_unchecked(0)?;
    pid.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))
}
