//! Whether anybody else uses the database: a rebuild that is alone takes all of the machine, one that
//! is not leaves most of it to the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::{PgConnection, PgPool};
use tokio_util::task::AbortOnDropHandle;

/// What connections of rebuilds call themselves, so that they do not count.
pub const REBUILD: &str = "customers rebuild";

/// How often is looked, and how far back: a statement that ended before is not seen.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(20);

/// So many looks are kept, each a bit, ...
const LOOKS: u32 = 8;

/// ... and if somebody was there in so many of them, the others are at work. A service that nobody
/// asks anything looks at its log a few times a second.
const ENOUGH: u32 = 3;

/// Looks on while it lives.
pub(super) struct Others {
    at_work: Arc<AtomicBool>,
    _looking: AbortOnDropHandle<()>,
}

impl Others {
    pub(super) fn watch(pool: PgPool) -> Self {
        // Until more is known.
        let at_work = Arc::new(AtomicBool::new(true));
        let told = Arc::clone(&at_work);
        let look = async move {
            let mut looks: u32 = 0;
            for number in 1.. {
                let was_there = look(&pool).await.unwrap_or(true);
                looks = ((looks << 1) | u32::from(was_there)) & ((1 << LOOKS) - 1);
                if number >= LOOKS {
                    told.store(looks.count_ones() >= ENOUGH, Ordering::Relaxed);
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        Self { at_work, _looking: AbortOnDropHandle::new(tokio::spawn(look)) }
    }

    /// Whether they are at work now.
    pub(super) fn at_work(&self) -> bool {
        self.at_work.load(Ordering::Relaxed)
    }

    /// While they are at work, PostgreSQL does what follows in this transaction with one process.
    pub(super) async fn leave_room(
        &self,
        transaction: &mut PgConnection,
    ) -> Result<(), sqlx::Error> {
        if self.at_work() {
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

async fn look(pool: &PgPool) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select exists (
               select from pg_stat_activity
               where datname = current_database() and backend_type = 'client backend'
                 and application_name <> $1
                 and (state = 'active' or state_change > clock_timestamp() - interval '20 ms')
           ) as "exists!""#,
        REBUILD
    )
    .fetch_one(pool)
    .await
}
