//! Appends the events of commands by one call of `append_events` (migration 0002), which takes the
//! append lock; a single event by `append_event` (migration 0006).

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

use super::payload::{EncodedMetadata, NewEvent};

/// The events of one command, appended all or not at all.
#[derive(Debug, Clone)]
pub struct Append {
    /// Identifies the command, so that append recovery can look up its outcome.
    pub command_id: Uuid,
    pub aggregate_type: &'static str,
    pub aggregate_id: String,
    /// The sequence that the aggregate must have; `None`: any.
    pub expected: Option<i64>,
    /// Empty only for a command with an idempotency key that changes nothing.
    pub events: Vec<NewEvent>,
    pub metadata: EncodedMetadata,
    pub key: Option<IdempotencyKey>,
    /// The external id that the aggregate has after the events, which say so, too. No two commands of one batch have
    /// the same.
    pub external_id: Option<String>,
}

/// The idempotency key of a command, which is executed once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    pub account: String,
    pub key: String,
    /// A hash of the request.
    pub fingerprint: Vec<u8>,
    /// The position to store for a command that changes nothing: the aggregate's last one.
    pub known_position: i64,
}

/// The outcome of one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The position of the command's last event.
    Appended(Appended),
    /// The aggregate was at another sequence than expected; nothing was appended.
    Conflict { sequence: i64 },
    /// Another customer has the external id; nothing was appended.
    ExternalIdTaken { customer: i64 },
    /// The command changes nothing; its idempotency key is stored.
    Unchanged,
    /// The idempotency key was stored before; nothing was appended.
    Duplicate { fingerprint: Vec<u8>, position: i64 },
}

/// Where and when an event was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    pub position: i64,
    pub sequence: i64,
    pub recorded_at: DateTime<Utc>,
}

/// Appends the commands' events in the order given; returns one outcome per command, in that order. In
/// autocommit the events are durable when this returns. No aggregate, key or external id may occur twice. When
/// PostgreSQL rejects a value, nothing is appended; when the connection is lost, the outcome is unknown.
pub async fn append<'a>(
    executor: impl PgExecutor<'_>,
    commands: impl IntoIterator<Item = &'a Append>,
) -> Result<Vec<Outcome>, sqlx::Error> {
    let commands: Vec<&Append> = commands.into_iter().collect();
    if let [command] = commands.as_slice()
        && let [event] = command.events.as_slice()
    {
        return Ok(vec![append_one(executor, command, event).await?]);
    }
    let mut columns = Columns::default();
    let mut changes = vec![];
    for command in commands {
        columns.push(changes.len(), command)?;
        changes.push(!command.events.is_empty());
    }
    let rows = sqlx::query!(
        r#"select command as "command!", position, sequence as "sequence!", recorded_at,
                  key_fingerprint, taken_by
           from append_events($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)"#,
        &columns.commands,
        &columns.command_ids,
        &columns.aggregate_types as &[&str],
        &columns.aggregate_ids as &[&str],
        &columns.expected as &[Option<i64>],
        &columns.ordinals,
        &columns.event_types as &[Option<&str>],
        &columns.event_versions as &[Option<&str>],
        &columns.payloads as &[Option<&str>],
        &columns.metadatas as &[&str],
        &columns.key_accounts as &[Option<&str>],
        &columns.keys as &[Option<&str>],
        &columns.fingerprints as &[Option<&[u8]>],
        &columns.known_positions as &[Option<i64>],
    )
    .fetch_all(executor)
    .await?;

    let mut outcomes = vec![None; changes.len()];
    for row in rows {
        let number = usize::try_from(row.command).ok().filter(|number| *number < changes.len());
        let number =
            number.ok_or_else(|| protocol_error("append_events returned an unknown command"))?;
        let event = (row.position, row.sequence, row.recorded_at);
        let outcome = outcome(changes[number], row.key_fingerprint, row.taken_by, event);
        outcomes[number] = Some(outcome);
    }
    outcomes
        .into_iter()
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| protocol_error("append_events returned no row for a command"))
}

