//! Probes whether the database has other load: without it a rebuild uses the whole machine, with it a
//! rebuild leaves most of the machine to requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::postgres::{Connection, Pool};
use tokio_util::task::AbortOnDropHandle;

/// The `application_name` of connections of rebuilds, which do not count as other load.
pub const APPLICATION_NAME: &str = "customers rebuild";

/// The interval of the probe, and the time that each probe covers: a statement that ended earlier is not
/// seen.
pub(super) const PROBE_INTERVAL: Duration = Duration::from_millis(20);

/// How many probes are kept, one bit each.
const WINDOW: u32 = 8;

/// The database is busy if that many probes of the window saw a statement. An idle service reads the
/// log a few times a second.
const THRESHOLD: u32 = 3;

/// Probes until it is dropped.
pub(super) struct LoadProbe {
    is_busy: Arc<AtomicBool>,
    _task: AbortOnDropHandle<()>,
}

impl LoadProbe {
    pub(super) fn start(pool: Pool) -> Self {
        // Busy until the window is full.
        let is_busy = Arc::new(AtomicBool::new(true));
        let result = Arc::clone(&is_busy);
        let task = async move {
            let mut window: u32 = 0;
            for number in 1.. {
                let saw_load = probe(&pool).await.unwrap_or(true);
                window = ((window << 1) | u32::from(saw_load)) & ((1 << WINDOW) - 1);
                if number >= WINDOW {
                    result.store(window.count_ones() >= THRESHOLD, Ordering::Relaxed);
                }
                tokio::time::sleep(PROBE_INTERVAL).await;
            }
        };
        Self { is_busy, _task: AbortOnDropHandle::new(tokio::spawn(task)) }
    }

    /// Whether the database has other load now.
    pub(super) fn is_busy(&self) -> bool {
        self.is_busy.load(Ordering::Relaxed)
    }

    /// While the database has other load, PostgreSQL executes the rest of this transaction with one
    /// process.
    pub(super) async fn limit_parallelism(
        &self,
        transaction: &mut Connection,
    ) -> Result<(), sqlx::Error> {
        if self.is_busy() {
            sqlx::query!(
                "select set_config('max_parallel_maintenance_workers', '0', true) as indexes,
                    set_config('max_parallel_workers_per_gather', '0', true) as queries"
            )
            .fetch_one(transaction)
            .await?;
        }
        Ok(())
    }
}

async fn probe(pool: &Pool) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select exists (
               select from pg_stat_activity
               where datname = current_database() and backend_type = 'client backend'
                 and application_name <> $1
                 and (state = 'active' or state_change > clock_timestamp() - interval '20 ms')
           ) as "exists!""#,
        APPLICATION_NAME
    )
    .fetch_one(pool)
    .await
}
