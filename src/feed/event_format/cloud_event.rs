//! CloudEvents 1.0 (CNCF), in their JSON format.

use std::borrow::Cow;

use serde::Serialize;
use uuid::Uuid;

use super::data::Data;
use crate::clock;
use crate::events::customer::CUSTOMER;
use crate::events::installation::INSTALLATION;
use crate::events::log::{DecodeError, StoredEvent};
use crate::events::metadata::Metadata;
use crate::printable::printable;

/// The source of the CloudEvents of a log: the address of the feed with the identity of the log. Source and
/// `id` together name an event, and another log may have another event at the same position.
#[must_use]
pub fn source(feed_url: &str, log: Uuid) -> String {
    format!("{feed_url}?log={log}")
}

/// Encodes an event as a CloudEvent. `source` is that of its log. `sequence`, `actor` and `reason`
/// are extension attributes.
pub fn cloud_event(event: &StoredEvent, source: &str) -> Result<String, DecodeError> {
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
    let kind = match event.aggregate_type.as_str() {
        CUSTOMER => "customers",
        INSTALLATION => "installation",
        _ => "accounts",
    };
    let shown = CloudEvent {
        specversion: "1.0",
        id: event.position.to_string(),
        source,
        r#type: attribute(format!("customers.{}.v{}", event.event_type, event.event_version)),
        subject: attribute(format!("{kind}/{}", event.aggregate_id)),
        time: clock::rfc3339(event.recorded_at),
        datacontenttype: "application/json",
        sequence: event.sequence.to_string(),
        actor: metadata.actor.map(attribute),
        reason: metadata.reason.map(attribute),
        data: serde_json::from_str(&event.payload)?,
    };
    Ok(serde_json::to_string(&shown)?)
}

/// An attribute has no control characters and no noncharacters (CloudEvents 1.0.2, type system).
fn attribute(text: String) -> String {
    match printable(&text) {
        Cow::Borrowed(_) => text,
        Cow::Owned(escaped) => escaped,
    }
}
