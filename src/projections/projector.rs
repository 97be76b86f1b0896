//! Follows the log, page by page. No process owns a projection: each page is one short transaction
//! that locks the checkpoint's row if it is free, so any process may apply the next page, and a
//! process that is frozen loses its lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::{Notify, watch};

use super::checkpoint::set_checkpoint;
use super::page::{PageMode, PageStep};
use super::parked;
use super::projection::{Projection, ProjectionError};
use super::table_slot::TableSlot;
use crate::events::log::notify::Subscription;
use crate::postgres::transaction;
use crate::postgres::{Connection, Pool};
use crate::tasks::Tasks;
use crate::telemetry::as_f64;

/// How many events one transaction applies at most: so many that the cost of a transaction is negligible,
/// so few that a page takes milliseconds.
const PAGE: i64 = 1000;

/// How often the log is read without a notification: other processes write too.
const POLL: Duration = Duration::from_secs(1);

/// How long events may wait to be applied while nobody waits for them: a page of many costs PostgreSQL little
/// more than a page of one.
const PACE: Duration = Duration::from_millis(20);

/// The pause before the next attempt while another process holds the checkpoint's row.
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// The pause after a failure: the database is unreachable.
const FAILURE_PAUSE: Duration = Duration::from_millis(250);

/// A running projector. Clones share it.
#[derive(Clone)]
pub struct Projector {
    projection: &'static dyn Projection,
    progress: watch::Receiver<Progress>,
    demand: Arc<Demand>,
}

/// Those who wait until a position is applied.
#[derive(Default)]
struct Demand {
    waiting: AtomicUsize,
    /// Wakes the projector when somebody begins to wait.
    begun: Notify,
}

impl Demand {
    /// Counts one who waits, until it is dropped.
    fn begin(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.begun.notify_one();
        Waiting(self)
    }

    /// Forgets who has begun to wait so far; called before the log is read, which has their events.
    fn mark_seen(&self) {
        let _ = self.begun.notified().now_or_never();
    }

    /// Waits for [`PACE`], or until somebody waits.
    async fn pace(&self) {
        if self.waiting.load(Ordering::Relaxed) == 0 {
            let _ = tokio::time::timeout(PACE, self.begun.notified()).await;
        }
    }
}

/// One who waits.
struct Waiting<'a>(&'a Demand);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The state that this process last read from the database.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    checkpoint: i64,
    /// Events of some customers up to the checkpoint are not applied.
    has_parked: bool,
}

/// A checked query for the progress of a projection; `$lock` is the locking clause.
macro_rules! progress {
    ($lock:tt, $projection:expr) => {
        sqlx::query_as!(
            Progress,
            r#"select checkpoint,
                      exists (select from parked_customers
                              where projection = $1 and version = $2 and place = 'public')
                          as "has_parked!"
               from projections where name = $1 and version = $2 "#
                + $lock,
            $projection.name(),
            $projection.version()
        )
    };
}

impl Projector {
    /// Starts to follow the log, until shutdown.
    #[must_use]
    pub fn start(
        projection: &'static dyn Projection,
        pool: Pool,
        appends: Subscription,
        tasks: &Tasks,
    ) -> Self {
        let (sender, progress) = watch::channel(Progress::default());
        let (sender, demand) = (Arc::new(sender), Arc::new(Demand::default()));
        let demanded = Arc::clone(&demand);
        tasks.supervise(format!("projector {}", projection.name()), move || {
            let (pool, mut appends) = (pool.clone(), appends.clone());
            let (sender, demand) = (Arc::clone(&sender), Arc::clone(&demanded));
            async move { follow(projection, &pool, (&mut appends, &demand), &sender).await }
        });
        Self { projection, progress, demand }
    }

    /// The checkpoint that this process saw last.
    #[must_use]
    pub fn checkpoint(&self) -> i64 {
        self.progress.borrow().checkpoint
    }

