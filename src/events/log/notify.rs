//! Says that the log has appended, whichever process wrote. What this process appends is known at once;
//! other processes are told by `NOTIFY`, after the commit and on a connection of its own: inside the
//! transaction it would serialise every commit of the server.
//!
//! It is a hint and carries nothing that is believed: who is woken reads the log. Who waits asks
//! again after a while all the same, so a hint that is lost costs time and nothing else.

use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::watch;

use super::Appender;
use crate::tasks::Tasks;

/// The channel on which processes tell each other.
pub const CHANNEL: &str = "customers_events";

/// How many connections it needs: one to tell, one to be told.
pub const CONNECTIONS: u32 = 2;

/// The pause behind a `NOTIFY`: whatever grows in it is told at once behind it.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(10);

/// How long to wait after a failure.
const FAILURE_PAUSE: Duration = Duration::from_millis(500);

/// One who waits for the log to grow. Each clone waits for itself.
#[derive(Clone)]
pub struct Subscription(watch::Receiver<()>);

impl Subscription {
    /// Starts to tell others what `appender` appends and to be told; ends with `shutdown`.
    #[must_use]
    pub fn start(appender: &Appender, pool: PgPool, tasks: &Tasks) -> Self {
        let (appended, subscription) = watch::channel(());
        let batches = appender.subscribe();
        let work = async move {
            tokio::join!(
                forward(batches.clone(), &appended),
                publish(batches, &pool),
                listen(&pool, &appended)
            );
        };
        tasks.spawn_until_shutdown(work);
        Self(subscription)
    }

    /// From here on growth counts: called before the log is read.
    pub fn mark_seen(&mut self) {
        self.0.mark_unchanged();
    }

    /// Waits until the log has appended since the mark, at most for `limit`.
    pub async fn wait(&mut self, limit: Duration) {
        if let Ok(Err(_)) = tokio::time::timeout(limit, self.0.changed()).await {
            // The process is stopping: nobody says anything any more.
            tokio::time::sleep(limit).await;
        }
    }
}

async fn forward(mut batches: watch::Receiver<()>, appended: &watch::Sender<()>) {
    while batches.changed().await.is_ok() {
        appended.send_replace(());
    }
}

/// Tells other processes, at most once in a while.
async fn publish(mut batches: watch::Receiver<()>, pool: &PgPool) {
    while batches.changed().await.is_ok() {
        let published = sqlx::query!("select pg_notify($1, '')", CHANNEL).execute(pool).await;
        if let Err(error) = published {
            tracing::warn!(%error, "other processes cannot be told that the log has appended");
        }
        tokio::time::sleep(PUBLISH_INTERVAL).await;
    }
}

/// Passes on what other processes tell, and connects again whenever the connection is lost.
async fn listen(pool: &PgPool, appended: &watch::Sender<()>) {
    loop {
        if let Err(error) = listen_once(pool, appended).await {
            if matches!(error, sqlx::Error::PoolClosed) {
                return;
            }
            // Who waits looks now: the server may have crashed, and come back with less.
            appended.send_replace(());
            tracing::warn!(%error, "cannot be told when the log grows; it is looked at every second");
            tokio::time::sleep(FAILURE_PAUSE).await;
        }
    }
}

/// Until the connection is lost.
async fn listen_once(pool: &PgPool, appended: &watch::Sender<()>) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(CHANNEL).await?;
    loop {
        // The first time for what was told while nobody listened.
        appended.send_replace(());
        if listener.try_recv().await?.is_none() {
            return Ok(());
        }
    }
}
