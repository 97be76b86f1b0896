//! The customers as they are now: `customers(id, name, dob, version, created_at, updated_at)`,
//! indexed youngest first.

use std::collections::BTreeMap;

use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, Utc};
use futures_util::Stream;
use sqlx::{PgConnection, PgExecutor};

use super::copy::CopyRows;
use super::streams::customers_of;
use super::{Projection, ProjectionError, Tally, days, length};
use crate::events::customer::CustomerEvent;
use crate::events::log::read::{LastEvent, ReadError};
use crate::events::log::{StoredEvent, read};
use crate::events::values::CustomerId;

/// One row of the read table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub id: i64,
    pub name: String,
    pub dob: NaiveDate,
    pub version: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// The customer, or `None` if there is none of that id. One that is parked is read from the log.
///
/// # Errors
/// When PostgreSQL cannot be asked, or the last event of a parked customer cannot be read.
pub async fn find(db: &mut PgConnection, id: CustomerId) -> Result<Option<Row>, ReadError> {
    let row = sqlx::query!(
        r#"select c.name as "name?", c.dob as "dob?", c.version as "version?",
                  c.created_at as "created_at?", c.updated_at as "updated_at?",
                  exists (select from parked_customers p
                          where p.projection = $2 and p.version = $3 and p.place = 'public'
                            and p.customer_id = $1) as "is_parked!"
           from (select $1::bigint as id) asked left join customers c using (id)"#,
        id.get(),
        Customers.name(),
        Customers.version()
    )
    .fetch_one(&mut *db)
    .await?;
    if row.is_parked {
        return Ok(read::last_event(db, id).await?.and_then(|last| of_last_event(id, last)));
    }
    let (Some(name), Some(dob), Some(version), Some(created_at), Some(updated_at)) =
        (row.name, row.dob, row.version, row.created_at, row.updated_at)
    else {
        return Ok(None);
    };
    Ok(Some(Row { id: id.get(), name, dob, version, created_at, updated_at }))
}

/// The customer as its last event left it.
fn of_last_event(id: CustomerId, last: LastEvent) -> Option<Row> {
    let (name, dob) = state(last.event)?;
    let (created_at, updated_at) = (last.created_at, last.recorded_at);
    Some(Row { id: id.get(), name, dob, version: last.sequence, created_at, updated_at })
}

/// What an event leaves; `None` when it deletes the customer.
fn state(event: CustomerEvent) -> Option<(String, NaiveDate)> {
    match event {
        CustomerEvent::CustomerCreated { name, dob }
        | CustomerEvent::CustomerUpdated { name, dob } => {
            Some((name.as_str().to_owned(), dob.date()))
        }
        CustomerEvent::CustomerDeleted {} => None,
    }
}

/// The `number` youngest, or all of them, behind the one of that date of birth and id: one statement,
/// so one consistent state, row by row as PostgreSQL sends them.
pub fn youngest<'a>(
    db: impl PgExecutor<'a> + 'a,
    behind: Option<(NaiveDate, i64)>,
    number: Option<i64>,
) -> impl Stream<Item = Result<Row, sqlx::Error>> + Send + 'a {
    let (dob, id) = behind.unzip();
    sqlx::query_as!(
        Row,
        "select id, name, dob, version, created_at, updated_at
         from customers
         where dob <= coalesce($2::date, 'infinity'::date)
           and ($2::date is null or dob < $2 or id > $3)
         order by dob desc, id limit $1",
        number,
        dob,
        id
    )
    .fetch(db)
}

/// Keeps the table `customers`.
pub struct Customers;

