//! Follows the log, page by page. Nobody owns a projection: each page is one short transaction that
//! takes the checkpoint's row if it is free, so any process may take the next page and a stopped one
//! loses its turn.

use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Projection, ProjectionError};
use crate::events::log::growth::Growth;
use crate::events::log::read;

/// The most events that one transaction takes over: large enough that the cost of a transaction
/// does not show, small enough that a page takes milliseconds.
const PAGE: i64 = 1000;

/// How often the log is looked at when nobody said that there is something new: other processes
/// write too.
const POLL: Duration = Duration::from_secs(1);

/// How soon to look again while another process has the page.
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// How long to wait after a failure: the database is away, or an event cannot be taken over.
const FAILURE_PAUSE: Duration = Duration::from_millis(250);

/// A running projector. Clones watch the same one.
#[derive(Clone)]
pub struct Projector {
    checkpoint: watch::Receiver<i64>,
}

impl Projector {
    /// Starts to follow the log; ends when `shutdown` is cancelled.
    #[must_use]
    pub fn start(
        projection: &'static dyn Projection,
        pool: PgPool,
        mut growth: Growth,
        shutdown: CancellationToken,
    ) -> Self {
        let (sender, checkpoint) = watch::channel(0);
        tokio::spawn(async move {
            let follow = follow(projection, &pool, &mut growth, &sender);
            shutdown.run_until_cancelled(follow).await;
        });
        Self { checkpoint }
    }

    /// The checkpoint that this process saw last.
    #[must_use]
    pub fn checkpoint(&self) -> i64 {
        *self.checkpoint.borrow()
    }

    /// Waits until the projection has applied `position`. `false` if it has not after `limit`.
    pub async fn reached(&self, position: i64, limit: Duration) -> bool {
        let mut checkpoint = self.checkpoint.clone();
        let reached = checkpoint.wait_for(|checkpoint| *checkpoint >= position);
        matches!(tokio::time::timeout(limit, reached).await, Ok(Ok(_)))
    }
}

async fn follow(
    projection: &dyn Projection,
    pool: &PgPool,
    growth: &mut Growth,
    checkpoint: &watch::Sender<i64>,
) {
    loop {
        growth.mark();
        let pause = match take_page(projection, pool).await {
            Ok(page) => {
                // What the database has, also when that is less than before: it may have been
                // restored.
                checkpoint.send_replace(page.checkpoint);
                metrics::gauge!("customers_projection_checkpoint", "projection" => projection.name())
                    .set(metric(page.checkpoint));
                match page.next {
                    Next::Go => continue,
                    Next::Busy => BUSY_PAUSE,
                    Next::Wait => POLL,
                }
            }
            Err(error) => {
                tracing::error!(projection = projection.name(), %error, "cannot follow the log");
                tokio::time::sleep(FAILURE_PAUSE).await;
                continue;
            }
        };
        if pause == BUSY_PAUSE {
            tokio::time::sleep(BUSY_PAUSE).await;
        } else {
            growth.more(pause).await;
        }
    }
}

/// What one turn led to.
struct Page {
    checkpoint: i64,
    next: Next,
}

enum Next {
    /// The page was full: there is more.
    Go,
    /// Another process has the checkpoint's row.
    Busy,
    /// Nothing left.
    Wait,
}

async fn take_page(projection: &dyn Projection, pool: &PgPool) -> Result<Page, ProjectionError> {
    let mut transaction = pool.begin().await?;
    let taken = sqlx::query_scalar!(
        "select checkpoint from projections where name = $1 and version = $2
         for update skip locked",
        projection.name(),
        projection.version()
    )
    .fetch_optional(&mut *transaction)
    .await?;
    let Some(checkpoint) = taken else {
        // On the same connection: with as many projectors as connections, none would get a second.
        let checkpoint = checkpoint_of(projection, &mut *transaction).await?;
        return Ok(Page { checkpoint, next: Next::Busy });
    };
    let page = read::page(&mut *transaction, checkpoint, PAGE).await?;
    let Some(last) = page.last().map(|event| event.position) else {
        return Ok(Page { checkpoint, next: Next::Wait });
    };
    projection.apply(&mut transaction, &page).await?;
    set_checkpoint(&mut transaction, projection, last).await?;
    transaction.commit().await?;
    let full = i64::try_from(page.len()).is_ok_and(|length| length == PAGE);
    Ok(Page { checkpoint: last, next: if full { Next::Go } else { Next::Wait } })
}

/// The position that the projection has applied.
///
/// # Errors
/// When PostgreSQL cannot be asked or does not know the projection.
pub async fn checkpoint_of(
    projection: &dyn Projection,
    db: impl sqlx::PgExecutor<'_>,
) -> Result<i64, ProjectionError> {
    sqlx::query_scalar!(
        "select checkpoint from projections where name = $1 and version = $2",
        projection.name(),
        projection.version()
    )
    .fetch_optional(db)
    .await?
    .ok_or(ProjectionError::Unknown(projection.name()))
}

/// Moves the checkpoint, in the transaction that wrote the rows.
pub(super) async fn set_checkpoint(
    db: &mut sqlx::PgConnection,
    projection: &dyn Projection,
    position: i64,
) -> Result<(), ProjectionError> {
    let moved = sqlx::query!(
        "update projections set checkpoint = $3 where name = $1 and version = $2",
        projection.name(),
        projection.version(),
        position
    )
    .execute(db)
    .await?
    .rows_affected();
    if moved == 1 { Ok(()) } else { Err(ProjectionError::Unknown(projection.name())) }
}

/// A position or a number of them, as metrics want it.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "positions stay below 2^53, where f64 is exact")]
pub fn metric(position: i64) -> f64 {
    position as f64
}
