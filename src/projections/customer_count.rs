//! How many customers there are: exact, and without counting all of them each time.

use std::sync::{Mutex, PoisonError};

use super::customers::Customers;
use super::projection::{Projection as _, ProjectionError};
use super::reader::Reader;

/// After more events than this all rows are counted again: it takes about as long as to read these events.
const EVENTS_MAX: i64 = 50_000;

/// The last number of customers that this process has counted, and the position that it is of.
#[derive(Debug, Default)]
pub struct CustomerCount(Mutex<Option<(i64, i64)>>);

impl CustomerCount {
    /// The number of customers, and the position that shows it: those of the list of all.
    pub async fn read(&self, db: &mut Reader) -> Result<(i64, i64), ProjectionError> {
        let known = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = match known {
            Some((position, number)) => after(db, position, number).await?,
            None => None,
        };
        let (position, number) = match counted {
            Some(counted) => counted,
            None => all(db).await?,
        };
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((position, number));
        Ok((number, position))
    }
}

/// The number after a position at which it was known; `None` if all have to be counted: too many events follow, there
/// are parked customers, whose rows do not follow the log, or the database was restored.
async fn after(
    db: &mut Reader,
    position: i64,
    number: i64,
) -> Result<Option<(i64, i64)>, sqlx::Error> {
    let row = sqlx::query!(
        r#"select p.checkpoint,
                  exists (select from parked_customers k
                          where k.projection = p.name and k.version = p.version
                            and k.place = 'public') as "has_parked!",
                  (select coalesce(sum(case
                       when e.event_type = 'CustomerCreated' then 1
                       when e.event_type = 'CustomerDeleted' then -1
                       when e.event_type = 'CustomerRestored' and exists (
                           select from events b
                           where b.aggregate_type = 'customer' and b.aggregate_id = e.aggregate_id
                             and b.sequence = e.sequence - 1 and b.event_type = 'CustomerDeleted'
                       ) then 1
                       else 0
                   end), 0)
                   from events e
                   where e.position > $3 and e.position <= least(p.checkpoint, $3 + $4)
                     and e.aggregate_type = 'customer') as "more!"
           from projections p where p.name = $1 and p.version = $2"#,
        Customers.name(),
        Customers.version(),
        position,
        EVENTS_MAX
    )
    .fetch_optional(db)
    .await?;
    let is_countable = |checkpoint| (position..=position + EVENTS_MAX).contains(&checkpoint);
    Ok(row
        .filter(|row| !row.has_parked && is_countable(row.checkpoint))
        .map(|row| (row.checkpoint, number + row.more)))
}

/// Counts all rows.
async fn all(db: &mut Reader) -> Result<(i64, i64), ProjectionError> {
    let row = sqlx::query!(
        r#"select p.checkpoint, (select count(*) from customers) as "number!"
           from projections p where p.name = $1 and p.version = $2"#,
        Customers.name(),
        Customers.version()
    )
    .fetch_optional(db)
    .await?
    .ok_or(ProjectionError::NotRegistered(Customers.name()))?;
    Ok((row.checkpoint, row.number))
}
