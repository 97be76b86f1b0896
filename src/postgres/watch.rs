//! The watch over a server: whether it is still the one that it was.

use std::time::Duration;

use sqlx::{Executor as _, PgConnection, Row as _};
use tokio::time::timeout;

use super::server::Server;

/// How often the server is asked whether it is still the same, and how long it may take to answer.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// The pause between two attempts to find a host.
const SEARCH_EVERY: Duration = Duration::from_millis(200);

/// A running server: the process that answers, and whether it is in recovery.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    in_recovery: bool,
    started_at: String,
}

impl Server {
    /// Asks the server once a second whether it is still the one that it was, for as long as the process
    /// runs. When it has become a standby, or its address leads to another server, all pools connect
    /// anew.
    pub async fn watch(self) {
        let mut seen: Option<Identity> = None;
        loop {
            let found = timeout(WATCH_EVERY, self.identify()).await;
            let Ok(Ok((mut connection, identity))) = found else {
                if let Ok(Err(error)) = found {
                    tracing::debug!(%error, "postgres: watch failed");
                }
                tokio::time::sleep(SEARCH_EVERY).await;
                continue;
            };
            if seen.as_ref().is_some_and(|seen| *seen != identity) {
                tracing::warn!("postgres: another server answers, all connections are replaced");
                self.discard_connections();
            }
            while let Ok(Ok(now)) = timeout(WATCH_EVERY, identity_of(&mut connection)).await {
                if now != identity {
                    tracing::warn!(
                        "postgres: the server became a standby, all connections are replaced"
                    );
                    self.discard_connections();
                    break;
                }
                let _ = timeout(WATCH_EVERY, self.trouble()).await;
            }
            seen = Some(identity);
        }
    }

    async fn identify(&self) -> Result<(PgConnection, Identity), sqlx::Error> {
        let mut connection = self.connect("customers watch", &[], WATCH_EVERY).await?;
        let identity = identity_of(&mut connection).await?;
        Ok((connection, identity))
    }
}

async fn identity_of(connection: &mut PgConnection) -> Result<Identity, sqlx::Error> {
    let statement = "select pg_catalog.pg_is_in_recovery()::text, \
                            pg_catalog.pg_postmaster_start_time()::text";
    let row = connection.fetch_one(statement).await?;
    Ok(Identity {
        in_recovery: row.try_get_unchecked::<String, _>(0)? == "true",
        started_at: row.try_get_unchecked(1)?,
    })
}
