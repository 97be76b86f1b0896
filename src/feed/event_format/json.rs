//! The JSON object of the feed, of an export and of the stream.

use serde::Serialize;
use serde_json::value::RawValue;

use super::data::Data;
use crate::clock;
use crate::events::log::{DecodeError, StoredEvent};

/// Encodes an event as that JSON object.
pub fn json(event: &StoredEvent) -> Result<String, DecodeError> {
    #[derive(Serialize)]
    struct Shown<'a> {
        position: i64,
        aggregate_type: &'a str,
        aggregate_id: &'a str,
        sequence: i64,
        r#type: &'a str,
        version: &'a str,
        data: Data<'a>,
        metadata: &'a RawValue,
        recorded_at: String,
    }
    let shown = Shown {
        position: event.position,
        aggregate_type: &event.aggregate_type,
        aggregate_id: &event.aggregate_id,
        sequence: event.sequence,
        r#type: &event.event_type,
        version: &event.event_version,
        data: serde_json::from_str(&event.payload)?,
        metadata: serde_json::from_str(&event.metadata)?,
        recorded_at: clock::rfc3339(event.recorded_at),
    };
    Ok(serde_json::to_string(&shown)?)
}
