//! The customers as they are now: `customers(id, name, dob, external_id, version, created_at,
//! updated_at)`, indexed youngest first.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, Utc};
use futures_util::Stream;
use sqlx::PgExecutor;

use super::last_changes::{Change, fold};
use super::mark::Mark;
use super::projection::ProjectionError;
use super::reader::Reader;
use super::table::{TableProjection, TableRow, copy_many};
use crate::events::customer::{CUSTOMER, CustomerEvent, CustomerValues};
use crate::events::external_id::ExternalId;
use crate::events::log::read::{LastEvent, ReadError};
use crate::events::log::{StoredEvent, read};
use crate::events::values::CustomerId;
use crate::postgres::Connection;
use crate::postgres::copy::CopyEncoder;

/// One row of the read table.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Row {
    pub id: i64,
    pub name: String,
    pub dob: NaiveDate,
    pub external_id: Option<String>,
    pub version: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl Row {
    fn new(
        id: i64,
        values: CustomerValues,
        version: i64,
        (created_at, updated_at): (DateTime<Utc>, DateTime<Utc>),
    ) -> Self {
        let CustomerValues { name, dob, external_id } = values;
        Self {
            id,
            name: name.as_str().to_owned(),
            dob: dob.date(),
            external_id: external_id.map(|id| id.as_str().to_owned()),
            version,
            created_at,
            updated_at,
        }
    }
}

/// The customers of these ids, in their order; `None` where there is none of that id. A parked customer is
/// read from the log.
pub async fn find(db: &mut Reader, ids: &[CustomerId]) -> Result<Vec<Option<Row>>, ReadError> {
    let asked: Vec<i64> = ids.iter().map(|id| id.get()).collect();
    let rows = sqlx::query!(
        r#"select c.name as "name?", c.dob as "dob?", c.external_id, c.version as "version?",
                  c.created_at as "created_at?", c.updated_at as "updated_at?",
                  exists (select from parked_customers p
                          where p.projection = $2 and p.version = $3 and p.place = 'public'
                            and p.customer_id = asked.id) as "is_parked!"
           from unnest($1::bigint[]) with ordinality as asked (id, place)
           -- Autovacuum does not analyze a partitioned table: without the limit many rows are expected.
           left join lateral (
               select name, dob, external_id, version, created_at, updated_at
               from customers where id = asked.id limit 1
           ) c on true
           order by asked.place"#,
        &asked,
        Customers::NAME,
        Customers::VERSION
    )
    .fetch_all(&mut *db)
    .await?;
    let mut found = Vec::with_capacity(ids.len());
    for (id, row) in ids.iter().zip(rows) {
        if row.is_parked {
            let last = read::last_event(&mut *db, CUSTOMER, &id.to_string()).await?;
            found.push(last.and_then(|last| of_last_event(*id, last)));
            continue;
        }
        found.push(match (row.name, row.dob, row.version, row.created_at, row.updated_at) {
            (Some(name), Some(dob), Some(version), Some(created_at), Some(updated_at)) => {
                let (id, external_id) = (id.get(), row.external_id);
                Some(Row { id, name, dob, external_id, version, created_at, updated_at })
            }
            _ => None,
        });
    }
    Ok(found)
}

/// The row after the customer's last event.
fn of_last_event(id: CustomerId, last: LastEvent<CustomerEvent>) -> Option<Row> {
    let values = last.event.into_values()?;
    Some(Row::new(id.get(), values, last.sequence, (last.created_at, last.recorded_at)))
}

