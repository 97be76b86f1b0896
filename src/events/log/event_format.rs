//! An event as other programs are shown it: the object of the feed, and a CloudEvent. What is stored
//! is passed on byte by byte and in its order.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::feed::FeedEvent;
use super::payload::DecodeError;
use crate::clock;
use crate::events::customer::CUSTOMER;
use crate::events::metadata::Metadata;

/// The object of the feed, of an export and of the stream.
///
/// # Errors
/// When what is stored is no JSON object.
pub fn json(event: &FeedEvent) -> Result<String, DecodeError> {
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

/// A CloudEvent 1.0 in its JSON format. `source` is the feed's address. What the specification has
/// no place for are extension attributes.
///
/// # Errors
/// When what is stored is no JSON object.
pub fn cloud_event(event: &FeedEvent, source: &str) -> Result<String, DecodeError> {
    #[derive(Serialize)]
    struct CloudEvent<'a> {
        specversion: &'static str,
        id: String,
        source: &'a str,
        r#type: String,
        subject: String,
        time: String,
        datacontenttype: &'static str,
        sequence: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        actor: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        data: Data<'a>,
    }
    let metadata: Metadata = serde_json::from_str(&event.metadata)?;
    let kind = if event.aggregate_type == CUSTOMER { "customers" } else { "accounts" };
    let shown = CloudEvent {
        specversion: "1.0",
        id: event.position.to_string(),
        source,
        r#type: format!("customers.{}.v{}", event.event_type, event.event_version),
        subject: format!("{kind}/{}", event.aggregate_id),
        time: clock::rfc3339(event.recorded_at),
        datacontenttype: "application/json",
        sequence: event.sequence.to_string(),
        actor: metadata.actor,
        reason: metadata.reason,
        data: serde_json::from_str(&event.payload)?,
    };
    Ok(serde_json::to_string(&shown)?)
}

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

/// One record of a CSV export, without what only other formats have room for.
///
/// # Errors
/// When what is stored is no JSON object.
pub fn csv_record(event: &FeedEvent) -> Result<[String; 12], DecodeError> {
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
    let cell = |text: Option<String>| text.map(harmless).unwrap_or_default();
    Ok([
        event.position.to_string(),
        clock::rfc3339(event.recorded_at),
        event.event_type.clone(),
        harmless(event.aggregate_id.clone()),
        event.sequence.to_string(),
        cell(person.name),
        cell(person.dob),
        cell(metadata.actor),
        cell(metadata.role),
        cell(metadata.request_id),
        cell(metadata.ip),
        cell(metadata.reason),
    ])
}

/// A cell that no spreadsheet takes for a formula (OWASP, CSV injection).
fn harmless(text: String) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text }
}

/// The members of a payload without its `type`, which stands beside it.
struct Data<'a>(Vec<(String, &'a RawValue)>);

impl Serialize for Data<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Data<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Data<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = vec![];
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    if name != "type" {
                        members.push((name, value));
                    }
                }
                Ok(Data(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}
