//! The rebuild lock: one rebuild or rollback of a projection at a time, in all processes.

use std::time::Duration;

use sqlx::{Connection as _, PgConnection, PgPool};
use tokio::time::Instant;

use super::error::RebuildError;
use crate::projections::projection::Projection;

/// The first key of the advisory locks of rebuilds: the word "cust" in ASCII.
pub(in crate::projections) const CLASS: i32 = 0x6375_7374;

/// How long a rebuild waits for the lock of another one, since PostgreSQL takes a while to notice that a
/// process was killed; and the pause between two attempts.
const LOCK_WAIT: Duration = Duration::from_secs(1);
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// The second key of the lock: one per projection and version.
pub(in crate::projections) fn object_of(projection: &dyn Projection) -> i32 {
    let name = projection.name().bytes();
    // FNV-1a; only differing names matter.
    let hash =
        name.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619));
    let hash = hash.wrapping_add(projection.version().unsigned_abs()) & 0x7fff_ffff;
    i32::try_from(hash).unwrap_or_default()
}

/// Held from the beginning of a rebuild or rollback to its end.
pub(super) struct RebuildLock {
    projection: &'static dyn Projection,
    /// The lock belongs to this database session: PostgreSQL releases it when the connection ends.
    connection: PgConnection,
}

impl RebuildLock {
    pub(super) async fn acquire(
        projection: &'static dyn Projection,
        pool: &PgPool,
    ) -> Result<Self, RebuildError> {
        let mut connection = pool.acquire().await?.detach();
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            let is_granted = sqlx::query_scalar!(
                r#"select pg_try_advisory_lock($1, $2) as "is_granted!""#,
                CLASS,
                object_of(projection)
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

    /// Unlocks explicitly, since PostgreSQL takes a while to notice the end of a connection. A
    /// connection that fails here has ended.
    pub(super) async fn release(mut self) {
        let released =
            sqlx::query!("select pg_advisory_unlock($1, $2)", CLASS, object_of(self.projection))
                .fetch_one(&mut self.connection)
                .await;
        if let Err(error) = released {
            tracing::warn!(projection = self.projection.name(), %error, "rebuild: lock lost");
        }
        let _ = self.connection.close().await;
    }
}
