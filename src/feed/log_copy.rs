//! Copies a whole log from one installation into another: checks an export line by line, and restores it
//! into an empty log.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::events::account::{ACCOUNT, AccountEvent};
use crate::events::customer::{CUSTOMER, CustomerEvent};
use crate::events::log::StoredEvent;
use crate::events::log::end;
use crate::events::log::payload::decode;
use crate::events::log::restore::{self, RestoreError};
use crate::events::metadata::Metadata;
use crate::events::values::{CustomerId, Username};

/// The last line of an export: the number of events before it, and the position of the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    pub events: i64,
    pub last_position: i64,
    /// The identity of the exported log; absent in exports of earlier versions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<Uuid>,
}

/// Why a log was not copied. No event was written.
#[derive(Debug, thiserror::Error)]
pub enum LogCopyError {
    #[error("line {0}: {1}")]
    Line(i64, String),
    #[error("the file is truncated: its last line is not a summary")]
    Truncated,
    #[error("cannot read the file: {0}")]
    Read(#[from] std::io::Error),
    #[error(transparent)]
    Restore(#[from] RestoreError),
}

/// Restores the lines of an export in one transaction, as the owner of the table `events`.
pub async fn restore(
    connection: &mut PgConnection,
    lines: impl Iterator<Item = std::io::Result<String>>,
) -> Result<Summary, LogCopyError> {
    let latest = end::latest_time(&mut *connection).await.map_err(RestoreError::from)?;
    let mut reader =
        Reader { lines, line: 0, position: 0, recorded_at: None, latest, summary: None };
    restore::restore(connection, &mut reader).await?;
    reader.summary.ok_or(LogCopyError::Truncated)
}

/// Reads an export, and checks it line by line.
struct Reader<L> {
    lines: L,
    line: i64,
    position: i64,
    recorded_at: Option<DateTime<Utc>>,
    /// The latest time that an event may have.
    latest: DateTime<Utc>,
    summary: Option<Summary>,
}

impl<L: Iterator<Item = std::io::Result<String>>> Iterator for Reader<L> {
    type Item = Result<StoredEvent, LogCopyError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let line = match self.lines.next() {
                Some(Ok(line)) => line,
                Some(Err(error)) => return Some(Err(error.into())),
                None if self.summary.is_none() => return Some(Err(LogCopyError::Truncated)),
                None => return None,
            };
            self.line += 1;
            match self.read(&line) {
                Ok(Some(event)) => return Some(Ok(event)),
                Ok(None) => {}
                Err(problem) => return Some(Err(LogCopyError::Line(self.line, problem))),
            }
        }
    }
}

/// A line of an export that has an event.
#[derive(Deserialize)]
struct Exported<'a> {
    position: i64,
    aggregate_type: String,
    aggregate_id: String,
    sequence: i64,
    r#type: String,
    version: String,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(borrow)]
    metadata: &'a RawValue,
    recorded_at: DateTime<Utc>,
}

impl<L> Reader<L> {
    /// The event of a line; `None` for the summary. The error is a text for the operator.
    fn read(&mut self, text: &str) -> Result<Option<StoredEvent>, String> {
        if self.summary.is_some() {
            return Err("follows the summary".to_owned());
        }
        if text.starts_with("{\"summary\"") {
            self.summary = Some(self.summary(text)?);
            return Ok(None);
        }
        let event: Exported<'_> = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if event.position != self.position + 1 {
            return Err(format!("position {} follows {}", event.position, self.position));
        }
        if self.recorded_at.is_some_and(|last| event.recorded_at <= last) {
            return Err("recorded_at is not after that of the previous event".to_owned());
        }
        // Every later event would get a time after it.
        if event.recorded_at > self.latest {
            return Err("recorded_at lies in the future".to_owned());
        }
        let event = restored(event)?;
        (self.position, self.recorded_at) = (event.position, Some(event.recorded_at));
        Ok(Some(event))
    }

    fn summary(&self, text: &str) -> Result<Summary, String> {
        #[derive(Deserialize)]
        struct Last {
            summary: Summary,
        }
        let Last { summary } = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if (summary.events, summary.last_position) != (self.position, self.position) {
            let Summary { events, last_position, .. } = summary;
            let expected = format!("{events} events up to position {last_position}");
            return Err(format!("the summary has {expected}, the file has {}", self.position));
        }
        Ok(summary)
    }
}

/// Converts an exported event, and checks it like the values of a command.
fn restored(event: Exported<'_>) -> Result<StoredEvent, String> {
    let members = event.data.get().trim_start_matches('{').trim_start();
    let between = if members == "}" { "" } else { "," };
    let payload = format!("{{\"type\":\"{}\"{between}{members}", event.r#type);
    check(&event, &payload)?;
    let _: Metadata =
        serde_json::from_str(event.metadata.get()).map_err(|error| error.to_string())?;
    Ok(StoredEvent {
        position: event.position,
        sequence: event.sequence,
        event_type: event.r#type,
        event_version: event.version,
        payload,
        metadata: event.metadata.get().to_owned(),
        recorded_at: event.recorded_at,
        aggregate_type: event.aggregate_type,
        aggregate_id: event.aggregate_id,
    })
}

fn check(event: &Exported<'_>, payload: &str) -> Result<(), String> {
    let (id, kind, version) = (&event.aggregate_id, &event.r#type, &event.version);
    match event.aggregate_type.as_str() {
        CUSTOMER => {
            CustomerId::parse(id).map_err(|error| format!("aggregate_id {error}"))?;
            let decoded = decode::<CustomerEvent>(kind, version, payload);
            match decoded.map_err(|error| error.to_string())? {
                CustomerEvent::CustomerCreated { dob, .. }
                | CustomerEvent::CustomerUpdated { dob, .. }
                    if dob.date() > event.recorded_at.date_naive() =>
                {
                    Err("dob must not be after the day of recorded_at".to_owned())
                }
                CustomerEvent::CustomerCreated { .. }
                | CustomerEvent::CustomerUpdated { .. }
                | CustomerEvent::CustomerDeleted {} => Ok(()),
            }
        }
        ACCOUNT => {
            let name = Username::stored(id).map_err(|error| format!("aggregate_id {error}"))?;
            if name.as_str() != id {
                return Err(format!("aggregate_id must be written {name}"));
            }
            decode::<AccountEvent>(kind, version, payload).map_err(|error| error.to_string())?;
            Ok(())
        }
        other => Err(format!("aggregate_type {other} is unknown")),
    }
}
