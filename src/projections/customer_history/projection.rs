//! The projection that keeps every state of every customer.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, NaiveDate, Utc};

use super::version::Version;
use crate::events::customer::CustomerEvent;
use crate::events::log::StoredEvent;
use crate::events::metadata::Metadata;
use crate::events::values::CustomerId;
use crate::postgres::Connection;
use crate::postgres::copy::CopyEncoder;
use crate::projections::projection::ProjectionError;
use crate::projections::table::{TableProjection, TableRow, copy_many};

/// Keeps the table `customer_history`.
pub struct CustomerHistory;

impl TableRow for Version {
    const TABLE: &'static str = "customer_history";
    const COLUMNS: &'static [&'static str] = &[
        "customer_id",
        "version",
        "position",
        "until_position",
        "event_type",
        "name",
        "dob",
        "external_id",
        "created_at",
        "valid_from",
        "valid_to",
        "actor",
        "role",
        "request_id",
        "ip",
        "user_agent",
        "reason",
    ];
    const KEY: &'static [&'static str] = &["customer_id", "version"];

    fn label(&self) -> String {
        format!("customer {}, version {}", self.customer_id, self.version)
    }

    fn encode(&self, row: &mut CopyEncoder) -> Result<(), sqlx::Error> {
        row.field(self.customer_id)?;
        row.field(self.version)?;
        row.field(self.position)?;
        row.field(self.until_position)?;
        row.field(self.event_type.as_str())?;
        row.field(self.name.as_deref())?;
        row.field(self.dob)?;
        row.field(self.external_id.as_deref())?;
        row.field(self.created_at)?;
        row.field(self.valid_from)?;
        row.field(self.valid_to)?;
        row.field(self.actor.as_deref())?;
        row.field(self.role.as_deref())?;
        row.field(self.request_id.as_deref())?;
        row.field(self.ip.as_deref())?;
        row.field(self.user_agent.as_deref())?;
        row.field(self.reason.as_deref())
    }
}

impl TableProjection for CustomerHistory {
    const NAME: &'static str = "customer_history";
    const VERSION: i32 = 1;
    type Row = Version;

    fn fold(streams: &[StoredEvent]) -> Result<Vec<Version>, ProjectionError> {
        fold(streams)
    }

    async fn apply_page(db: &mut Connection, page: &[StoredEvent]) -> Result<(), ProjectionError> {
        let entries = fold(page)?;
        end_previous_states(db, &entries).await?;
        let (mut by_statement, later): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|entry| entry.version == 1);
        if copy_many(db, &by_statement).await? {
            by_statement.clear();
        }
        by_statement.extend(later);
        insert(db, &by_statement).await
    }
}

/// The states after each event of a run, in the order of the run, which has each customer's events in
/// their order and without a gap. Events of accounts are skipped.
fn fold(page: &[StoredEvent]) -> Result<Vec<Version>, ProjectionError> {
    let mut entries: Vec<Version> = vec![];
    let mut last: HashMap<i64, usize> = HashMap::new();
    for stored in page {
        let Some(id) = stored.customer() else { continue };
        // Correct if the run has the customer's first event; otherwise `insert` corrects it.
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

/// The state after a customer's event, without an end.
pub(super) fn version_of(
    stored: &StoredEvent,
    created_at: DateTime<Utc>,
) -> Result<Version, ProjectionError> {
    let unreadable = |source| ProjectionError::Decode { position: stored.position, source };
    let event: CustomerEvent = stored.decode().map_err(unreadable)?;
    let values = event.into_values();
    let metadata: Metadata = stored.metadata().map_err(unreadable)?;
    Ok(Version {
        customer_id: stored.customer().map_or(0, CustomerId::get),
        version: stored.sequence,
        position: stored.position,
        until_position: None,
        event_type: stored.event_type.clone(),
        name: values.as_ref().map(|values| values.name.as_str().to_owned()),
        dob: values.as_ref().map(|values| values.dob.date()),
        external_id: values.and_then(|values| values.external_id).map(|id| id.as_str().to_owned()),
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

/// Ends the last states from earlier pages, which these follow.
async fn end_previous_states(
    db: &mut Connection,
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

/// Inserts new states. Later states copy `created_at` from the customer's first state.
async fn insert(db: &mut Connection, entries: &[Version]) -> Result<(), ProjectionError> {
    fn all<T>(entries: &[Version], of: impl Fn(&Version) -> T) -> Vec<T> {
        entries.iter().map(of).collect()
    }
    if entries.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "insert into customer_history (
             customer_id, version, position, until_position, event_type, name, dob, created_at,
             valid_from, valid_to, actor, role, request_id, ip, user_agent, reason, external_id
         )
         select n.customer_id, n.version, n.position, n.until_position, n.event_type, n.name, n.dob,
                case when n.version = 1 then n.created_at else coalesce(
                    (select f.created_at from customer_history f
                     where f.customer_id = n.customer_id and f.version = 1),
                    n.created_at
                ) end,
                n.valid_from, n.valid_to, n.actor, n.role, n.request_id, n.ip, n.user_agent, n.reason,
                n.external_id
         from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::text[],
                     $7::date[], $8::timestamptz[], $9::timestamptz[], $10::timestamptz[],
                     $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[],
                     $17::text[])
              as n (customer_id, version, position, until_position, event_type, name, dob,
                    created_at, valid_from, valid_to, actor, role, request_id, ip, user_agent,
                    reason, external_id)",
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
        &all(entries, |entry| entry.external_id.clone()) as &[Option<String>],
    )
    .execute(db)
    .await?;
    Ok(())
}
