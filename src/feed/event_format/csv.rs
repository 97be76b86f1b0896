//! Records of a CSV export (RFC 4180).

use serde::Deserialize;

use crate::clock;
use crate::events::customer::CUSTOMER;
use crate::events::log::{DecodeError, StoredEvent};
use crate::events::metadata::Metadata;
use crate::printable::printable;

/// The columns of a CSV export. `version` is the event's number within its customer.
pub const CSV_COLUMNS: [&str; 12] = [
    "position",
    "recorded_at",
    "type",
    "id",
    "version",
    "name",
    "dob",
    "actor",
    "role",
    "request_id",
    "ip",
    "reason",
];

/// Encodes an event as one record; members without a column are left out. A CSV file is for people, in a
/// terminal or a spreadsheet: what acts on either is escaped.
pub fn csv_record(event: &StoredEvent) -> Result<[String; 12], DecodeError> {
    #[derive(Default, Deserialize)]
    struct Person {
        name: Option<String>,
        dob: Option<String>,
    }
    let person: Person = if event.aggregate_type == CUSTOMER {
        serde_json::from_str(&event.payload)?
    } else {
        Person::default()
    };
    let metadata: Metadata = serde_json::from_str(&event.metadata)?;
    let value = |text: Option<String>| text.map(escape_formula).unwrap_or_default();
    // A log that was written by earlier versions has any character in a reason.
    let shown = |text: Option<String>| text.map(|text| cell(&text)).unwrap_or_default();
    Ok([
        event.position.to_string(),
        clock::rfc3339(event.recorded_at),
        event.event_type.clone(),
        escape_formula(event.aggregate_id.clone()),
        event.sequence.to_string(),
        value(person.name),
        value(person.dob),
        shown(metadata.actor),
        shown(metadata.role),
        shown(metadata.request_id),
        shown(metadata.ip),
        shown(metadata.reason),
    ])
}

/// A text as it stands in a cell: what acts on a terminal or a spreadsheet is escaped.
#[must_use]
pub fn cell(text: &str) -> String {
    escape_formula(printable(text).into_owned())
}

/// Keeps spreadsheets from evaluating a cell as a formula: prefixes an apostrophe to a text that begins
/// with `=`, `+`, `-`, `@`, a tab or a carriage return (OWASP, CSV injection).
fn escape_formula(text: String) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text }
}