#[async_trait]
impl Projection for Customers {
    fn name(&self) -> &'static str {
        "customers"
    }

    fn version(&self) -> i32 {
        1
    }

    fn tables(&self) -> &'static [&'static str] {
        &["customers"]
    }

    async fn apply(
        &self,
        db: &mut PgConnection,
        page: &[StoredEvent],
    ) -> Result<(), ProjectionError> {
        let mut changes = BTreeMap::new();
        fold(&mut changes, page)?;
        write(db, &changes).await?;
        delete(db, &changes).await?;
        Ok(())
    }

    async fn fill(
        &self,
        db: &mut PgConnection,
        streams: &[StoredEvent],
    ) -> Result<Tally, ProjectionError> {
        let (mut copied, mut tally) = (CopyRows::new(), Tally::default());
        for row in rows(streams)? {
            copied.row(6);
            copied.field(row.id)?;
            copied.field(row.name.as_str())?;
            copied.field(row.dob)?;
            copied.field(row.version)?;
            copied.field(row.created_at)?;
            copied.field(row.updated_at)?;
            tally += row.tally();
        }
        let copy = "copy customers (id, name, dob, version, created_at, updated_at)
                    from stdin (format binary)";
        copied.send(db, copy).await?;
        Ok(tally)
    }

    async fn tally(&self, db: &mut PgConnection) -> Result<Tally, ProjectionError> {
        // As `Row::tally`.
        let row = sqlx::query!(
            r#"select count(*) as "rows!",
                      coalesce(sum(id * 3 + version * 5 + (dob - date '2000-01-01') * 7
                          + octet_length(name) * 11
                          + (extract(epoch from created_at) * 1000000)::bigint * 13
                          + (extract(epoch from updated_at) * 1000000)::bigint * 17), 0)::text
                      as "checksum!"
               from customers"#
        )
        .fetch_one(db)
        .await?;
        Ok(Tally::of_table(row.rows, &row.checksum)?)
    }

    async fn compare(
        &self,
        db: &mut PgConnection,
        streams: &[StoredEvent],
    ) -> Result<(i64, Option<String>), ProjectionError> {
        let expected = rows(streams)?;
        let ids: Vec<i64> = customers_of(streams);
        let live = sqlx::query_as!(
            Row,
            "select id, name, dob, version, created_at, updated_at from customers
             where id = any($1)",
            &ids
        )
        .fetch_all(db)
        .await?;
        let count = i64::try_from(expected.len()).unwrap_or(i64::MAX);
        let mut live: BTreeMap<i64, Row> = live.into_iter().map(|row| (row.id, row)).collect();
        for log in expected {
            let id = log.id;
            match live.remove(&id) {
                None => {
                    let problem = format!("customer {id}: in the log, not in the table");
                    return Ok((count, Some(problem)));
                }
                Some(live) if live != log => {
                    let problem =
                        format!("customer {id}: the table has {live:?}, the log says {log:?}");
                    return Ok((count, Some(problem)));
                }
                Some(_) => {}
            }
        }
        let left = live.into_keys().next();
        Ok((count, left.map(|id| format!("customer {id}: in the table, not in the log"))))
    }
}

/// The rows that whole streams lead to.
fn rows(streams: &[StoredEvent]) -> Result<Vec<Row>, ProjectionError> {
    let mut changes = BTreeMap::new();
    fold(&mut changes, streams)?;
    Ok(changes.into_iter().filter_map(|(id, change)| change.into_row(id)).collect())
}

impl Row {
    fn tally(&self) -> Tally {
        Tally::of_row([
            (self.id, 3),
            (self.version, 5),
            (days(self.dob), 7),
            (length(Some(&self.name)), 11),
            (self.created_at.timestamp_micros(), 13),
            (self.updated_at.timestamp_micros(), 17),
        ])
    }
}

/// What a run of events leaves of one customer.
#[derive(Debug, Clone, Default)]
struct Change {
    /// The state behind the last event; `None` when that deleted the customer.
    present: Option<(String, NaiveDate)>,
    version: i64,
    /// Known when the run holds the customer's first event.
    created_at: Option<DateTime<Utc>>,
    updated_at: DateTime<Utc>,
}

impl Change {
    fn into_row(self, id: i64) -> Option<Row> {
        let (name, dob) = self.present?;
        Some(Row {
            id,
            name,
            dob,
            version: self.version,
            created_at: self.created_at.unwrap_or(self.updated_at),
            updated_at: self.updated_at,
        })
    }
}

/// Folds a page to what it leaves of each customer. Accounts' events are passed over.
fn fold(changes: &mut BTreeMap<i64, Change>, page: &[StoredEvent]) -> Result<(), ProjectionError> {
    for stored in page {
        let Some(id) = stored.customer() else { continue };
        let event = stored
            .decode()
            .map_err(|source| ProjectionError::Decode { position: stored.position, source })?;
        let change = changes.entry(id.get()).or_default();
        change.version = stored.sequence;
        change.updated_at = stored.recorded_at;
        if matches!(event, CustomerEvent::CustomerCreated { .. }) {
            change.created_at = Some(stored.recorded_at);
        }
        change.present = state(event);
    }
    Ok(())
}

/// Writes the customers that are there. A row that exists keeps its `created_at`.
async fn write(
    db: &mut PgConnection,
    changes: &BTreeMap<i64, Change>,
) -> Result<(), ProjectionError> {
    let rows: Vec<Row> =
        changes.iter().filter_map(|(id, change)| change.clone().into_row(*id)).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let written = sqlx::query!(
        "insert into customers (id, name, dob, version, created_at, updated_at)
         select * from unnest($1::bigint[], $2::text[], $3::date[], $4::bigint[],
                              $5::timestamptz[], $6::timestamptz[])
         on conflict (id) do update
         set name = excluded.name, dob = excluded.dob, version = excluded.version,
             updated_at = excluded.updated_at",
        &rows.iter().map(|row| row.id).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.name.clone()).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.dob).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.version).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.created_at).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.updated_at).collect::<Vec<_>>(),
    )
    .execute(db)
    .await?
    .rows_affected();
    debug_assert_eq!(written, rows.len() as u64);
    Ok(())
}

async fn delete(
    db: &mut PgConnection,
    changes: &BTreeMap<i64, Change>,
) -> Result<(), ProjectionError> {
    let gone: Vec<i64> =
        changes.iter().filter(|(_, change)| change.present.is_none()).map(|(id, _)| *id).collect();
    if !gone.is_empty() {
        sqlx::query!("delete from customers where id = any($1)", &gone).execute(db).await?;
    }
    Ok(())
}
