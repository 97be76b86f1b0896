//! Customer ids, leased in blocks: a create costs no round trip for its id.

use std::ops::Range;

use sqlx::PgExecutor;
use tokio::sync::Mutex;

use crate::events::values::CustomerId;
use crate::postgres::Pool;

/// How many ids one lease holds: the increment of the sequence `customer_ids` (migration 0003).
const BLOCK: i64 = 32;

/// This process's lease.
pub struct IdLease {
    pool: Pool,
    left: Mutex<Range<i64>>,
}

impl IdLease {
    /// An empty lease; the first call of `next` fills it.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self { pool, left: Mutex::new(0..0) }
    }

    /// Returns an id that no process has received before.
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

    /// Discards the rest of the block, after one of its ids turned out to be taken.
    pub async fn discard_block(&self) {
        *self.left.lock().await = 0..0;
    }
}

/// Leases at least `number` ids, which no process has received before.
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
