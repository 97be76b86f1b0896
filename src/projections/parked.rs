//! Parked customers: those with an event that a projection cannot apply, because it cannot be decoded
//! or PostgreSQL refuses its values. From that event on the customer's events wait in their order; the
//! events of other customers are applied. A single parked customer is read from the log; lists show it
//! as it was before.

use std::collections::HashSet;

use sqlx::{Executor as _, PgExecutor};

use super::checkpoint::{self, checkpoint_of};
use super::checksum::Checksum;
use super::projection::{Projection, ProjectionError};
use super::stream_reader::customers_of;
use super::table_slot::TableSlot;
use crate::events::log::{StoredEvent, read};
use crate::events::values::CustomerId;
use crate::postgres::transaction;
use crate::postgres::{Connection, Pool};

/// One parked customer.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Parked {
    pub customer_id: i64,
    /// The position of the first event that waits.
    pub position: i64,
    pub problem: String,
}

/// The result of a retry, in customers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retried {
    pub repaired: u64,
    /// Parked as before, or at a later event.
    pub still_parked: u64,
}

/// How events are applied to the tables.
#[derive(Clone, Copy)]
pub(super) enum WriteMode {
    /// Page by page, to a table that has earlier rows.
    Apply,
    /// Whole streams, into a table that has no rows of their customers.
    Backfill,
}

impl WriteMode {
    pub(super) async fn write(
        self,
        projection: &dyn Projection,
        db: &mut Connection,
        events: &[StoredEvent],
    ) -> Result<Checksum, ProjectionError> {
        match self {
            Self::Apply => projection.apply(db, events).await.map(|()| Checksum::default()),
            Self::Backfill => projection.backfill(db, events).await,
        }
    }
}

/// Whether events of the customer are not applied to the served table.
pub async fn is_parked(
    projection: &dyn Projection,
    db: impl PgExecutor<'_>,
    customer_id: i64,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select exists (select from parked_customers
                          where projection = $1 and version = $2 and place = 'public'
                            and customer_id = $3) as "is_parked!""#,
        projection.name(),
        projection.version(),
        customer_id
    )
    .fetch_one(db)
    .await
}

/// The parked customers of the served table.
pub async fn list(
    projection: &dyn Projection,
    db: impl PgExecutor<'_>,
) -> Result<Vec<Parked>, sqlx::Error> {
    sqlx::query_as!(
        Parked,
        "select customer_id, position, problem from parked_customers
         where projection = $1 and version = $2 and place = 'public'
         order by customer_id",
        projection.name(),
        projection.version()
    )
    .fetch_all(db)
    .await
}

/// The events of a page without those of parked customers.
pub(super) async fn exclude_parked(
    projection: &dyn Projection,
    db: &mut Connection,
    slot: TableSlot,
    mut page: Vec<StoredEvent>,
) -> Result<Vec<StoredEvent>, sqlx::Error> {
    let parked = sqlx::query_scalar!(
        "select customer_id from parked_customers
         where projection = $1 and version = $2 and place = $3 and customer_id = any($4)",
        projection.name(),
        projection.version(),
        slot.as_str(),
        &customers_of(&page)
    )
    .fetch_all(db)
    .await?;
    let parked: HashSet<i64> = parked.into_iter().collect();
    page.retain(|event| event.customer().is_none_or(|id| !parked.contains(&id.get())));
    Ok(page)
}

/// Applies events that failed together: bisects them by customer until each customer whose events
/// fail is isolated, and parks it.
pub(super) async fn apply_or_park(
    projection: &dyn Projection,
    db: &mut Connection,
    slot: TableSlot,
    mode: WriteMode,
    events: Vec<StoredEvent>,
) -> Result<Checksum, ProjectionError> {
    let mut checksum = Checksum::default();
    let mut waiting = vec![events];
    while let Some(mut events) = waiting.pop() {
        let error = match attempt(projection, db, mode, &events).await {
            Ok(more) => {
                checksum += more;
                continue;
            }
            Err(error) if error.is_event_error() => error,
            Err(error) => return Err(error),
        };
        let customers = customers_of(&events);
        match customers[..] {
            [] => return Err(error),
            [id] => {
                events.retain(|event| event.customer().is_some_and(|of| of.get() == id));
                checksum += park(projection, db, slot, mode, (id, events), error).await?;
            }
            _ => {
                let middle = customers[customers.len() / 2];
                let (lower, upper) = events
                    .into_iter()
                    .partition(|event| event.customer().is_some_and(|id| id.get() < middle));
                waiting.extend([upper, lower]);
            }
        }
    }
    Ok(checksum)
}

