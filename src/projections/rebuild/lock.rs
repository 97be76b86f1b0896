//! The rebuild lock: one rebuild or rollback of a projection at a time, in all processes.

use std::time::Duration;

use sqlx::Executor as _;
use tokio::time::Instant;

use super::error::RebuildError;
use crate::postgres::{Connection, Pool};
use crate::projections::projection::Projection;

/// How long a rebuild waits for the lock of another one, since PostgreSQL takes a while to notice that a
/// process was killed; and the pause between two attempts.
const LOCK_WAIT: Duration = Duration::from_secs(1);
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// The name of the lock's table in the schema `locks` (migration 10).
pub(in crate::projections) fn table_of(projection: &dyn Projection) -> String {
    format!("rebuild_{}_{}", projection.name(), projection.version())
}

/// Held from the beginning of a rebuild or rollback to its end.
pub(super) struct RebuildLock {
    projection: &'static dyn Projection,
    /// The lock belongs to the open transaction of this connection: PostgreSQL releases it when the
    /// connection ends.
    connection: Connection,
}

impl RebuildLock {
    pub(super) async fn acquire(
        projection: &'static dyn Projection,
        pool: &Pool,
    ) -> Result<Self, RebuildError> {
        let mut connection = pool.acquire().await?.detach();
        let (name, version) = (projection.name(), projection.version());
        sqlx::query!("select create_rebuild_lock($1, $2)", name, version)
            .execute(&mut connection)
            .await?;
        // The transaction stays open for the whole rebuild. It writes nothing, and at this isolation
        // level it keeps no snapshot, so it does not hold back VACUUM.
        connection.execute("begin isolation level read committed").await?;
        sqlx::query!(
            "select set_config(name, '0', true) from pg_settings
             where name in ('idle_in_transaction_session_timeout', 'transaction_timeout')"
        )
        .fetch_all(&mut connection)
        .await?;
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            let is_granted = sqlx::query_scalar!(
                r#"select try_rebuild_lock($1, $2) as "is_granted!""#,
                name,
                version
            )
            .fetch_one(&mut connection)
            .await?;
            if is_granted {
                return Ok(Self { projection, connection });
            }
            if Instant::now() > deadline {
                return Err(RebuildError::AlreadyRunning);
            }
            tokio::time::sleep(LOCK_RETRY).await;
        }
    }

    /// Ends the transaction explicitly, since PostgreSQL takes a while to notice the end of a connection.
    /// A connection that fails here has ended.
    pub(super) async fn release(mut self) {
        if let Err(error) = self.connection.execute("commit").await {
            tracing::warn!(projection = self.projection.name(), %error, "rebuild: lock lost");
        }
        self.connection.close().await;
    }
}