    /// Waits until the projection has applied `position`; `false` if it has not after `limit`.
    pub async fn wait_for_position(&self, position: i64, limit: Duration) -> bool {
        if self.checkpoint() >= position {
            return true;
        }
        let _waiting = self.demand.begin();
        let mut progress = self.progress.clone();
        let reached = progress.wait_for(|progress| progress.checkpoint >= position);
        matches!(tokio::time::timeout(limit, reached).await, Ok(Ok(_)))
    }

    /// Whether events of the customer up to the checkpoint are parked.
    pub async fn has_parked(&self, pool: &Pool, customer_id: i64) -> Result<bool, sqlx::Error> {
        let has_parked = self.progress.borrow().has_parked;
        Ok(has_parked && parked::is_parked(self.projection, pool, customer_id).await?)
    }
}

async fn follow(
    projection: &dyn Projection,
    pool: &Pool,
    (appends, demand): (&mut Subscription, &Demand),
    progress: &watch::Sender<Progress>,
) {
    // After a panic the position is unknown.
    progress.send_replace(Progress::default());
    let mut mode = PageMode::Whole;
    loop {
        appends.mark_seen();
        demand.mark_seen();
        match apply_next_page(projection, pool, mode).await {
            Ok(applied) => {
                mode = PageMode::Whole;
                // The value of the database counts even if it is lower than before, because the database
                // may have been restored.
                progress.send_replace(applied.progress);
                metrics::gauge!("customers_projection_checkpoint", "projection" => projection.name())
                    .set(as_f64(applied.progress.checkpoint));
                match applied.next {
                    Next::More => {}
                    Next::Busy => tokio::time::sleep(BUSY_PAUSE).await,
                    Next::CaughtUp => {
                        tokio::select! {
                            () = appends.wait(POLL) => demand.pace().await,
                            () = demand.begun.notified() => {}
                        }
                    }
                }
            }
            Err(error) if error.is_event_error() && mode == PageMode::Whole => {
                tracing::warn!(
                    projection = projection.name(), %error,
                    "projector: page failed, isolating its customers"
                );
                mode = PageMode::Isolate;
            }
            Err(error) => {
                tracing::error!(
                    projection = projection.name(), %error,
                    "projector: page failed, retrying"
                );
                // The position is unknown until the database answers: a crash may have lost commits.
                progress.send_replace(Progress::default());
                tokio::time::sleep(FAILURE_PAUSE).await;
            }
        }
    }
}

/// The result of one attempt to apply a page.
struct Applied {
    progress: Progress,
    next: Next,
}

enum Next {
    /// The page was full: more events may follow.
    More,
    /// Another process holds the checkpoint's row.
    Busy,
    /// No event is left.
    CaughtUp,
}

async fn apply_next_page(
    projection: &dyn Projection,
    pool: &Pool,
    mode: PageMode,
) -> Result<Applied, ProjectionError> {
    let mut transaction = transaction::begin(pool).await?;
    let locked =
        progress!("for update skip locked", projection).fetch_optional(&mut *transaction).await?;
    let Some(progress) = locked else {
        // On the same connection: with as many projectors as connections, none would get a second one.
        let progress = read_progress(projection, &mut transaction).await?;
        return Ok(Applied { progress, next: Next::Busy });
    };
    let step = PageStep { slot: TableSlot::Live, mode, has_parked: progress.has_parked };
    let advanced = step.advance(projection, &mut transaction, progress.checkpoint, PAGE).await?;
    let Some(advanced) = advanced else {
        return Ok(Applied { progress, next: Next::CaughtUp });
    };
    set_checkpoint(&mut transaction, projection, advanced.checkpoint).await?;
    let checkpoint = advanced.checkpoint;
    let has_parked = mode == PageMode::Isolate || progress.has_parked;
    transaction.commit().await?;
    let next = if advanced.was_full { Next::More } else { Next::CaughtUp };
    Ok(Applied { progress: Progress { checkpoint, has_parked }, next })
}

async fn read_progress(
    projection: &dyn Projection,
    db: &mut Connection,
) -> Result<Progress, ProjectionError> {
    progress!("", projection)
        .fetch_optional(db)
        .await?
        .ok_or(ProjectionError::NotRegistered(projection.name()))
}
