//! Follows the log, page by page. Nobody owns a projection: each page is one short transaction that
//! takes the checkpoint's row if it is free, so any process may take the next page and a stopped one
//! loses its turn.

use std::time::Duration;

use sqlx::{PgConnection, PgPool};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::checkpoint::set_checkpoint;
use super::parked::{self, How};
use super::status::metric;
use super::{Place, Projection, ProjectionError};
use crate::events::log::notify::Subscription;
use crate::events::log::read;
use crate::transaction;

/// The most events that one transaction takes over: large enough that the cost of a transaction
/// does not show, small enough that a page takes milliseconds.
const PAGE: i64 = 1000;

/// How often the log is looked at when nobody said that there is something new: other processes
/// write too.
const POLL: Duration = Duration::from_secs(1);

/// How soon to look again while another process has the page.
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// How long to wait after a failure: the database is away.
const FAILURE_PAUSE: Duration = Duration::from_millis(250);

/// A running projector. Clones watch the same one.
#[derive(Clone)]
pub struct Projector {
    projection: &'static dyn Projection,
    reached: watch::Receiver<Reached>,
}

/// What the database said last.
#[derive(Debug, Clone, Copy, Default)]
struct Reached {
    checkpoint: i64,
    /// Some customers lack events up to there.
    has_parked: bool,
}

impl Projector {
    /// Starts to follow the log; ends when `shutdown` is cancelled.
    #[must_use]
    pub fn start(
        projection: &'static dyn Projection,
        pool: PgPool,
        mut appends: Subscription,
        shutdown: CancellationToken,
    ) -> Self {
        let (sender, reached) = watch::channel(Reached::default());
        tokio::spawn(async move {
            let follow = follow(projection, &pool, &mut appends, &sender);
            shutdown.run_until_cancelled(follow).await;
        });
        Self { projection, reached }
    }

    /// The checkpoint that this process saw last.
    #[must_use]
    pub fn checkpoint(&self) -> i64 {
        self.reached.borrow().checkpoint
    }

    /// Waits until the projection has applied `position`. `false` if it has not after `limit`.
    pub async fn reached(&self, position: i64, limit: Duration) -> bool {
        let mut reached = self.reached.clone();
        let reached = reached.wait_for(|reached| reached.checkpoint >= position);
        matches!(tokio::time::timeout(limit, reached).await, Ok(Ok(_)))
    }

    /// Whether the tables lack events of the customer up to the checkpoint.
    ///
    /// # Errors
    /// When PostgreSQL cannot be asked.
    pub async fn lacks(&self, pool: &PgPool, customer_id: i64) -> Result<bool, sqlx::Error> {
        let has_parked = self.reached.borrow().has_parked;
        Ok(has_parked && parked::is_parked(self.projection, pool, customer_id).await?)
    }
}

async fn follow(
    projection: &dyn Projection,
    pool: &PgPool,
    appends: &mut Subscription,
    reached: &watch::Sender<Reached>,
) {
    let mut how = Care::Plain;
    loop {
        appends.mark_seen();
        let pause = match take_page(projection, pool, how).await {
            Ok(page) => {
                how = Care::Plain;
                // What the database has, also when that is less than before: it may have been
                // restored.
                reached.send_replace(page.reached);
                metrics::gauge!("customers_projection_checkpoint", "projection" => projection.name())
                    .set(metric(page.reached.checkpoint));
                match page.next {
                    Next::Go => continue,
                    Next::Busy => BUSY_PAUSE,
                    Next::Wait => POLL,
                }
            }
            Err(error) if error.is_of_an_event() && how == Care::Plain => {
                tracing::warn!(projection = projection.name(), %error, "a page has to be taken apart");
                how = Care::Apart;
                continue;
            }
            Err(error) => {
                tracing::error!(projection = projection.name(), %error, "cannot follow the log");
                // Nothing is known until the database answers again: it may come back with less.
                reached.send_replace(Reached::default());
                tokio::time::sleep(FAILURE_PAUSE).await;
                continue;
            }
        };
        if pause == BUSY_PAUSE {
            tokio::time::sleep(BUSY_PAUSE).await;
        } else {
            appends.wait(pause).await;
        }
    }
}

/// How a page is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Care {
    /// All of it at once.
    Plain,
    /// What cannot be taken over is looked for and parked.
    Apart,
}

/// What one turn led to.
struct Page {
    reached: Reached,
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

async fn take_page(
    projection: &dyn Projection,
    pool: &PgPool,
    how: Care,
) -> Result<Page, ProjectionError> {
    let mut transaction = transaction::begin(pool).await?;
    let taken = sqlx::query_as!(
        Reached,
        r#"select checkpoint,
                  exists (select from parked_customers
                          where projection = $1 and version = $2 and place = 'public')
                      as "has_parked!"
           from projections where name = $1 and version = $2
           for update skip locked"#,
        projection.name(),
        projection.version()
    )
    .fetch_optional(&mut *transaction)
    .await?;
    let Some(reached) = taken else {
        // On the same connection: with as many projectors as connections, none would get a second.
        let reached = reached_by(projection, &mut transaction).await?;
        return Ok(Page { reached, next: Next::Busy });
    };
    let turn = Turn { place: Place::Public, how, has_parked: reached.has_parked };
    let advanced = turn.advance(projection, &mut transaction, reached.checkpoint, PAGE).await?;
    let Some(advanced) = advanced else {
        return Ok(Page { reached, next: Next::Wait });
    };
    set_checkpoint(&mut transaction, projection, advanced.checkpoint).await?;
    let checkpoint = advanced.checkpoint;
    let has_parked = how == Care::Apart || reached.has_parked;
    transaction.commit().await?;
    let next = if advanced.was_full { Next::Go } else { Next::Wait };
    Ok(Page { reached: Reached { checkpoint, has_parked }, next })
}

/// A page to take over, in any place.
pub(super) struct Turn {
    pub(super) place: Place,
    pub(super) how: Care,
    pub(super) has_parked: bool,
}

/// How far a page led.
pub(super) struct Advanced {
    pub(super) checkpoint: i64,
    pub(super) was_full: bool,
}

impl Turn {
    /// Takes over up to `limit` events behind `checkpoint`; `None` when there are none. The caller
    /// moves the checkpoint.
    pub(super) async fn advance(
        &self,
        projection: &dyn Projection,
        db: &mut PgConnection,
        checkpoint: i64,
        limit: i64,
    ) -> Result<Option<Advanced>, ProjectionError> {
        let mut page = read::page(&mut *db, checkpoint, limit).await?;
        let Some(last) = page.last().map(|event| event.position) else { return Ok(None) };
        let was_full = i64::try_from(page.len()).is_ok_and(|length| length == limit);
        if self.has_parked {
            page = parked::without_parked(projection, db, self.place, page).await?;
        }
        match self.how {
            Care::Plain => projection.apply(db, &page).await?,
            Care::Apart => {
                parked::take_or_park(projection, db, self.place, How::Apply, page).await?;
            }
        }
        Ok(Some(Advanced { checkpoint: last, was_full }))
    }
}

async fn reached_by(
    projection: &dyn Projection,
    db: &mut PgConnection,
) -> Result<Reached, ProjectionError> {
    sqlx::query_as!(
        Reached,
        r#"select checkpoint,
                  exists (select from parked_customers
                          where projection = $1 and version = $2 and place = 'public')
                      as "has_parked!"
           from projections where name = $1 and version = $2"#,
        projection.name(),
        projection.version()
    )
    .fetch_optional(db)
    .await?
    .ok_or(ProjectionError::Unknown(projection.name()))
}
