//! Every state that a customer was ever in: `customer_history(customer_id, version, position,
//! until_position, ...)`. From it histories are told, and any moment of the past.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, Utc};
use futures_util::Stream;
use sqlx::{PgConnection, PgExecutor};

use super::customers::Row;
use super::{Projection, ProjectionError};
use crate::events::customer::CustomerEvent;
use crate::events::log::{StoredEvent, read};
use crate::events::metadata::Metadata;
use crate::events::values::CustomerId;

/// How many events a comparison with the log reads at a time.
const STREAMS_PAGE: i64 = 10_000;

/// One version of one customer: a state, and what led to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub customer_id: i64,
    pub version: i64,
    pub position: i64,
    /// The position of the customer's next event.
    pub until_position: Option<i64>,
    pub event_type: String,
    /// `None` after a deletion, like `dob`.
    pub name: Option<String>,
    pub dob: Option<NaiveDate>,
    pub created_at: DateTime<Utc>,
    pub valid_from: DateTime<Utc>,
    pub valid_to: Option<DateTime<Utc>>,
    pub actor: Option<String>,
    pub role: Option<String>,
    pub request_id: Option<String>,
    pub ip: Option<String>,
    pub user_agent: Option<String>,
    pub reason: Option<String>,
}

impl Version {
    /// The customer in this state; `None` after a deletion.
    #[must_use]
    pub fn into_row(self) -> Option<Row> {
        let (id, version) = (self.customer_id, self.version);
        let (created_at, updated_at) = (self.created_at, self.valid_from);
        Some(Row { id, name: self.name?, dob: self.dob?, version, created_at, updated_at })
    }
}

/// The states of a customer from version `from` to version `to`, oldest first.
///
/// # Errors
/// When PostgreSQL cannot be asked.
pub async fn versions(
    db: impl PgExecutor<'_>,
    id: CustomerId,
    from: i64,
    to: i64,
) -> Result<Vec<Version>, sqlx::Error> {
    sqlx::query_as!(
        Version,
        "select customer_id, version, position, until_position, event_type, name, dob, created_at,
                valid_from, valid_to, actor, role, request_id, ip, user_agent, reason
         from customer_history
         where customer_id = $1 and version between $2 and $3
         order by version",
        id.get(),
        from,
        to
    )
    .fetch_all(db)
    .await
}

/// The state of a customer behind the event at `position`; `None` if it was not there yet.
///
/// # Errors
/// When PostgreSQL cannot be asked.
pub async fn at(
    db: impl PgExecutor<'_>,
    id: CustomerId,
    position: i64,
) -> Result<Option<Version>, sqlx::Error> {
    sqlx::query_as!(
        Version,
        "select customer_id, version, position, until_position, event_type, name, dob, created_at,
                valid_from, valid_to, actor, role, request_id, ip, user_agent, reason
         from customer_history
         where customer_id = $1 and position <= $2
         order by version desc limit 1",
        id.get(),
        position
    )
    .fetch_optional(db)
    .await
}

/// The customers that there were behind the event at `position`, youngest first: up to `number` of
/// them behind the one of that date of birth and id.
pub fn youngest_at<'a>(
    db: impl PgExecutor<'a> + 'a,
    position: i64,
    behind: Option<(NaiveDate, i64)>,
    number: Option<i64>,
) -> impl Stream<Item = Result<Row, sqlx::Error>> + Send + 'a {
    let (dob, id) = behind.unzip();
    sqlx::query_as!(
        Row,
        r#"select customer_id as id, name as "name!", dob as "dob!", version, created_at,
                  valid_from as updated_at
           from customer_history
           where position <= $1 and (until_position is null or until_position > $1)
             and dob <= coalesce($2::date, 'infinity'::date)
             and ($2::date is null or dob < $2 or customer_id > $3)
           order by dob desc, customer_id
           limit $4"#,
        position,
        dob,
        id,
        number
    )
    .fetch(db)
}

/// Keeps the table `customer_history`.
pub struct CustomerHistory;

