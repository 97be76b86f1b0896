//! The replica: whether requests may read from it.

use std::fmt::Display;
use std::mem::discriminant;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use metrics::gauge;
use sqlx::PgConnection;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use uuid::Uuid;

use crate::events::log::read;
use crate::postgres::Pool;

/// How long requests skip a replica that did not answer.
const UNAVAILABLE_FOR: Duration = Duration::from_secs(1);

/// How often a replica is compared with the primary.
const COMPARED_EVERY: Duration = Duration::from_secs(1);

/// How long each of the two may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// The age of the oldest event that a replica lacks, in seconds, as last known.
const LAG: &str = "customers_replica_lag_seconds";

/// Whether requests may read from the replica.
const UP: &str = "customers_replica_up";

/// Connections to a replica.
pub struct Replica {
    /// For short queries.
    pub(super) short: Pool,
    /// For long queries.
    pub(super) long: Pool,
    /// How far it may lag behind.
    lag_max: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    unavailable_until: Option<Instant>,
    /// Why it is not used until the next comparison; `None` if it may be used.
    refused: Option<Refused>,
    /// Since when, for the log line of its recovery.
    refused_since: Option<Instant>,
}

/// Why a replica is not used.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("it is not compared with the primary")]
    NotCompared,
    /// It is away, was promoted, or is a copy.
    #[error("no standby of this log answers: {0}")]
    NoStandby(String),
    #[error("its log is not the log of the primary: it belongs to another cluster")]
    OtherLog,
    #[error("it lags by more than CUSTOMERS_REPLICA_MAX_LAG")]
    Lags,
}

impl Replica {
    #[must_use]
    pub fn new(short: Pool, long: Pool, lag_max: Duration) -> Self {
        let state = State { refused: Some(Refused::NotCompared), ..State::default() };
        // Registers both series.
        gauge!(UP).set(0.0);
        drop(gauge!(LAG));
        Self { short, long, lag_max, state: Mutex::new(state) }
    }

    /// Whether requests may read from it.
    pub(super) fn is_usable(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.refused.is_none()
            && state.unavailable_until.is_none_or(|until| until < Instant::now())
    }

    /// Records that it did not answer, so that other requests do not wait for it.
    pub(super) fn mark_unavailable(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.unavailable_until = Some(Instant::now() + UNAVAILABLE_FOR);
    }

    /// Compares it with the primary once a second, for as long as the process runs. Without a watch it is
    /// not used.
    pub(super) async fn watch(&self, primary: &Pool) {
        let _watched = Watched(self);
        let mut connection = None;
        let mut ticks = interval(COMPARED_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let compared = self.compare(&mut connection, primary).await;
            let lag = compared.as_ref().and_then(|compared| compared.as_ref().ok());
            if let Some(lag) = lag {
                gauge!(LAG).set(lag.as_secs_f64());
            }
            if let Some(compared) = compared {
                let within = |lag| if lag > self.lag_max { Err(Refused::Lags) } else { Ok(()) };
                self.decide(compared.and_then(within).err());
            }
        }
    }

    fn decide(&self, refused: Option<Refused>) {
        if matches!(refused, Some(Refused::NoStandby(_) | Refused::OtherLog)) {
            // Its address may lead to another server by now.
            self.short.server().discard_connections();
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = |refused: &Option<Refused>| refused.as_ref().map(discriminant);
        if kind(&state.refused) == kind(&refused) {
            return;
        }
        if let Some(reason) = &refused {
            tracing::warn!(%reason, "replica: not used");
            state.refused_since.get_or_insert_with(Instant::now);
        } else if let Some(since) = state.refused_since.take() {
            // As loud as the trouble before.
            tracing::warn!(away = ?since.elapsed(), "replica: used for reads again");
        } else {
            tracing::info!("replica: used for reads");
        }
        gauge!(UP).set(f64::from(u8::from(refused.is_none())));
        state.refused = refused;
    }

    /// How far it lags, or why it must not be used. `None` if the primary does not answer, or the query was
    /// cancelled: then the last verdict stands, and without the primary its replica goes on serving.
    ///
    /// The connection is the watch's own, so that requests do not keep it waiting.
    async fn compare(
        &self,
        connection: &mut Option<PgConnection>,
        primary: &Pool,
    ) -> Option<Result<Duration, Refused>> {
        let connected = match connection.take() {
            Some(replica) => Ok(replica),
            None => self.short.server().connect("customers replica watch", &[], ANSWER_LIMIT).await,
        };
        let mut replica = match connected {
            Ok(replica) => replica,
            Err(error) => return Some(Err(no_standby(&error))),
        };
        let shown = match timeout(ANSWER_LIMIT, Shown::by(&mut replica)).await {
            Ok(Ok(Some(shown))) => Some(shown),
            Ok(Err(error)) if is_cancelled(&error) => None,
            Ok(Ok(None)) => return Some(Err(no_standby(&"the server is not in recovery"))),
            Ok(Err(error)) => return Some(Err(no_standby(&error))),
            Err(_) => return Some(Err(no_standby(&"no answer in time"))),
        };
        *connection = Some(replica);
        timeout(ANSWER_LIMIT, lag(primary, shown?)).await.ok()?.ok()
    }
}

fn no_standby(problem: &dyn Display) -> Refused {
    Refused::NoStandby(problem.to_string())
}

/// The end of the log that a server shows.
struct Shown {
    head: i64,
    /// Command and time of the event there.
    event: Option<(Uuid, DateTime<Utc>)>,
}

impl Shown {
    /// `None` if the server is not in recovery.
    async fn by(replica: &mut PgConnection) -> Result<Option<Self>, sqlx::Error> {
        let Some(head) = read::head_of_standby(&mut *replica).await? else { return Ok(None) };
        Ok(Some(Self { head, event: read::identity(replica, head).await? }))
    }
}

/// Whether the server cancelled the query, to replay the log or because it took too long.
fn is_cancelled(error: &sqlx::Error) -> bool {
    let cancels = |code: &str| code.starts_with("40") || code == "57014";
    matches!(error, sqlx::Error::Database(error) if error.code().is_some_and(|code| cancels(&code)))
}

/// How far it lags: the age of the first event that it lacks. The log of a replica is the beginning of the
/// primary's log.
async fn lag(primary: &Pool, shown: Shown) -> Result<Result<Duration, Refused>, sqlx::Error> {
    let head = read::head(primary).await?;
    if shown.head > 0 && shown.event != read::identity(primary, shown.head).await? {
        return Ok(Err(Refused::OtherLog));
    }
    let lacks = shown.head < head;
    Ok(Ok(if lacks { read::age(primary, shown.head + 1).await? } else { Duration::ZERO }))
}

/// A replica, for as long as it is watched.
struct Watched<'a>(&'a Replica);

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        gauge!(UP).set(0.0);
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.refused = Some(Refused::NotCompared);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;
    use crate::postgres::Server;
    use crate::postgres::server::Demand;

    #[tokio::test]
    async fn without_its_watch_it_is_not_used() {
        let server = Server::new("postgres://127.0.0.1:1/none", Demand::Standby).unwrap();
        let pool = Pool::new(&server, "none", 1, COMPARED_EVERY, &[]);
        let replica = Replica::new(pool.clone(), pool.clone(), Duration::ZERO);
        assert!(!replica.is_usable());
        let mut watch = Box::pin(replica.watch(&pool));
        assert!(poll!(&mut watch).is_pending());
        replica.decide(None);
        assert!(replica.is_usable());
        // As after a panic.
        drop(watch);
        assert!(!replica.is_usable());
    }
}
