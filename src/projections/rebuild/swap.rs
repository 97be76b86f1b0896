//! Swaps a standby table in (a blue/green swap): catches it up with the log, then exchanges it with the
//! live table in one short transaction.

use std::time::Duration;

use sqlx::{PgConnection, Postgres, Transaction};
use tokio::time::Instant;

use super::attempt::Attempt;
use super::error::{RebuildError, is_index_missing, is_lock_timeout};
use crate::postgres::Pool;
use crate::postgres::transaction;
use crate::projections::checkpoint;
use crate::projections::page::{PageMode, PageStep};
use crate::projections::projection::{Projection, ProjectionError};
use crate::projections::table_slot::TableSlot;

/// How many events are applied at a time while a standby table catches up.
const PAGE: i64 = 10_000;

/// How long one attempt to swap may keep readers and writers waiting.
const SWAP_LOCK_TIMEOUT: &str = "50ms";

/// The pause after an attempt that a long query has blocked.
const SWAP_RETRY: Duration = Duration::from_millis(200);

/// How long the swap is retried.
const SWAP_LIMIT: Duration = Duration::from_mins(10);

/// A table on standby.
pub(super) struct Standby<'a> {
    pub(super) projection: &'a dyn Projection,
    pub(super) pool: &'a Pool,
    pub(super) slot: TableSlot,
    /// The attempt that backfilled the table; `None` for the previous table.
    pub(super) attempt: Option<&'a Attempt>,
}

impl Standby<'_> {
    async fn transaction(&self) -> Result<Transaction<'static, Postgres>, ProjectionError> {
        match self.attempt {
            Some(attempt) => attempt.transaction().await,
            None => Ok(transaction::begin(self.pool).await?),
        }
    }

    /// Applies the log up to its head; events that are appended meanwhile may be missing.
    pub(super) async fn catch_up(&self) -> Result<(), RebuildError> {
        let mut mode = PageMode::Whole;
        loop {
            let mut transaction = self.transaction().await?;
            match self.advance(&mut transaction, mode).await {
                Ok(was_full) => {
                    transaction.commit().await?;
                    if !was_full {
                        return Ok(());
                    }
                    mode = PageMode::Whole;
                }
                Err(error) if error.is_event_error() && mode == PageMode::Whole => {
                    mode = PageMode::Isolate;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Applies one page; whether more may follow.
    async fn advance(
        &self,
        transaction: &mut PgConnection,
        mode: PageMode,
    ) -> Result<bool, ProjectionError> {
        let Self { projection, slot, .. } = *self;
        let checkpoint = standby_checkpoint(projection, transaction, slot).await?;
        // Without a checkpoint the table was swapped in, and its name means the live one.
        let checkpoint = checkpoint.ok_or(ProjectionError::Fenced)?;
        slot.enter(transaction).await?;
        let step = PageStep { slot, mode, has_parked: true };
        let advanced = step.advance(projection, transaction, checkpoint, PAGE).await?;
        let Some(advanced) = advanced else { return Ok(false) };
        set_standby_checkpoint(projection, transaction, slot, advanced.checkpoint).await?;
        Ok(advanced.was_full)
    }

    /// Builds the indexes that the live table has and this one lacks, and applies the events that were
    /// appended meanwhile. Readers would wait for an index that is built in the swap.
    async fn index(&self) -> Result<(), RebuildError> {
        let Self { projection, slot, .. } = *self;
        let mut transaction = self.transaction().await?;
        sqlx::query!(
            "select index_standby_tables($1, $2, $3)",
            projection.name(),
            projection.version(),
            slot.as_str()
        )
        .fetch_one(&mut *transaction)
        .await?;
        transaction.commit().await?;
        self.catch_up().await
    }

    /// Exchanges the table with the live one. No projector applies a page meanwhile, and the last
    /// events are applied here, so that no reader sees less than before. Returns the position that the
    /// table shows.
    pub(super) async fn swap_in(&self) -> Result<i64, RebuildError> {
        self.index().await?;
        let began = Instant::now();
        let mut mode = PageMode::Whole;
        while began.elapsed() < SWAP_LIMIT {
            match self.swap_in_once(mode).await {
                Ok(position) => return Ok(position),
                Err(error) if error.is_event_error() && mode == PageMode::Whole => {
                    mode = PageMode::Isolate;
                }
                Err(ProjectionError::Database(error)) if is_lock_timeout(&error) => {
                    tokio::time::sleep(SWAP_RETRY).await;
                    // The next attempt keeps writers waiting for as long as it has events to apply.
                    self.catch_up().await?;
                }
                // Added since the indexes were built.
                Err(ProjectionError::Database(error)) if is_index_missing(&error) => {
                    self.index().await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(RebuildError::SwapTimedOut)
    }

    async fn swap_in_once(&self, mode: PageMode) -> Result<i64, ProjectionError> {
        let Self { projection, slot, .. } = *self;
        let mut transaction = self.transaction().await?;
        checkpoint::lock(projection, &mut transaction).await?;
        while self.advance(&mut transaction, mode).await? {}
        let position = standby_checkpoint(projection, &mut transaction, slot).await?;
        let position = position.ok_or(ProjectionError::Fenced)?;
        sqlx::query!("select set_config('lock_timeout', $1, true)", SWAP_LOCK_TIMEOUT)
            .fetch_one(&mut *transaction)
            .await?;
        sqlx::query!(
            "select serve_tables($1, $2, $3)",
            projection.name(),
            projection.version(),
            slot.as_str()
        )
        .fetch_one(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(position)
    }
}

/// The position that a standby table shows; `None` while it is backfilled, or without such a table.
/// Its row stays locked until the transaction ends.
pub(super) async fn standby_checkpoint(
    projection: &dyn Projection,
    db: &mut PgConnection,
    slot: TableSlot,
) -> Result<Option<i64>, sqlx::Error> {
    let checkpoint = sqlx::query_scalar!(
        "select checkpoint from spare_tables
         where projection = $1 and version = $2 and place = $3
         for update",
        projection.name(),
        projection.version(),
        slot.as_str()
    )
    .fetch_optional(db)
    .await?;
    Ok(checkpoint.flatten())
}

pub(super) async fn set_standby_checkpoint(
    projection: &dyn Projection,
    db: &mut PgConnection,
    slot: TableSlot,
    position: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update spare_tables set checkpoint = $4
         where projection = $1 and version = $2 and place = $3",
        projection.name(),
        projection.version(),
        slot.as_str(),
        position
    )
    .execute(db)
    .await?;
    Ok(())
}
