//! Customer ids, leased in blocks: a create costs no round trip for its id.

use std::ops::Range;

use sqlx::{PgExecutor, PgPool};
use tokio::sync::Mutex;

use crate::events::values::CustomerId;

/// How many ids one lease holds: the increment of the sequence `customer_ids` (migration 0003).
const BLOCK: i64 = 32;

/// This process's lease.
pub struct IdLease {
    pool: PgPool,
    left: Mutex<Range<i64>>,
}

impl IdLease {
    /// A lease that is empty until it is first asked.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self { pool, left: Mutex::new(0..0) }
    }

    /// An id that no process was given before.
    ///
    /// # Errors
    /// When a new block is needed and PostgreSQL cannot be asked.
    pub async fn next(&self) -> Result<CustomerId, sqlx::Error> {
        let mut left = self.left.lock().await;
        loop {
            if let Some(id) = left.next() {
                return CustomerId::new(id).ok_or(sqlx::Error::RowNotFound);
            }
            let first = sqlx::query_scalar!(r#"select nextval('customer_ids') as "first!""#)
                .fetch_one(&self.pool)
                .await?;
            *left = first..first + BLOCK;
        }
    }

    /// Gives the rest of the block up: an id out of it turned out to be taken.
    pub async fn discard_block(&self) {
        *self.left.lock().await = 0..0;
    }
}

/// At least `number` ids that nobody was given before, for one who needs many.
pub async fn lease(
    executor: impl PgExecutor<'_>,
    number: usize,
) -> Result<Vec<CustomerId>, sqlx::Error> {
    let number = i64::try_from(number).unwrap_or(i64::MAX);
    let blocks = sqlx::query_scalar!(
        r#"select nextval('customer_ids') as "first!" from generate_series(1, $1::bigint)"#,
        number.saturating_add(BLOCK - 1) / BLOCK
    )
    .fetch_all(executor)
    .await?;
    let ids = blocks.into_iter().flat_map(|first| first..first.saturating_add(BLOCK));
    ids.map(|id| CustomerId::new(id).ok_or(sqlx::Error::RowNotFound)).collect()
}