/// Appends a command that has one event.
async fn append_one(
    executor: impl PgExecutor<'_>,
    command: &Append,
    event: &NewEvent,
) -> Result<Outcome, sqlx::Error> {
    let key = command.key.as_ref();
    let row = sqlx::query!(
        r#"select position, sequence as "sequence!", recorded_at, key_fingerprint, taken_by
           from append_event($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"#,
        command.command_id,
        command.aggregate_type,
        command.aggregate_id,
        command.expected,
        event.event_type.as_ref(),
        event.event_version.as_ref(),
        event.payload,
        command.metadata.as_str(),
        key.map(|key| key.account.as_str()),
        key.map(|key| key.key.as_str()),
        key.map(|key| key.fingerprint.as_slice())
    )
    .fetch_one(executor)
    .await?;
    let event = (row.position, row.sequence, row.recorded_at);
    Ok(outcome(true, row.key_fingerprint, row.taken_by, event))
}

/// The outcome in one row of the result; `changes` if the command has events.
fn outcome(
    changes: bool,
    key_fingerprint: Option<Vec<u8>>,
    taken_by: Option<i64>,
    (position, sequence, recorded_at): (Option<i64>, i64, Option<DateTime<Utc>>),
) -> Outcome {
    match (key_fingerprint, position, recorded_at) {
        (Some(fingerprint), Some(position), _) => Outcome::Duplicate { fingerprint, position },
        (None, Some(position), Some(recorded_at)) => {
            Outcome::Appended(Appended { position, sequence, recorded_at })
        }
        _ if let Some(customer) = taken_by => Outcome::ExternalIdTaken { customer },
        _ if changes => Outcome::Conflict { sequence },
        _ => Outcome::Unchanged,
    }
}

fn protocol_error(message: &str) -> sqlx::Error {
    sqlx::Error::Protocol(message.to_owned())
}

/// One array per parameter of `append_events`, one element per event, or per command that has none.
#[derive(Default)]
struct Columns<'a> {
    commands: Vec<i32>,
    command_ids: Vec<Uuid>,
    aggregate_types: Vec<&'a str>,
    aggregate_ids: Vec<&'a str>,
    expected: Vec<Option<i64>>,
    ordinals: Vec<i32>,
    event_types: Vec<Option<&'a str>>,
    event_versions: Vec<Option<&'a str>>,
    payloads: Vec<Option<&'a str>>,
    metadatas: Vec<&'a str>,
    key_accounts: Vec<Option<&'a str>>,
    keys: Vec<Option<&'a str>>,
    fingerprints: Vec<Option<&'a [u8]>>,
    known_positions: Vec<Option<i64>>,
}

impl<'a> Columns<'a> {
    fn push(&mut self, number: usize, command: &'a Append) -> Result<(), sqlx::Error> {
        let number = i32::try_from(number).map_err(|_| protocol_error("too many commands"))?;
        if command.events.is_empty() {
            self.push_row(number, 0, command, None);
        }
        for (ordinal, event) in (1..).zip(&command.events) {
            self.push_row(number, ordinal, command, Some(event));
        }
        Ok(())
    }

    fn push_row(
        &mut self,
        number: i32,
        ordinal: i32,
        command: &'a Append,
        event: Option<&'a NewEvent>,
    ) {
        let key = command.key.as_ref();
        self.commands.push(number);
        self.command_ids.push(command.command_id);
        self.aggregate_types.push(command.aggregate_type);
        self.aggregate_ids.push(&command.aggregate_id);
        self.expected.push(command.expected);
        self.ordinals.push(ordinal);
        self.event_types.push(event.map(|event| event.event_type.as_ref()));
        self.event_versions.push(event.map(|event| event.event_version.as_ref()));
        self.payloads.push(event.map(|event| event.payload.as_str()));
        self.metadatas.push(command.metadata.as_str());
        self.key_accounts.push(key.map(|key| key.account.as_str()));
        self.keys.push(key.map(|key| key.key.as_str()));
        self.fingerprints.push(key.map(|key| key.fingerprint.as_slice()));
        self.known_positions.push(key.map(|key| key.known_position));
    }
}
