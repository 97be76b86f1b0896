//! The one place where a payload is written and the one where it is read. Whatever is done to
//! payloads later (sealing them with a key per customer, say) is done here.

use serde::{Serialize, de::DeserializeOwned};

use crate::events::account::AccountEvent;
use crate::events::customer::CustomerEvent;

/// An event on its way into the log.
#[derive(Debug, Clone)]
pub struct NewEvent {
    pub event_type: &'static str,
    pub event_version: &'static str,
    /// JSON, tagged with its type, its fields in the order of their declaration.
    pub payload: String,
}

impl From<&CustomerEvent> for NewEvent {
    fn from(event: &CustomerEvent) -> Self {
        Self {
            event_type: event.event_type(),
            event_version: event.event_version(),
            payload: encode(event),
        }
    }
}

impl From<&AccountEvent> for NewEvent {
    fn from(event: &AccountEvent) -> Self {
        Self {
            event_type: event.event_type(),
            event_version: event.event_version(),
            payload: encode(event),
        }
    }
}

/// Any JSON that the log stores as text.
pub(super) fn encode(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("events and metadata are plain structs with string keys")
}

/// # Errors
/// When the bytes are not an event that this program knows.
pub fn decode<E: DeserializeOwned>(payload: &str) -> Result<E, DecodeError> {
    serde_json::from_str(payload).map_err(DecodeError)
}

/// A stored event that this program cannot read.
#[derive(Debug, thiserror::Error)]
#[error("the stored event cannot be read: {0}")]
pub struct DecodeError(#[source] pub(super) serde_json::Error);
