//! Every state that a customer was ever in, kept.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, Utc};
use sqlx::PgConnection;

use super::Version;
use crate::events::customer::CustomerEvent;
use crate::events::log::StoredEvent;
use crate::events::metadata::Metadata;
use crate::events::values::CustomerId;
use crate::projections::copy::CopyRows;
use crate::projections::streams::customers_of;
use crate::projections::{Projection, ProjectionError, Tally, days, length};

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

    async fn fill(
        &self,
        db: &mut PgConnection,
        streams: &[StoredEvent],
    ) -> Result<Tally, ProjectionError> {
        let (mut copied, mut tally) = (CopyRows::new(), Tally::default());
        for entry in fold(streams)? {
            copied.row(16);
            copied.field(entry.customer_id)?;
            copied.field(entry.version)?;
            copied.field(entry.position)?;
            copied.field(entry.until_position)?;
            copied.field(entry.event_type.as_str())?;
            copied.field(entry.name.as_deref())?;
            copied.field(entry.dob)?;
            copied.field(entry.created_at)?;
            copied.field(entry.valid_from)?;
            copied.field(entry.valid_to)?;
            for text in [
                &entry.actor,
                &entry.role,
                &entry.request_id,
                &entry.ip,
                &entry.user_agent,
                &entry.reason,
            ] {
                copied.field(text.as_deref())?;
            }
            tally += entry.tally();
        }
        let copy = "copy customer_history (
                        customer_id, version, position, until_position, event_type, name, dob,
                        created_at, valid_from, valid_to, actor, role, request_id, ip, user_agent,
                        reason
                    ) from stdin (format binary)";
        copied.send(db, copy).await?;
        Ok(tally)
    }

    async fn tally(&self, db: &mut PgConnection) -> Result<Tally, ProjectionError> {
        // As `Version::tally`.
        let row = sqlx::query!(
            r#"select count(*) as "rows!",
                      coalesce(sum(customer_id * 3 + version * 5 + position * 7
                          + coalesce(until_position, 0) * 11
                          + coalesce(dob - date '2000-01-01', 0) * 13
                          + coalesce(octet_length(name), 0) * 17
                          + coalesce(octet_length(actor), 0) * 19
                          + coalesce(octet_length(request_id), 0) * 23
                          + coalesce(octet_length(reason), 0) * 29
                          + (extract(epoch from created_at) * 1000000)::bigint * 31
                          + (extract(epoch from valid_from) * 1000000)::bigint * 37), 0)::text
                      as "checksum!"
               from customer_history"#
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
        let expected = fold(streams)?;
        let count = i64::try_from(expected.len()).unwrap_or(i64::MAX);
        Ok((count, differ(db, expected, &customers_of(streams)).await?))
    }
}

impl Version {
    fn tally(&self) -> Tally {
        Tally::of_row([
            (self.customer_id, 3),
            (self.version, 5),
            (self.position, 7),
            (self.until_position.unwrap_or(0), 11),
            (self.dob.map_or(0, days), 13),
            (length(self.name.as_deref()), 17),
            (length(self.actor.as_deref()), 19),
            (length(self.request_id.as_deref()), 23),
            (length(self.reason.as_deref()), 29),
            (self.created_at.timestamp_micros(), 31),
            (self.valid_from.timestamp_micros(), 37),
        ])
    }
}

/// The states that a run of events leads to, in their order. Of each customer the run holds the
/// events in their order and without a gap. Accounts' events are passed over.
fn fold(page: &[StoredEvent]) -> Result<Vec<Version>, ProjectionError> {
    let mut entries: Vec<Version> = vec![];
    let mut last: HashMap<i64, usize> = HashMap::new();
    for stored in page {
        let Some(id) = stored.customer() else { continue };
        // Known when the run holds the first event.
        let mut created_at = stored.recorded_at;
        if let Some(before) = last.insert(id.get(), entries.len()) {
            let before = &mut entries[before];
            before.until_position = Some(stored.position);
            before.valid_to = Some(stored.recorded_at);
            created_at = before.created_at;
        }
        entries.push(version_of(stored, created_at)?);
    }
    Ok(entries)
}

/// The state that a customer's event left, as long as it is the last one.
pub(super) fn version_of(
    stored: &StoredEvent,
    created_at: DateTime<Utc>,
) -> Result<Version, ProjectionError> {
    let unreadable = |source| ProjectionError::Decode { position: stored.position, source };
    let (name, dob) = match stored.decode().map_err(unreadable)? {
        CustomerEvent::CustomerCreated { name, dob }
        | CustomerEvent::CustomerUpdated { name, dob } => {
            (Some(name.as_str().to_owned()), Some(dob.date()))
        }
        CustomerEvent::CustomerDeleted {} => (None, None),
    };
    let metadata: Metadata = stored.metadata().map_err(unreadable)?;
    Ok(Version {
        customer_id: stored.customer().map_or(0, CustomerId::get),
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
    })
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
    ids: &[i64],
) -> Result<Option<String>, ProjectionError> {
    let key = |entry: &Version| (entry.customer_id, entry.version);
    let rows = sqlx::query_as!(
        Version,
        "select customer_id, version, position, until_position, event_type, name, dob, created_at,
                valid_from, valid_to, actor, role, request_id, ip, user_agent, reason
         from customer_history where customer_id = any($1)",
        ids
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
