//! Follows the log, page by page. No process owns a projection: each page is one short transaction
//! that locks the checkpoint's row if it is free, so any process may apply the next page, and a
//! process that is frozen loses its lock.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;
use sqlx::FromRow as _;

use super::next_page::{NEXT_PAGE, PageRow, move_checkpoint, prepare};
use super::page::{PageMode, PageStep};
use super::parked;
use super::progress::{Progress, ProgressBoard};
use super::projection::{Projection, ProjectionError};
use super::projector_metrics::ProjectorMetrics;
use super::table_slot::TableSlot;
use crate::events::log::StoredEvent;
use crate::events::log::notify::Subscription;
use crate::postgres::kept::KeptConnection;
use crate::postgres::{Connection, Pool};
use crate::tasks::Tasks;

/// How many events one transaction applies at most: so many that the cost of a transaction is negligible,
/// so few that a page takes milliseconds.
const PAGE: usize = 1000;

/// How often the log is read without a notification: other processes write too.
const POLL: Duration = Duration::from_secs(1);

/// The pause before the next attempt while another process holds the checkpoint's row.
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// The pause after a failure: the database is unreachable.
const FAILURE_PAUSE: Duration = Duration::from_millis(250);

/// A running projector. Clones share it.
#[derive(Clone)]
pub struct Projector {
    projection: &'static dyn Projection,
    board: Arc<ProgressBoard>,
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
        let board = Arc::new(ProgressBoard::default());
        let shown = Arc::clone(&board);
        tasks.supervise(format!("projector {}", projection.name()), move || {
            let (pool, mut appends, board) = (pool.clone(), appends.clone(), Arc::clone(&shown));
            async move { follow(projection, &pool, &mut appends, &board).await }
        });
        Self { projection, board }
    }

    /// The checkpoint that this process saw last.
    #[must_use]
    pub fn checkpoint(&self) -> i64 {
        self.board.progress().checkpoint
    }

    /// Waits until the projection has applied `position`; `false` if it has not after `limit`.
    pub async fn wait_for_position(&self, position: i64, limit: Duration) -> bool {
        self.board.wait_for(position, limit).await
    }

    /// Whether events of the customer up to the checkpoint are parked.
    pub async fn has_parked(&self, pool: &Pool, customer_id: i64) -> Result<bool, sqlx::Error> {
        let has_parked = self.board.progress().has_parked;
        Ok(has_parked && parked::is_parked(self.projection, pool, customer_id).await?)
    }
}

async fn follow(
    projection: &dyn Projection,
    pool: &Pool,
    appends: &mut Subscription,
    board: &ProgressBoard,
) {
    let mut mode = PageMode::Whole;
    let metrics = ProjectorMetrics::new(projection.name());
    let mut connection = KeptConnection::new(pool.clone(), prepare(projection, PAGE));
    loop {
        appends.mark_seen();
        // Requests that have begun to wait so far are served by the next page.
        let _ = board.demanded().now_or_never();
        let was_open = connection.is_open();
        if !was_open {
            // The position is unknown until the database answers: a crash may have lost commits.
            board.show(Progress::default());
        }
        match apply_next_page(projection, &mut connection, mode).await {
            Ok(applied) => {
                mode = PageMode::Whole;
                // The value of the database counts even if it is lower than before, because the database
                // may have been restored.
                board.show(applied.progress);
                metrics.at(applied.progress.checkpoint);
                if let Some((events, oldest)) = applied.page {
                    metrics.applied(events, oldest);
                }
                match applied.next {
                    Next::More => {}
                    Next::Busy => tokio::time::sleep(BUSY_PAUSE).await,
                    Next::CaughtUp => {
                        tokio::select! {
                            () = appends.wait(POLL) => pace(board, projection.pace()).await,
                            () = board.demanded() => {}
                            () = connection.replaced() => {}
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
            // The next attempt is on a fresh connection.
            Err(ProjectionError::Database(error)) if connection.has_lost(&error) && was_open => {}
            Err(error) => {
                tracing::error!(
                    projection = projection.name(), %error,
                    "projector: page failed, retrying"
                );
                board.show(Progress::default());
                tokio::time::sleep(FAILURE_PAUSE).await;
            }
        }
    }
}

/// Waits for the projection's pace, or until a request waits.
async fn pace(board: &ProgressBoard, pace: Duration) {
    if !board.has_waiting() {
        let _ = tokio::time::timeout(pace, board.demanded()).await;
    }
}

/// The result of one attempt to apply a page.
struct Applied {
    progress: Progress,
    next: Next,
    /// The number of events that were applied, and the time of the oldest.
    page: Option<(usize, DateTime<Utc>)>,
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
    connection: &mut KeptConnection,
    mode: PageMode,
) -> Result<Applied, ProjectionError> {
    let (mut transaction, rows) = connection.begin(NEXT_PAGE).await?;
    let rows = rows.iter().map(PageRow::from_row).collect::<Result<Vec<_>, _>>()?;
    let Some(PageRow { checkpoint, seen_checkpoint, has_parked, .. }) = rows.first() else {
        // On the same connection: with as many projectors as connections, none would get a second one.
        let progress = read_progress(projection, &mut transaction).await?;
        transaction.roll_back().await?;
        return Ok(Applied { progress, next: Next::Busy, page: None });
    };
    let progress = Progress { checkpoint: *checkpoint, has_parked: *has_parked };
    if progress.checkpoint != *seen_checkpoint {
        // Another process has applied a page since the statement began, and perhaps parked customers.
        transaction.roll_back().await?;
        return Ok(Applied { progress, next: Next::More, page: None });
    }
    let page: Vec<StoredEvent> = rows.into_iter().filter_map(|row| row.event).collect();
    let Some(last) = page.last().map(|event| event.position) else {
        transaction.roll_back().await?;
        return Ok(Applied { progress, next: Next::CaughtUp, page: None });
    };
    let next = if page.len() == PAGE { Next::More } else { Next::CaughtUp };
    let measured = page.first().map(|oldest| (page.len(), oldest.recorded_at));
    let step = PageStep { slot: TableSlot::Live, mode, has_parked: progress.has_parked };
    step.apply(projection, &mut transaction, page).await?;
    transaction.commit_with(&move_checkpoint(last)).await?;
    let has_parked = mode == PageMode::Isolate || progress.has_parked;
    let progress = Progress { checkpoint: last, has_parked };
    Ok(Applied { progress, next, page: measured })
}

async fn read_progress(
    projection: &dyn Projection,
    db: &mut Connection,
) -> Result<Progress, ProjectionError> {
    sqlx::query_as!(
        Progress,
        r#"select checkpoint,
                  exists (select from parked_customers
                          where projection = $1 and version = $2 and place = 'public') as "has_parked!"
           from projections where name = $1 and version = $2"#,
        projection.name(),
        projection.version()
    )
    .fetch_optional(db)
    .await?
    .ok_or(ProjectionError::NotRegistered(projection.name()))
}
