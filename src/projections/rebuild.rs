//! Replays the whole log into a projection while the old tables are served: shadow tables are
//! filled by several workers, indexed, checked, brought up to the log and put in the place of the old
//! ones in one short transaction. Those are kept for the way back. Where a rebuild stands is in the
//! database (migration 0008): one that is cut off is taken up again by the next.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use tokio::time::Instant;

use super::checkpoint;
use super::others::Others;
use super::parts;
use super::projector::{Care, Turn};
use super::run::{self, Held, Run};
use super::tables::differences;
use super::{Place, Projection, ProjectionError, Tally};
use crate::transaction;

/// How many events are taken over at a time when the tables follow the log.
const PAGE: i64 = 10_000;

/// How long readers and writers may be kept waiting by one attempt to put tables in their place.
const SWAP_LIMIT: &str = "50ms";

/// The pause behind an attempt that met a long reader.
const SWAP_PAUSE: Duration = Duration::from_millis(200);

/// For how long attempts are made.
const SWAP_PATIENCE: Duration = Duration::from_mins(10);

/// What a rebuild led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rebuilt {
    /// The tables show the log up to here.
    pub position: i64,
    /// How many rows differ from those that were served before.
    pub changed: i64,
}

/// Why there is no rebuild, or no way back.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    #[error("a rebuild of this projection is at work")]
    AtWork,
    #[error("what is left of the last rebuild is still at work; try again in a moment")]
    NotOver,
    #[error("there are no earlier tables of this projection")]
    NothingToGoBackTo,
    #[error("the tables hold {found:?}, copied was {copied:?}")]
    Miscopied { copied: Tally, found: Tally },
    #[error("the tables were never free: long queries read them")]
    NeverFree,
    #[error(transparent)]
    Projection(#[from] ProjectionError),
}

impl From<sqlx::Error> for RebuildError {
    fn from(error: sqlx::Error) -> Self {
        Self::Projection(error.into())
    }
}

/// A rebuild at work: nobody else begins one of the projection before this is dropped.
pub struct Rebuild {
    run: Run,
    held: Held,
}

impl Rebuild {
    /// Begins one, or takes up the one that was cut off.
    ///
    /// # Errors
    /// When one is at work already, or PostgreSQL cannot be asked.
    pub async fn begin(
        projection: &'static dyn Projection,
        pool: &PgPool,
    ) -> Result<Self, RebuildError> {
        let held = Held::take(projection, pool).await?;
        Ok(Self { run: Run::begin(projection, pool).await?, held })
    }

    /// Replays the log into the projection. Live reads and writes go on.
    ///
    /// # Errors
    /// When PostgreSQL cannot be asked or the check fails. What was done is taken up again by the
    /// next one; a failed check leaves nothing.
    pub async fn run(self) -> Result<Rebuilt, RebuildError> {
        let Self { run, held } = self;
        let (projection, pool) = (run.projection, &run.pool);
        let others = Arc::new(Others::watch(pool.clone()));
        if !run.is_filled {
            parts::fill(&run, &others).await?;
            finish(&run, &others).await?;
        }
        let rebuilt = Spare { projection, pool, place: Place::Shadow, run: Some(&run) };
        rebuilt.follow().await?;
        let changed = differences(projection, pool, &others).await?;
        let position = rebuilt.serve().await?;
        held.release().await;
        Ok(Rebuilt { position, changed })
    }
}

/// Begins a rebuild and runs it.
///
/// # Errors
/// As for [`Rebuild::begin`] and [`Rebuild::run`].
pub async fn rebuild(
    projection: &'static dyn Projection,
    pool: &PgPool,
) -> Result<Rebuilt, RebuildError> {
    Rebuild::begin(projection, pool).await?.run().await
}

/// Serves the tables again that the last rebuild has replaced, once they show the whole log too;
/// those served now can be gone back to in the same way. Returns the position they show.
///
/// # Errors
/// When there are none, a rebuild is at work, or PostgreSQL cannot be asked.
pub async fn rollback(
    projection: &'static dyn Projection,
    pool: &PgPool,
) -> Result<i64, RebuildError> {
    let held = Held::take(projection, pool).await?;
    let mut transaction = run::after_the_last(projection, pool).await?;
    run::discard(projection, &mut transaction).await?;
    if spare_checkpoint(projection, &mut transaction, Place::Previous).await?.is_none() {
        return Err(RebuildError::NothingToGoBackTo);
    }
    transaction.commit().await?;
    let replaced = Spare { projection, pool, place: Place::Previous, run: None };
    replaced.follow().await?;
    let position = replaced.serve().await?;
    held.release().await;
    Ok(position)
}