/// The `number` youngest customers, or all without a number, after the one of that date of birth and
/// id: one statement, so one consistent state, row by row as PostgreSQL sends them.
pub fn youngest<'a>(
    db: impl PgExecutor<'a> + 'a,
    after: Option<(NaiveDate, i64)>,
    number: Option<i64>,
) -> impl Stream<Item = Result<Row, sqlx::Error>> + Send + 'a {
    let (dob, id) = after.unzip();
    sqlx::query_as!(
        Row,
        "select id, name, dob, external_id, version, created_at, updated_at
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

/// As [`youngest`], for a short list: the rows and the mark of their state, in one round trip.
pub async fn youngest_with_mark(
    db: impl PgExecutor<'_>,
    after: Option<(NaiveDate, i64)>,
    number: i64,
) -> Result<(Mark, Vec<Row>), ProjectionError> {
    let (dob, id) = after.unzip();
    let rows = sqlx::query!(
        r#"select checkpoint as "position?", xmin::text::bigint as "change?",
                  (select l.id from log_identities l where l.ended_at is null) as "log?",
                  null::bigint as "id?", null::text as "name?", null::date as "dob?",
                  null::text as "external_id?", null::bigint as "version?",
                  null::timestamptz as "created_at?", null::timestamptz as "updated_at?"
           from projections where name = $4 and version = $5
           union all
           (select null, null, null, id, name, dob, external_id, version, created_at, updated_at
            from customers
            where dob <= coalesce($2::date, 'infinity'::date)
              and ($2::date is null or dob < $2 or id > $3)
            order by dob desc, id limit $1)"#,
        number,
        dob,
        id,
        Customers::NAME,
        Customers::VERSION
    )
    .fetch_all(db)
    .await?;
    let (mut mark, mut customers) = (None, Vec::with_capacity(rows.len()));
    for row in rows {
        if let (Some(position), Some(change)) = (row.position, row.change) {
            let version = Customers::VERSION;
            mark = Some(Mark { version, position, change, log: row.log });
        } else if let (
            Some(id),
            Some(name),
            Some(dob),
            Some(version),
            Some(created_at),
            Some(updated_at),
        ) = (row.id, row.name, row.dob, row.version, row.created_at, row.updated_at)
        {
            let external_id = row.external_id;
            customers.push(Row { id, name, dob, external_id, version, created_at, updated_at });
        }
    }
    Ok((mark.ok_or(ProjectionError::NotRegistered(Customers::NAME))?, customers))
}

/// The customers with the external id, one at most.
pub async fn of_external_id(
    db: &mut Reader,
    external_id: &ExternalId,
) -> Result<Vec<Row>, sqlx::Error> {
    sqlx::query_as!(
        Row,
        "select id, name, dob, external_id, version, created_at, updated_at
         from customers where external_id = $1",
        external_id.as_str()
    )
    .fetch_all(db)
    .await
}

/// Keeps the table `customers`.
pub struct Customers;

impl TableRow for Row {
    const TABLE: &'static str = "customers";
    const COLUMNS: &'static [&'static str] =
        &["id", "name", "dob", "external_id", "version", "created_at", "updated_at"];
    const KEY: &'static [&'static str] = &["id"];

    fn label(&self) -> String {
        format!("customer {}", self.id)
    }

    fn encode(&self, row: &mut CopyEncoder) -> Result<(), sqlx::Error> {
        row.field(self.id)?;
        row.field(self.name.as_str())?;
        row.field(self.dob)?;
        row.field(self.external_id.as_deref())?;
        row.field(self.version)?;
        row.field(self.created_at)?;
        row.field(self.updated_at)
    }
}

impl TableProjection for Customers {
    const NAME: &'static str = "customers";
    const VERSION: i32 = 1;
    type Row = Row;

    fn fold(streams: &[StoredEvent]) -> Result<Vec<Row>, ProjectionError> {
        let changes = fold(streams)?;
        Ok(changes.into_iter().filter_map(|(id, change)| row_of(id, &change)).collect())
    }

    async fn apply_page(db: &mut Connection, page: &[StoredEvent]) -> Result<(), ProjectionError> {
        let changes = fold(page)?;
        let rows = |are_new: bool| {
            let changes = changes.iter().filter(move |(_, change)| change.is_new() == are_new);
            changes.filter_map(|(id, change)| row_of(*id, change))
        };
        let mut by_statement: Vec<Row> = rows(true).collect();
        if copy_many(db, &by_statement).await? {
            by_statement.clear();
        }
        by_statement.extend(rows(false));
        let restored = changes.iter().filter(|(_, change)| change.is_restored && !change.is_new());
        let restored: Vec<i64> = restored.map(|(id, _)| *id).collect();
        upsert(db, &by_statement, &restored).await?;
        delete(db, &changes).await
    }
}

/// The customer after its last change; `None` when that deletes it.
pub(super) fn row_of(id: i64, change: &Change) -> Option<Row> {
    let created_at = change.created_at.unwrap_or(change.updated_at);
    Some(Row::new(id, change.present.clone()?, change.version, (created_at, change.updated_at)))
}

/// Writes rows. One that exists keeps its `created_at`; that of a restored customer, whose row may be gone, is the time
/// of its first event.
async fn upsert(
    db: &mut Connection,
    rows: &[Row],
    restored: &[i64],
) -> Result<(), ProjectionError> {
    if rows.is_empty() {
        return Ok(());
    }
    let written = sqlx::query!(
        "insert into customers (id, name, dob, external_id, version, created_at, updated_at)
         select r.id, r.name, r.dob, r.external_id, r.version,
                case when r.id = any($8) then (
                    select e.recorded_at from events e
                    where e.aggregate_type = 'customer' and e.aggregate_id = r.id::text and e.sequence = 1
                ) else r.created_at end,
                r.updated_at
         from unnest($1::bigint[], $2::text[], $3::date[], $4::text[], $5::bigint[], $6::timestamptz[],
                     $7::timestamptz[])
              as r (id, name, dob, external_id, version, created_at, updated_at)
         on conflict (id) do update
         set name = excluded.name, dob = excluded.dob, external_id = excluded.external_id,
             version = excluded.version, updated_at = excluded.updated_at",
        &rows.iter().map(|row| row.id).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.name.clone()).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.dob).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.external_id.clone()).collect::<Vec<_>>() as &[Option<String>],
        &rows.iter().map(|row| row.version).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.created_at).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.updated_at).collect::<Vec<_>>(),
        restored,
    )
    .execute(db)
    .await?
    .rows_affected();
    debug_assert_eq!(written, rows.len() as u64);
    Ok(())
}

async fn delete(
    db: &mut Connection,
    changes: &BTreeMap<i64, Change>,
) -> Result<(), ProjectionError> {
    let gone: Vec<i64> =
        changes.iter().filter(|(_, change)| change.present.is_none()).map(|(id, _)| *id).collect();
    if !gone.is_empty() {
        sqlx::query!("delete from customers where id = any($1)", &gone).execute(db).await?;
    }
    Ok(())
}
