//! The replica: whether requests may read from it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use metrics::gauge;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::events::log::read;
use crate::postgres::Pool;

/// How long requests skip a replica that did not answer.
const UNAVAILABLE_FOR: Duration = Duration::from_secs(1);

/// How often a replica is compared with the primary.
const COMPARED_EVERY: Duration = Duration::from_secs(1);

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
}

/// Why a replica is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Refused {
    #[error("it has not been compared with the primary yet")]
    NotCompared,
    #[error("its log is not the log of the primary: it belongs to another cluster")]
    OtherLog,
    #[error("it lags by more than CUSTOMERS_REPLICA_MAX_LAG")]
    Lags,
}

impl Replica {
    #[must_use]
    pub fn new(short: Pool, long: Pool, lag_max: Duration) -> Self {
        let state = State { refused: Some(Refused::NotCompared), ..State::default() };
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

    /// Compares it with the primary once a second, for as long as the process runs.
    pub(super) async fn watch(&self, primary: &Pool) {
        let mut ticks = interval(COMPARED_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // While one of them does not answer, the last comparison stands: without the primary its
            // replica goes on serving.
            let Ok(refused) = self.compare(primary).await else { continue };
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.refused != refused {
                if let Some(reason) = refused {
                    tracing::error!(%reason, "replica: not used");
                } else {
                    tracing::info!("replica: used for reads");
                }
                state.refused = refused;
            }
        }
    }

    /// Why it must not be used. The log of a replica is the beginning of the primary's log, and the first
    /// event that it lacks is young.
    async fn compare(&self, primary: &Pool) -> Result<Option<Refused>, sqlx::Error> {
        let shown = read::head(&self.short).await?;
        let head = read::head(primary).await?;
        let last = read::identity(&self.short, shown).await?;
        if shown > 0 && last != read::identity(primary, shown).await? {
            return Ok(Some(Refused::OtherLog));
        }
        let lag = if shown < head { read::age(primary, shown + 1).await? } else { Duration::ZERO };
        gauge!("customers_replica_lag_seconds").set(lag.as_secs_f64());
        Ok((lag > self.lag_max).then_some(Refused::Lags))
    }
}