#[async_trait]
impl Projection for CustomerHistory {
    fn name(&self) -> &'static str {
        "customer_history"
    }

    fn version(&self) -> i32 {
        1
    }

    fn tables(&self) -> &'static [&'static str] {
        &["customer_history"]
    }

    async fn apply(
        &self,
        db: &mut PgConnection,
        page: &[StoredEvent],
    ) -> Result<(), ProjectionError> {
        let entries = fold(page)?;
        end_states_before(db, &entries).await?;
        write(db, &entries).await
    }

    async fn clear(&self, db: &mut PgConnection) -> Result<(), ProjectionError> {
        sqlx::query!("delete from customer_history").execute(db).await?;
        Ok(())
    }

    async fn difference(
        &self,
        db: &mut PgConnection,
        checkpoint: i64,
    ) -> Result<Option<String>, ProjectionError> {
        let mut events: Vec<StoredEvent> = vec![];
        let mut expected_rows = 0;
        loop {
            // Customer by customer, so that memory stays flat; the last one may go on.
            let last = events.last().map(|event| (event.aggregate_id.as_str(), event.sequence));
            let page = read::streams(&mut *db, last, checkpoint, STREAMS_PAGE).await?;
            let is_end = page.is_empty();
            events.extend(page);
            let whole = match events.last() {
                Some(last) if !is_end => {
                    events.partition_point(|event| event.aggregate_id != last.aggregate_id)
                }
                _ => events.len(),
            };
            let rest = events.split_off(whole);
            let expected = fold(&std::mem::replace(&mut events, rest))?;
            expected_rows += expected.len();
            if let Some(difference) = differ(db, expected).await? {
                return Ok(Some(difference));
            }
            if is_end {
                break;
            }
        }
        let rows = sqlx::query_scalar!(r#"select count(*) as "rows!" from customer_history"#)
            .fetch_one(db)
            .await?;
        Ok((usize::try_from(rows) != Ok(expected_rows))
            .then(|| format!("the table has {rows} rows, the log leads to {expected_rows}")))
    }
}

/// The states that a run of events leads to, in their order. Of each customer the run holds the
/// events in their order and without a gap. Accounts' events are passed over.
fn fold(page: &[StoredEvent]) -> Result<Vec<Version>, ProjectionError> {
    let mut entries: Vec<Version> = vec![];
    let mut last: HashMap<i64, usize> = HashMap::new();
    for stored in page {
        let Some(id) = stored.customer() else { continue };
        let unreadable = |source| ProjectionError::Decode { position: stored.position, source };
        let (name, dob) = match stored.decode().map_err(unreadable)? {
            CustomerEvent::CustomerCreated { name, dob }
            | CustomerEvent::CustomerUpdated { name, dob } => {
                (Some(name.as_str().to_owned()), Some(dob.date()))
            }
            CustomerEvent::CustomerDeleted {} => (None, None),
        };
        let metadata: Metadata = stored.metadata().map_err(unreadable)?;
        // Known when the run holds the first event.
        let mut created_at = stored.recorded_at;
        if let Some(before) = last.insert(id.get(), entries.len()) {
            let before = &mut entries[before];
            before.until_position = Some(stored.position);
            before.valid_to = Some(stored.recorded_at);
            created_at = before.created_at;
        }
        entries.push(Version {
            customer_id: id.get(),
            version: stored.sequence,
            position: stored.position,
            until_position: None,
            event_type: stored.event_type.clone(),
            name,
            dob,
            created_at,
            valid_from: stored.recorded_at,
            valid_to: None,
            actor: metadata.actor,
            role: metadata.role,
            request_id: metadata.request_id,
            ip: metadata.ip,
            user_agent: metadata.user_agent,
            reason: metadata.reason,
        });
    }
    Ok(entries)
}

