//! Replays the log into a projection while its live table is served: a shadow table is backfilled by
//! several workers, indexed, compared by checksum, caught up with the log and swapped in by one short
//! transaction. The replaced table is kept for a rollback. The state of a rebuild is in the database
//! (migration 0008): one that was interrupted is resumed by the next attempt.

/// One rebuild of a projection at a time.
pub(in crate::projections) mod lock;

/// One attempt, fenced off from earlier ones.
mod attempt;

/// Objects of other users of the database on the read table.
mod obstacles;

/// Ranges of streams.
mod partition;

/// Fills the shadow table from the log.
mod backfill;

/// Catches a standby table up and makes it the live one.
mod swap;

/// Counts the rows that differ between the rebuilt table and the live one.
mod diff;

/// Whether the database has other load.
mod load_probe;

/// Threads that run at a lower priority than requests.
mod low_priority_thread;

/// Why a rebuild or rollback failed.
mod error;

use std::sync::Arc;

pub use self::error::RebuildError;
pub use self::load_probe::APPLICATION_NAME;

use self::attempt::{Attempt, Next};
use self::diff::count_differences;
use self::load_probe::LoadProbe;
use self::lock::RebuildLock;
use self::swap::{Standby, set_standby_checkpoint, standby_checkpoint};
use super::projection::Projection;
use super::table_slot::TableSlot;
use crate::postgres::Pool;

/// The result of a rebuild.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rebuilt {
    /// The position that the new table shows.
    pub position: i64,
    /// How many rows differ from those that were served before.
    pub changed: i64,
}

/// A rebuild that has begun. No other rebuild of the projection begins before this one is dropped.
pub struct Rebuild {
    attempt: Attempt,
    lock: RebuildLock,
}

impl Rebuild {
    /// Begins a rebuild, or resumes an interrupted one.
    pub async fn begin(
        projection: &'static dyn Projection,
        pool: &Pool,
    ) -> Result<Self, RebuildError> {
        Self::begin_or_resume(projection, pool, false).await
    }

    /// Begins a rebuild; an interrupted one is discarded.
    pub async fn restart(
        projection: &'static dyn Projection,
        pool: &Pool,
    ) -> Result<Self, RebuildError> {
        Self::begin_or_resume(projection, pool, true).await
    }

    async fn begin_or_resume(
        projection: &'static dyn Projection,
        pool: &Pool,
        restart: bool,
    ) -> Result<Self, RebuildError> {
        let lock = RebuildLock::acquire(projection, pool).await?;
        obstacles::refuse(projection, pool, None).await?;
        Ok(Self { attempt: Attempt::begin(projection, pool, restart).await?, lock })
    }

    /// Replays the log into the projection, while reads and writes continue. After an error, which
    /// [`status`](super::status) shows, the next rebuild resumes this one; after a checksum mismatch it
    /// starts over.
    pub async fn run(self) -> Result<Rebuilt, RebuildError> {
        let Self { attempt, lock } = self;
        let run = run(&attempt).await;
        if let Err(error) = &run {
            let is_mismatch = matches!(error, RebuildError::ChecksumMismatch { .. });
            let next = if is_mismatch { Next::StartOver } else { Next::Resume };
            if let Err(error) = attempt.store_error(&error.in_full(), next).await {
                let projection = attempt.projection.name();
                tracing::warn!(projection, %error, "rebuild: cannot store why it failed");
            }
        }
        lock.release().await;
        run
    }
}

async fn run(attempt: &Attempt) -> Result<Rebuilt, RebuildError> {
    let (projection, pool) = (attempt.projection, &attempt.pool);
    let load = Arc::new(LoadProbe::start(pool.clone()));
    if !attempt.is_backfilled {
        backfill::run(attempt, &load).await?;
        index_and_check(attempt, &load).await?;
    }
    let rebuilt = Standby { projection, pool, slot: TableSlot::Shadow, attempt: Some(attempt) };
    rebuilt.catch_up().await?;
    let changed = count_differences(projection, pool, &load).await?;
    let position = rebuilt.swap_in().await?;
    Ok(Rebuilt { position, changed })
}

/// Begins a rebuild and runs it.
pub async fn rebuild(
    projection: &'static dyn Projection,
    pool: &Pool,
) -> Result<Rebuilt, RebuildError> {
    Rebuild::begin(projection, pool).await?.run().await
}

/// Swaps the previous table in again, caught up with the log; the live one becomes the previous one.
/// Returns the position that the table shows. An interrupted rebuild is discarded.
pub async fn rollback(
    projection: &'static dyn Projection,
    pool: &Pool,
) -> Result<i64, RebuildError> {
    let lock = RebuildLock::acquire(projection, pool).await?;
    obstacles::refuse(projection, pool, Some(TableSlot::Previous)).await?;
    let mut transaction = attempt::after_previous(projection, pool).await?;
    attempt::discard(projection, &mut transaction).await?;
    if standby_checkpoint(projection, &mut transaction, TableSlot::Previous).await?.is_none() {
        return Err(RebuildError::NoPreviousTable);
    }
    transaction.commit().await?;
    let previous = Standby { projection, pool, slot: TableSlot::Previous, attempt: None };
    let position = previous.swap_in().await?;
    lock.release().await;
    Ok(position)
}

/// Builds the indexes of the backfilled table, and compares its rows with those that were copied.
async fn index_and_check(attempt: &Attempt, load: &LoadProbe) -> Result<(), RebuildError> {
    let (projection, slot) = (attempt.projection, TableSlot::Shadow);
    let mut transaction = attempt.transaction().await?;
    load.limit_parallelism(&mut transaction).await?;
    sqlx::query!("select index_shadow_tables($1, $2)", projection.name(), projection.version())
        .fetch_one(&mut *transaction)
        .await?;
    slot.enter(&mut transaction).await?;
    let found = projection.checksum(&mut transaction).await?;
    let copied = partition::copied(projection, &mut transaction).await?;
    if found != copied {
        return Err(RebuildError::ChecksumMismatch { copied, found });
    }
    set_standby_checkpoint(projection, &mut transaction, slot, attempt.target).await?;
    Ok(transaction.commit().await?)
}
