//! Customers with an event that a projection cannot take over: it cannot be read, or PostgreSQL
//! refuses what it says. From that event on the customer's events wait, in their order; everybody
//! else's go on. Single customers that are parked are read from the log; lists show them as they
//! were before.

use std::collections::HashSet;

use sqlx::{Connection as _, PgConnection, PgExecutor, PgPool};

use super::checkpoint::{self, checkpoint_of};
use super::streams::customers_of;
use super::{Place, Projection, ProjectionError, Tally};
use crate::events::log::{StoredEvent, read};
use crate::events::values::CustomerId;
use crate::transaction;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Parked {
    pub customer_id: i64,
    /// That of the first event that waits.
    pub position: i64,
    pub problem: String,
}

/// What a retry led to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retried {
    pub repaired: u64,
    /// They are parked as before, or at a later event.
    pub still_parked: u64,
}

/// How events come into the tables.
#[derive(Clone, Copy)]
pub(super) enum How {
    /// Page by page, behind what is there.
    Apply,
    /// Whole streams into tables that have nothing of them.
    Fill,
}

impl How {
    pub(super) async fn take(
        self,
        projection: &dyn Projection,
        db: &mut PgConnection,
        events: &[StoredEvent],
    ) -> Result<Tally, ProjectionError> {
        match self {
            Self::Apply => projection.apply(db, events).await.map(|()| Tally::default()),
            Self::Fill => projection.fill(db, events).await,
        }
    }
}

/// Whether the served tables lack something of the customer.
///
/// # Errors
/// When PostgreSQL cannot be asked.
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

/// The parked customers of the served tables.
///
/// # Errors
/// When PostgreSQL cannot be asked.
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

/// Those events of a page that need not wait.
pub(super) async fn without_parked(
    projection: &dyn Projection,
    db: &mut PgConnection,
    place: Place,
    mut page: Vec<StoredEvent>,
) -> Result<Vec<StoredEvent>, sqlx::Error> {
    let parked = sqlx::query_scalar!(
        "select customer_id from parked_customers
         where projection = $1 and version = $2 and place = $3 and customer_id = any($4)",
        projection.name(),
        projection.version(),
        place.as_str(),
        &customers_of(&page)
    )
    .fetch_all(db)
    .await?;
    let parked: HashSet<i64> = parked.into_iter().collect();
    page.retain(|event| event.customer().is_none_or(|id| !parked.contains(&id.get())));
    Ok(page)
}

/// Takes over events that could not be taken over together: of half of the customers, and again,
/// until the customers stand alone whose events cannot. They are parked.
pub(super) async fn take_or_park(
    projection: &dyn Projection,
    db: &mut PgConnection,
    place: Place,
    how: How,
    events: Vec<StoredEvent>,
) -> Result<Tally, ProjectionError> {
    let mut tally = Tally::default();
    let mut waiting = vec![events];
    while let Some(mut events) = waiting.pop() {
        let error = match attempt(projection, db, how, &events).await {
            Ok(more) => {
                tally += more;
                continue;
            }
            Err(error) if error.is_of_an_event() => error,
            Err(error) => return Err(error),
        };
        let customers = customers_of(&events);
        match customers[..] {
            [] => return Err(error),
            [id] => {
                events.retain(|event| event.customer().is_some_and(|of| of.get() == id));
                tally += park(projection, db, place, how, (id, events), error).await?;
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
    Ok(tally)
}

/// Takes them over, or leaves everything as it was.
async fn attempt(
    projection: &dyn Projection,
    db: &mut PgConnection,
    how: How,
    events: &[StoredEvent],
) -> Result<Tally, ProjectionError> {
    let mut savepoint = db.begin().await?;
    match how.take(projection, &mut savepoint, events).await {
        Ok(tally) => {
            savepoint.commit().await?;
            Ok(tally)
        }
        Err(error) => {
            savepoint.rollback().await?;
            Err(error)
        }
    }
}

/// Takes over the events of one customer up to the one that cannot be taken over, and parks it from
/// there on.
async fn park(
    projection: &dyn Projection,
    db: &mut PgConnection,
    place: Place,
    how: How,
    (id, events): (i64, Vec<StoredEvent>),
    mut error: ProjectionError,
) -> Result<Tally, ProjectionError> {
    let mut keep = events.len();
    let tally = loop {
        keep = match &error {
            // Everything from the unreadable event on.
            ProjectionError::Decode { position, .. } => {
                events.partition_point(|event| event.position < *position).min(keep - 1)
            }
            ProjectionError::Database(_)
            | ProjectionError::Unknown(_)
            | ProjectionError::TakenOver => keep - 1,
        };
        if keep == 0 {
            break Tally::default();
        }
        match attempt(projection, db, how, &events[..keep]).await {
            Ok(tally) => break tally,
            Err(again) if again.is_of_an_event() => error = again,
            Err(again) => return Err(again),
        }
    };
    let position = events[keep].position;
    tracing::error!(
        projection = projection.name(), customer = id, position, %error,
        "an event cannot be taken over: the customer's events wait from here on"
    );
    sqlx::query!(
        "insert into parked_customers (projection, version, place, customer_id, position, problem)
         values ($1, $2, $3, $4, $5, $6)",
        projection.name(),
        projection.version(),
        place.as_str(),
        id,
        position,
        error.to_string()
    )
    .execute(db)
    .await?;
    Ok(tally)
}

/// Tries again with every parked customer of the served tables: the events that waited, in their
/// order, each customer in a transaction of its own.
///
/// # Errors
/// When PostgreSQL cannot be asked; what is repaired by then stays repaired.
pub async fn retry(projection: &dyn Projection, pool: &PgPool) -> Result<Retried, ProjectionError> {
    let mut retried = Retried::default();
    for parked in list(projection, pool).await? {
        let Some(id) = CustomerId::new(parked.customer_id) else { continue };
        let mut transaction = transaction::begin(pool).await?;
        // No page is taken meanwhile, so nothing comes behind what is read here.
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
            // Another retry was first.
            continue;
        }
        let checkpoint = checkpoint_of(projection, &mut *transaction).await?;
        let waiting = read::stream(&mut *transaction, id, (parked.position, checkpoint)).await?;
        let (place, how) = (Place::Public, How::Apply);
        take_or_park(projection, &mut transaction, place, how, waiting).await?;
        let still = is_parked(projection, &mut *transaction, parked.customer_id).await?;
        transaction.commit().await?;
        *(if still { &mut retried.still_parked } else { &mut retried.repaired }) += 1;
    }
    Ok(retried)
}