/// Ends the states that stood last before these, in earlier pages.
async fn end_states_before(
    db: &mut PgConnection,
    entries: &[Version],
) -> Result<(), ProjectionError> {
    let mut seen = HashSet::new();
    let first: Vec<&Version> = entries
        .iter()
        .filter(|entry| seen.insert(entry.customer_id) && entry.version > 1)
        .collect();
    if first.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "update customer_history h
         set until_position = next.position, valid_to = next.valid_from
         from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::timestamptz[])
              as next (customer_id, version, position, valid_from)
         where h.customer_id = next.customer_id and h.version = next.version - 1",
        &first.iter().map(|entry| entry.customer_id).collect::<Vec<_>>(),
        &first.iter().map(|entry| entry.version).collect::<Vec<_>>(),
        &first.iter().map(|entry| entry.position).collect::<Vec<_>>(),
        &first.iter().map(|entry| entry.valid_from).collect::<Vec<_>>(),
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Writes new states. A customer's first state says when it was created; the others take it from
/// there.
async fn write(db: &mut PgConnection, entries: &[Version]) -> Result<(), ProjectionError> {
    fn all<T>(entries: &[Version], of: impl Fn(&Version) -> T) -> Vec<T> {
        entries.iter().map(of).collect()
    }
    if entries.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "insert into customer_history (
             customer_id, version, position, until_position, event_type, name, dob, created_at,
             valid_from, valid_to, actor, role, request_id, ip, user_agent, reason
         )
         select n.customer_id, n.version, n.position, n.until_position, n.event_type, n.name, n.dob,
                case when n.version = 1 then n.created_at else coalesce(
                    (select f.created_at from customer_history f
                     where f.customer_id = n.customer_id and f.version = 1),
                    n.created_at
                ) end,
                n.valid_from, n.valid_to, n.actor, n.role, n.request_id, n.ip, n.user_agent, n.reason
         from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::text[],
                     $7::date[], $8::timestamptz[], $9::timestamptz[], $10::timestamptz[],
                     $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[])
              as n (customer_id, version, position, until_position, event_type, name, dob,
                    created_at, valid_from, valid_to, actor, role, request_id, ip, user_agent,
                    reason)",
        &all(entries, |entry| entry.customer_id),
        &all(entries, |entry| entry.version),
        &all(entries, |entry| entry.position),
        &all(entries, |entry| entry.until_position) as &[Option<i64>],
        &all(entries, |entry| entry.event_type.clone()),
        &all(entries, |entry| entry.name.clone()) as &[Option<String>],
        &all(entries, |entry| entry.dob) as &[Option<NaiveDate>],
        &all(entries, |entry| entry.created_at),
        &all(entries, |entry| entry.valid_from),
        &all(entries, |entry| entry.valid_to) as &[Option<DateTime<Utc>>],
        &all(entries, |entry| entry.actor.clone()) as &[Option<String>],
        &all(entries, |entry| entry.role.clone()) as &[Option<String>],
        &all(entries, |entry| entry.request_id.clone()) as &[Option<String>],
        &all(entries, |entry| entry.ip.clone()) as &[Option<String>],
        &all(entries, |entry| entry.user_agent.clone()) as &[Option<String>],
        &all(entries, |entry| entry.reason.clone()) as &[Option<String>],
    )
    .execute(db)
    .await?;
    Ok(())
}

/// The first difference between these states and those of the same customers in the table.
async fn differ(
    db: &mut PgConnection,
    expected: Vec<Version>,
) -> Result<Option<String>, ProjectionError> {
    let key = |entry: &Version| (entry.customer_id, entry.version);
    let ids: HashSet<i64> = expected.iter().map(|entry| entry.customer_id).collect();
    let rows = sqlx::query_as!(
        Version,
        "select customer_id, version, position, until_position, event_type, name, dob, created_at,
                valid_from, valid_to, actor, role, request_id, ip, user_agent, reason
         from customer_history where customer_id = any($1)",
        &ids.into_iter().collect::<Vec<_>>()
    )
    .fetch_all(db)
    .await?;
    let mut rows: HashMap<_, _> = rows.into_iter().map(|row| (key(&row), row)).collect();
    for entry in expected {
        let (id, version) = key(&entry);
        match rows.remove(&(id, version)) {
            None => {
                let problem = "in the log, not in the table";
                return Ok(Some(format!("customer {id}, version {version}: {problem}")));
            }
            Some(row) if row != entry => {
                let problem = format!("the table has {row:?}, the log says {entry:?}");
                return Ok(Some(format!("customer {id}, version {version}: {problem}")));
            }
            Some(_) => {}
        }
    }
    let left = rows.into_keys().min();
    Ok(left.map(|(id, version)| {
        format!("customer {id}, version {version}: in the table, not in the log")
    }))
}