/// Gives the filled tables their indexes, and checks that they hold what was copied.
async fn finish(run: &Run, others: &Others) -> Result<(), RebuildError> {
    let projection = run.projection;
    let mut transaction = run.transaction().await?;
    others.leave_room(&mut transaction).await?;
    sqlx::query!("select index_shadow_tables($1, $2)", projection.name(), projection.version())
        .fetch_one(&mut *transaction)
        .await?;
    Place::Shadow.enter(&mut transaction).await?;
    let found = projection.tally(&mut transaction).await?;
    let copied = parts::copied(projection, &mut transaction).await?;
    if found != copied {
        run::discard(projection, &mut transaction).await?;
        transaction.commit().await?;
        return Err(RebuildError::Miscopied { copied, found });
    }
    set_spare_checkpoint(projection, &mut transaction, Place::Shadow, run.target).await?;
    Ok(transaction.commit().await?)
}

/// Tables that are not served.
struct Spare<'a> {
    projection: &'a dyn Projection,
    pool: &'a PgPool,
    place: Place,
    /// Of which rebuild they are, if they are of one at work.
    run: Option<&'a Run>,
}

impl Spare<'_> {
    async fn transaction(&self) -> Result<Transaction<'static, Postgres>, ProjectionError> {
        match self.run {
            Some(run) => run.transaction().await,
            None => Ok(transaction::begin(self.pool).await?),
        }
    }

    /// Brings them up to the log, but for what comes meanwhile.
    async fn follow(&self) -> Result<(), RebuildError> {
        let mut how = Care::Plain;
        loop {
            let mut transaction = self.transaction().await?;
            match self.advance(&mut transaction, how).await {
                Ok(was_full) => {
                    transaction.commit().await?;
                    if !was_full {
                        return Ok(());
                    }
                    how = Care::Plain;
                }
                Err(error) if error.is_of_an_event() && how == Care::Plain => how = Care::Apart,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes one page over; whether there is more.
    async fn advance(
        &self,
        transaction: &mut PgConnection,
        how: Care,
    ) -> Result<bool, ProjectionError> {
        let Self { projection, place, .. } = *self;
        let checkpoint = spare_checkpoint(projection, transaction, place).await?;
        // Others have put them in their place. Without them their names mean those that are served.
        let checkpoint = checkpoint.ok_or(ProjectionError::TakenOver)?;
        place.enter(transaction).await?;
        let turn = Turn { place, how, has_parked: true };
        let advanced = turn.advance(projection, transaction, checkpoint, PAGE).await?;
        let Some(advanced) = advanced else { return Ok(false) };
        set_spare_checkpoint(projection, transaction, place, advanced.checkpoint).await?;
        Ok(advanced.was_full)
    }

    /// Puts them in the place of those that are served. Nobody takes a page meanwhile, and the last
    /// events are taken over here, so that no reader sees less than before.
    async fn serve(&self) -> Result<i64, RebuildError> {
        let began = Instant::now();
        let mut how = Care::Plain;
        while began.elapsed() < SWAP_PATIENCE {
            match self.attempt_to_serve(how).await {
                Ok(position) => return Ok(position),
                Err(error) if error.is_of_an_event() && how == Care::Plain => how = Care::Apart,
                Err(ProjectionError::Database(error)) if is_busy(&error) => {
                    tokio::time::sleep(SWAP_PAUSE).await;
                    // What came meanwhile is not left to the next attempt, which keeps writers
                    // waiting.
                    self.follow().await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(RebuildError::NeverFree)
    }

    async fn attempt_to_serve(&self, how: Care) -> Result<i64, ProjectionError> {
        let Self { projection, place, .. } = *self;
        let mut transaction = self.transaction().await?;
        checkpoint::lock(projection, &mut transaction).await?;
        while self.advance(&mut transaction, how).await? {}
        let position = spare_checkpoint(projection, &mut transaction, place).await?;
        let position = position.ok_or(ProjectionError::TakenOver)?;
        sqlx::query!("select set_config('lock_timeout', $1, true)", SWAP_LIMIT)
            .fetch_one(&mut *transaction)
            .await?;
        sqlx::query!(
            "select serve_tables($1, $2, $3)",
            projection.name(),
            projection.version(),
            place.as_str()
        )
        .fetch_one(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(position)
    }
}

/// A lock was not to be had in time.
pub(super) fn is_busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    matches!(code.as_deref(), Some("55P03" | "40P01"))
}

/// The position that tables which are not served show; `None` while they are filled, or are not. It
/// stays until the transaction ends.
async fn spare_checkpoint(
    projection: &dyn Projection,
    db: &mut PgConnection,
    place: Place,
) -> Result<Option<i64>, sqlx::Error> {
    let checkpoint = sqlx::query_scalar!(
        "select checkpoint from spare_tables
         where projection = $1 and version = $2 and place = $3
         for update",
        projection.name(),
        projection.version(),
        place.as_str()
    )
    .fetch_optional(db)
    .await?;
    Ok(checkpoint.flatten())
}

async fn set_spare_checkpoint(
    projection: &dyn Projection,
    db: &mut PgConnection,
    place: Place,
    position: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update spare_tables set checkpoint = $4
         where projection = $1 and version = $2 and place = $3",
        projection.name(),
        projection.version(),
        place.as_str(),
        position
    )
    .execute(db)
    .await?;
    Ok(())
}
