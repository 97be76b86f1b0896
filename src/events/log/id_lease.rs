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
    block: Mutex<Block>,
}

/// The ids that are left of the leased block.
#[derive(Default)]
struct Block {
    left: Range<i64>,
    /// Whether an id of it was taken, which means that the sequence is before ids of the log.
    is_behind: bool,
}

impl IdLease {
    /// An empty lease; the first call of `next` fills it.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self { pool, block: Mutex::default() }
    }

    /// Returns an id that no process has received before.
    pub async fn next(&self) -> Result<CustomerId, sqlx::Error> {
        let mut block = self.block.lock().await;
        loop {
            if let Some(id) = block.left.next() {
                return CustomerId::new(id).ok_or(sqlx::Error::RowNotFound);
            }
            if block.is_behind {
                skip_taken(&self.pool).await?;
                block.is_behind = false;
            }
            let first = sqlx::query_scalar!(r#"select nextval('customer_ids') as "first!""#)
                .fetch_one(&self.pool)
                .await?;
            block.left = first..first + BLOCK;
        }
    }

    /// Discards the rest of the block of an id that turned out to be taken. Of many callers that met ids of
    /// one block, only the first discards anything.
    pub async fn discard_block(&self, taken: CustomerId) {
        let mut block = self.block.lock().await;
        if (block.left.end - BLOCK..block.left.end).contains(&taken.get()) {
            *block = Block { left: 0..0, is_behind: true };
        }
    }
}

/// Moves the sequence after the largest id of the log (migration 0012), if it is before it.
pub async fn skip_taken(executor: impl PgExecutor<'_>) -> Result<(), sqlx::Error> {
    sqlx::query!("select skip_taken_ids()").execute(executor).await?;
    Ok(())
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
