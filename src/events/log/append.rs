//! The append: one call of `append_events` (migration 0002), whatever the number of commands.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

use super::payload::{NewEvent, encode};
use crate::events::metadata::Metadata;

/// The events of one command, on their way into the log: all of them or none.
#[derive(Debug, Clone)]
pub struct Append {
    /// Names the command, so that its outcome can be looked up after a lost connection.
    pub command_id: Uuid,
    pub aggregate_type: &'static str,
    pub aggregate_id: String,
    /// The sequence that the aggregate must have; `None` means any.
    pub expected: Option<i64>,
    /// At least one.
    pub events: Vec<NewEvent>,
    pub metadata: Metadata,
}

/// What became of one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Its last event, as it stands in the log.
    Appended(Appended),
    /// The aggregate was at another sequence than expected; nothing was appended.
    Conflict { sequence: i64 },
}

/// Where and when an event was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    pub position: i64,
    pub sequence: i64,
    pub recorded_at: DateTime<Utc>,
}

/// Appends the commands' events in the order given and returns one outcome per command, in the same
/// order. In autocommit the events are durable when this returns.
///
/// # Errors
/// When PostgreSQL refuses a value (nothing is appended then) or the connection is lost (the outcome
/// is unknown then).
pub async fn append(
    executor: impl PgExecutor<'_>,
    commands: &[Append],
) -> Result<Vec<Outcome>, sqlx::Error> {
    let mut columns = Columns::default();
    for (number, command) in (0..).zip(commands) {
        let metadata = encode(&command.metadata);
        for event in &command.events {
            columns.push(number, command, event, &metadata);
        }
    }
    let rows = sqlx::query!(
        r#"select command as "command!", position, sequence as "sequence!", recorded_at
           from append_events($1, $2, $3, $4, $5, $6, $7, $8, $9)"#,
        &columns.commands,
        &columns.command_ids,
        &columns.aggregate_types as &[&str],
        &columns.aggregate_ids as &[&str],
        &columns.expected as &[Option<i64>],
        &columns.event_types as &[&str],
        &columns.event_versions as &[&str],
        &columns.payloads as &[&str],
        &columns.metadatas,
    )
    .fetch_all(executor)
    .await?;

    let mut outcomes = vec![None; commands.len()];
    for row in rows {
        let outcome = match (row.position, row.recorded_at) {
            (Some(position), Some(recorded_at)) => {
                Outcome::Appended(Appended { position, sequence: row.sequence, recorded_at })
            }
            _ => Outcome::Conflict { sequence: row.sequence },
        };
        let slot = usize::try_from(row.command).ok().and_then(|number| outcomes.get_mut(number));
        *slot.ok_or_else(|| protocol_error("append_events named an unknown command"))? =
            Some(outcome);
    }
    outcomes
        .into_iter()
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| protocol_error("append_events left a command out"))
}

fn protocol_error(message: &str) -> sqlx::Error {
    sqlx::Error::Protocol(message.to_owned())
}

/// One array per parameter of `append_events`, one element per event.
#[derive(Default)]
struct Columns<'a> {
    commands: Vec<i32>,
    command_ids: Vec<Uuid>,
    aggregate_types: Vec<&'a str>,
    aggregate_ids: Vec<&'a str>,
    expected: Vec<Option<i64>>,
    event_types: Vec<&'a str>,
    event_versions: Vec<&'a str>,
    payloads: Vec<&'a str>,
    metadatas: Vec<String>,
}

impl<'a> Columns<'a> {
    fn push(&mut self, number: i32, command: &'a Append, event: &'a NewEvent, metadata: &str) {
        self.commands.push(number);
        self.command_ids.push(command.command_id);
        self.aggregate_types.push(command.aggregate_type);
        self.aggregate_ids.push(&command.aggregate_id);
        self.expected.push(command.expected);
        self.event_types.push(event.event_type);
        self.event_versions.push(event.event_version);
        self.payloads.push(&event.payload);
        self.metadatas.push(metadata.to_owned());
    }
}
