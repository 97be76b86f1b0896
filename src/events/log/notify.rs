//! Notifications that the log has grown. Appends of this process notify its subscribers directly; other
//! processes are notified by `NOTIFY`, after the commit and on a connection of its own: inside the
//! transaction, `NOTIFY` would serialise every commit of the server.
//!
//! A notification is a hint without content: a subscriber that is woken reads the log. Each subscriber
//! also polls, so a lost notification only costs time.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Executor as _;
use sqlx::postgres::PgListener;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::Appender;
use crate::postgres::Pool;
use crate::postgres::answer_limit::AnswerLimit;
use crate::tasks::{Ended, Tasks};

/// The channel of `NOTIFY`.
pub const CHANNEL: &str = "customers_events";

/// How many connections of the pool notifications need: one publishes. The one that listens has a pool of its
/// own.
pub const CONNECTIONS: u32 = 1;

/// The pause after a `NOTIFY`: all appends within it share the next one.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(10);

/// The pause after a failure.
const FAILURE_PAUSE: Duration = Duration::from_millis(500);

/// How long the connection that listens may be silent before it is asked, and how long it may take to answer.
const SILENT_FOR: Duration = Duration::from_secs(10);
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// A subscription to the growth of the log. Each clone marks on its own which appends it has seen.
#[derive(Clone)]
pub struct Subscription(watch::Receiver<()>);

impl Subscription {
    /// Starts to publish the appends of `appender` until its last handle is dropped, and to listen for those of
    /// other processes, until shutdown.
    #[must_use]
    pub fn start(appender: &Appender, pool: Pool, tasks: &Tasks) -> Self {
        let (appended, subscription) = watch::channel(());
        let appended = Arc::new(appended);
        let batches = appender.subscribe();
        tasks.supervise_until_done("notify forward", {
            let (batches, appended) = (batches.clone(), Arc::clone(&appended));
            move || forward(batches.clone(), Arc::clone(&appended))
        });
        tasks.supervise_until_done("notify publish", {
            let pool = pool.clone();
            move || publish(batches.clone(), pool.clone())
        });
        tasks.supervise("notify listen", move || listen(pool.clone(), Arc::clone(&appended)));
        Self(subscription)
    }

    /// Marks all appends so far as seen; called before the log is read.
    pub fn mark_seen(&mut self) {
        self.0.mark_unchanged();
    }

    /// Waits for an append after the mark, at most for `limit`.
    pub async fn wait(&mut self, limit: Duration) {
        if let Ok(Err(_)) = timeout(limit, self.0.changed()).await {
            // The process is stopping: no further notification will arrive.
            tokio::time::sleep(limit).await;
        }
    }
}

/// Notifies this process of its own appends.
async fn forward(mut batches: watch::Receiver<()>, appended: Arc<watch::Sender<()>>) -> Ended {
    while batches.changed().await.is_ok() {
        appended.send_replace(());
    }
    Ended::Done
}

/// Notifies other processes, at most once per interval.
async fn publish(mut batches: watch::Receiver<()>, pool: Pool) -> Ended {
    while batches.changed().await.is_ok() {
        let published = sqlx::query!("select pg_notify($1, '')", CHANNEL).execute(&pool).await;
        if let Err(error) = published {
            tracing::warn!(%error, "notify: publish failed, other processes poll");
        }
        tokio::time::sleep(PUBLISH_INTERVAL).await;
    }
    Ended::Done
}

/// Listens for notifications of other processes; reconnects when the connection is lost.
async fn listen(pool: Pool, appended: Arc<watch::Sender<()>>) {
    loop {
        if let Err(error) = listen_once(&pool, &appended).await {
            if matches!(error, sqlx::Error::PoolClosed) {
                return;
            }
            reread(&pool, &appended);
            tracing::warn!(%error, "notify: listen failed, polling each second");
            tokio::time::sleep(FAILURE_PAUSE).await;
        }
    }
}

/// After the connection was lost: PostgreSQL may have crashed and lost events, so subscribers must read the log
/// now, and not from a backend that has outlived its server.
fn reread(pool: &Pool, appended: &watch::Sender<()>) {
    pool.server().discard_connections();
    appended.send_replace(());
}

/// Listens until the connection is lost, or leads to another server than the new ones.
async fn listen_once(pool: &Pool, appended: &watch::Sender<()>) -> Result<(), sqlx::Error> {
    // Not a connection of the pool: sqlx returns that of a listener after a last statement, which has no limit.
    let own = pool.of_one(ANSWER_LIMIT);
    let (opened_at, limit) = (Instant::now(), AnswerLimit::new(pool.server(), Some(ANSWER_LIMIT)));
    let mut listener = PgListener::connect_with(own.once()).await?;
    limit.wait(listener.listen(CHANNEL)).await??;
    loop {
        // The first iteration makes up for the notifications before `LISTEN`.
        appended.send_replace(());
        let received = tokio::select! {
            received = timeout(SILENT_FOR, listener.try_recv()) => received,
            () = pool.server().replaced(opened_at) => return Ok(()),
            () = pool.closed() => return Err(sqlx::Error::PoolClosed),
        };
        match received {
            Ok(received) => {
                if received?.is_none() {
                    reread(pool, appended);
                    return Ok(());
                }
            }
            Err(_) => {
                limit.wait(listener.execute("select 1")).await??;
            }
        }
    }
}
