//! The customers as they are now: `customers(id, name, dob, version, created_at, updated_at)`,
//! indexed youngest first.

use std::collections::BTreeMap;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures_util::Stream;
use futures_util::TryStreamExt as _;
use sqlx::{PgConnection, PgExecutor};

use super::{Projection, ProjectionError};
use crate::events::customer::CustomerEvent;
use crate::events::log::{StoredEvent, read};
use crate::events::values::CustomerId;

/// How many events a fold of the log reads at a time.
const FOLD_PAGE: i64 = 10_000;

/// One row of the read table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub id: i64,
    pub name: String,
    pub dob: chrono::NaiveDate,
    pub version: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// The customer, or `None` if there is none of that id.
///
/// # Errors
/// When PostgreSQL cannot be asked.
pub async fn find(db: impl PgExecutor<'_>, id: CustomerId) -> Result<Option<Row>, sqlx::Error> {
    sqlx::query_as!(
        Row,
        "select id, name, dob, version, created_at, updated_at from customers where id = $1",
        id.get()
    )
    .fetch_optional(db)
    .await
}

/// The `number` youngest, or all of them, behind the one of that date of birth and id: one statement,
/// so one consistent state, row by row as PostgreSQL sends them.
pub fn youngest<'a>(
    db: impl PgExecutor<'a> + 'a,
    behind: Option<(chrono::NaiveDate, i64)>,
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

    async fn clear(&self, db: &mut PgConnection) -> Result<(), ProjectionError> {
        sqlx::query!("delete from customers").execute(db).await?;
        Ok(())
    }

    async fn difference(
        &self,
        db: &mut PgConnection,
        checkpoint: i64,
    ) -> Result<Option<String>, ProjectionError> {
        let mut expected = BTreeMap::new();
        let mut position = 0;
        while position < checkpoint {
            let limit = FOLD_PAGE.min(checkpoint - position);
            let page = read::page(&mut *db, position, limit).await?;
            position = page.last().map_or(checkpoint, |event| event.position);
            fold(&mut expected, &page)?;
        }
        let mut expected =
            expected.into_iter().filter_map(|(id, change)| change.into_row(id)).peekable();
        let mut rows = sqlx::query_as!(
            Row,
            "select id, name, dob, version, created_at, updated_at from customers order by id"
        )
        .fetch(db);
        loop {
            let live = rows.try_next().await?;
            let log = expected.next();
            if live == log {
                if live.is_none() {
                    return Ok(None);
                }
                continue;
            }
            return Ok(Some(describe(live, log)));
        }
    }
}

/// What a run of events leaves of one customer.
#[derive(Debug, Clone, Default)]
struct Change {
    /// The state behind the last event; `None` when that deleted the customer.
    present: Option<(String, chrono::NaiveDate)>,
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
        change.present = match event {
            CustomerEvent::CustomerCreated { name, dob } => {
                change.created_at = Some(stored.recorded_at);
                Some((name.as_str().to_owned(), dob.date()))
            }
            CustomerEvent::CustomerUpdated { name, dob } => {
                Some((name.as_str().to_owned(), dob.date()))
            }
            CustomerEvent::CustomerDeleted {} => None,
        };
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

fn describe(live: Option<Row>, log: Option<Row>) -> String {
    match (live, log) {
        (Some(live), Some(log)) if live.id == log.id => {
            format!("customer {}: the table has {live:?}, the log says {log:?}", log.id)
        }
        (Some(live), Some(log)) if live.id < log.id => {
            format!("customer {}: in the table, not in the log", live.id)
        }
        (_, Some(log)) => format!("customer {}: in the log, not in the table", log.id),
        (Some(live), None) => format!("customer {}: in the table, not in the log", live.id),
        (None, None) => "no difference".to_owned(),
    }
}
