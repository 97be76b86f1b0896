//! Whether a pooler stands in front of a server, and takes the backend from a connection between two
//! statements.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::pin::pin;
use std::time::Duration;

use sqlx::{Connection as _, Executor as _, PgConnection, Row as _};
use tokio::time::timeout;

use super::lost::is_refused_by_pooler;
use super::server::{Server, timed_out, wrong};

/// How long each step may take: connecting to one host, and each statement.
const STEP_LIMIT: Duration = Duration::from_secs(3);

/// How often the first connection is asked while the second one is opened.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// The role may have a limit for idle transactions; set for this one only.
const BEGIN: &str = "begin; set local idle_in_transaction_session_timeout = 0";

impl Server {
    /// Whether a proxy gives the statements of one connection to several backends (PgBouncer in transaction
    /// or statement mode). Settings, prepared statements and `LISTEN` would get lost. Fails, and names the
    /// pooler, if it gives only one connection a backend.
    pub async fn is_transaction_pooled(&self) -> Result<bool, sqlx::Error> {
        // Without settings, which would stay with the backends of others.
        let server = self.as_pooled();
        let connect = || server.connect("customers check", &[], STEP_LIMIT);
        let mut first = connect().await?;
        let mut second = match meanwhile_asking(&mut first, connect()).await {
            Err(error) if is_timed_out(&error) && backend_of(&mut first).await.is_ok() => {
                return Err(wrong(
                    "DATABASE_URL: a second connection gets no answer while there is a first one; if a pooler \
                     stands in front of PostgreSQL, raise its default_pool_size"
                        .to_owned(),
                ));
            }
            connected => connected?,
        };
        let mut own = BTreeSet::new();
        let mut others = BTreeSet::new();
        for _ in 0..3 {
            // A transaction of the other connection takes the backend that the first one has just used.
            own.insert(backend_of(&mut first).await?);
            match step(second.execute(BEGIN)).await {
                // Statement mode has no transactions.
                Err(error) if is_refused_by_pooler(&error) => return Ok(true),
                begun => begun?,
            };
            others.insert(backend_of(&mut second).await?);
            match backend_of(&mut first).await {
                // It waits for the only backend.
                Err(error) if is_timed_out(&error) && backend_of(&mut second).await.is_ok() => {
                    return Ok(true);
                }
                backend => own.insert(backend?),
            };
            step(second.execute("commit")).await?;
        }
        step(first.close()).await?;
        step(second.close()).await?;
        Ok(own.len() > 1 || others.len() > 1 || !own.is_disjoint(&others))
    }
}

/// Connects, and asks the first connection meanwhile: its role may have an `idle_session_timeout`.
async fn meanwhile_asking<T>(
    first: &mut PgConnection,
    connecting: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let mut connecting = pin!(connecting);
    loop {
        if let Ok(connected) = timeout(ASK_EVERY, connecting.as_mut()).await {
            return connected;
        }
        backend_of(first).await?;
    }
}

async fn step<T>(step: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    timeout(STEP_LIMIT, step).await.unwrap_or_else(|_| Err(timed_out()))
}

fn is_timed_out(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Io(error) if error.kind() == ErrorKind::TimedOut)
}

async fn backend_of(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    let row = step(connection.fetch_one("select pg_catalog.pg_backend_pid()::text")).await?;
    let pid: String = row.try_get_unchecked(0)?;
    pid.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))
}
