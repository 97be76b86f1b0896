//! The watch over a server: whether it is still the one that it was.

use std::time::Duration;

use sqlx::{Executor as _, PgConnection, Row as _};
use tokio::time::{Instant, timeout};

use super::server::{Server, timed_out};

/// How often the server is asked, how long it may take to answer, and how long connecting to each of its
/// hosts may take.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// The pause after an attempt to find a host; doubled with each further one, up to [`WATCH_EVERY`].
const SEARCH_PAUSE: Duration = Duration::from_millis(200);

/// A running server: the process that answers, and whether it accepts writes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    in_recovery: bool,
    is_read_only: bool,
    started_at: String,
}

impl Server {
    /// Asks the server once a second whether it is still the one that it was, for as long as the process
    /// runs. When it has become a standby, or its address leads to another server, all pools connect
    /// anew. When it does not answer, another of its hosts is looked for.
    pub async fn watch(self) {
        let mut seen: Option<Identity> = None;
        let mut pause = SEARCH_PAUSE;
        let mut away = None;
        loop {
            let (mut connection, identity) = match self.identify().await {
                Ok(found) => found,
                Err(error) => {
                    if away.is_none() {
                        tracing::warn!(server = self.kind(), %error, "postgres: no answer");
                    }
                    away.get_or_insert_with(Instant::now);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(WATCH_EVERY);
                    continue;
                }
            };
            pause = SEARCH_PAUSE;
            if let Some(since) = away.take() {
                // As loud as the trouble before.
                tracing::warn!(server = self.kind(), away = ?since.elapsed(), "postgres: answers again");
            }
            if seen.as_ref().is_some_and(|seen| *seen != identity) {
                tracing::warn!("postgres: another server answers, all connections are replaced");
                self.mark_replaced();
            }
            while let Ok(now) = identity_of(&mut connection).await {
                if now != identity {
                    tracing::warn!(
                        "postgres: the server is no longer what it was, all connections are replaced"
                    );
                    self.mark_replaced();
                    break;
                }
                let _ = timeout(WATCH_EVERY, self.trouble()).await;
            }
            seen = Some(identity);
        }
    }

    /// Connects to the first host that is what it should be. Each host has its own limit of time, so that one
    /// that answers nothing does not keep the search from the next.
    async fn identify(&self) -> Result<(PgConnection, Identity), sqlx::Error> {
        let mut connection = self.connect("customers watch", &[], WATCH_EVERY).await?;
        let identity = identity_of(&mut connection).await?;
        Ok((connection, identity))
    }
}

async fn identity_of(connection: &mut PgConnection) -> Result<Identity, sqlx::Error> {
    let statement = "select pg_catalog.pg_is_in_recovery()::text, \
                            pg_catalog.current_setting('default_transaction_read_only'), \
                            pg_catalog.pg_postmaster_start_time()::text";
    let answered = timeout(WATCH_EVERY, connection.fetch_one(statement)).await;
    let row = answered.unwrap_or_else(|_| Err(timed_out()))?;
    Ok(Identity {
        in_recovery: row.try_get_unchecked::<String, _>(0)? == "true",
        is_read_only: row.try_get_unchecked::<String, _>(1)? == "on",
        started_at: row.try_get_unchecked(2)?,
    })
}