/// Writes the events under a savepoint: all of them, or none.
async fn attempt(
    projection: &dyn Projection,
    db: &mut Connection,
    mode: WriteMode,
    events: &[StoredEvent],
) -> Result<Checksum, ProjectionError> {
    db.execute("savepoint attempt").await?;
    let written = mode.write(projection, db, events).await;
    if written.is_err() {
        db.execute("rollback to savepoint attempt").await?;
    }
    db.execute("release savepoint attempt").await?;
    written
}

/// Applies the events of one customer up to the one that fails, and parks the customer from there on.
async fn park(
    projection: &dyn Projection,
    db: &mut Connection,
    slot: TableSlot,
    mode: WriteMode,
    (id, events): (i64, Vec<StoredEvent>),
    mut error: ProjectionError,
) -> Result<Checksum, ProjectionError> {
    let mut keep = events.len();
    let checksum = loop {
        keep = match &error {
            // All events from the one that cannot be decoded on.
            ProjectionError::Decode { position, .. } => {
                events.partition_point(|event| event.position < *position).min(keep - 1)
            }
            ProjectionError::Database(_)
            | ProjectionError::NotRegistered(_)
            | ProjectionError::Fenced => keep - 1,
        };
        if keep == 0 {
            break Checksum::default();
        }
        match attempt(projection, db, mode, &events[..keep]).await {
            Ok(checksum) => break checksum,
            Err(again) if again.is_event_error() => error = again,
            Err(again) => return Err(again),
        }
    };
    let position = events[keep].position;
    tracing::error!(
        projection = projection.name(), customer = id, position, %error,
        "projection: event failed, customer parked from here on"
    );
    sqlx::query!(
        "insert into parked_customers (projection, version, place, customer_id, position, problem)
         values ($1, $2, $3, $4, $5, $6)",
        projection.name(),
        projection.version(),
        slot.as_str(),
        id,
        position,
        error.to_string()
    )
    .execute(db)
    .await?;
    Ok(checksum)
}

/// Retries every parked customer of the served table: the events that wait, in their order, each
/// customer in a transaction of its own. After an error the customers repaired so far stay repaired.
pub async fn retry(projection: &dyn Projection, pool: &Pool) -> Result<Retried, ProjectionError> {
    let mut retried = Retried::default();
    for parked in list(projection, pool).await? {
        let Some(id) = CustomerId::new(parked.customer_id) else { continue };
        let mut transaction = transaction::begin(pool).await?;
        // No page is applied meanwhile, so the streams that are read here are complete.
        checkpoint::lock(projection, &mut transaction).await?;
        let removed = sqlx::query!(
            "delete from parked_customers
             where projection = $1 and version = $2 and place = 'public' and customer_id = $3",
            projection.name(),
            projection.version(),
            parked.customer_id
        )
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        if removed == 0 {
            // Another retry has handled the customer.
            continue;
        }
        let checkpoint = checkpoint_of(projection, &mut *transaction).await?;
        let waiting = read::stream(&mut *transaction, id, (parked.position, checkpoint)).await?;
        let (slot, mode) = (TableSlot::Live, WriteMode::Apply);
        apply_or_park(projection, &mut transaction, slot, mode, waiting).await?;
        // The rows change and the position does not: see `Mark`.
        sqlx::query!(
            "update projections set checkpoint = checkpoint where name = $1 and version = $2",
            projection.name(),
            projection.version()
        )
        .execute(&mut *transaction)
        .await?;
        let still = is_parked(projection, &mut *transaction, parked.customer_id).await?;
        transaction.commit().await?;
        *(if still { &mut retried.still_parked } else { &mut retried.repaired }) += 1;
    }
    Ok(retried)
}
