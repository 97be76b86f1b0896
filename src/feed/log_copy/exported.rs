//! One event of an export, as `event_format::json` writes it.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::events::log::StoredEvent;

/// A line of an export that has an event.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Exported<'a> {
    pub(super) position: i64,
    pub(super) aggregate_type: String,
    pub(super) aggregate_id: String,
    pub(super) sequence: i64,
    pub(super) r#type: String,
    pub(super) version: String,
    #[serde(borrow)]
    pub(super) data: &'a RawValue,
    #[serde(borrow)]
    pub(super) metadata: &'a RawValue,
    pub(super) recorded_at: Recorded,
}

/// A time with its text.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Recorded {
    pub(super) at: DateTime<Utc>,
    pub(super) text: String,
}

impl TryFrom<String> for Recorded {
    type Error = chrono::ParseError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Ok(Self { at: text.parse()?, text })
    }
}

impl Exported<'_> {
    /// The payload as the log stores it, with the type among its members.
    pub(super) fn payload(&self) -> String {
        let members = self.data.get().trim_start_matches('{').trim_start();
        let between = if members == "}" { "" } else { "," };
        format!("{{\"type\":\"{}\"{between}{members}", self.r#type)
    }

    pub(super) fn into_stored(self) -> StoredEvent {
        StoredEvent {
            position: self.position,
            sequence: self.sequence,
            payload: self.payload(),
            event_type: self.r#type,
            event_version: self.version,
            metadata: self.metadata.get().to_owned(),
            recorded_at: self.recorded_at.at,
            aggregate_type: self.aggregate_type,
            aggregate_id: self.aggregate_id,
        }
    }
}
