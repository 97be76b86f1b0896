//! The one place where a payload is written and the one where it is read. Whatever is done to
//! payloads later (sealing them with a key per customer, say) is done here.

use std::borrow::Cow;

use serde::{Serialize, de::DeserializeOwned};

use crate::events::account::AccountEvent;
use crate::events::customer::{CUSTOMER, CustomerEvent};
use crate::events::upcast;

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

/// An event out of the log, whatever version it was written in.
///
/// # Errors
/// When it is none that this program knows.
pub fn decode<E: DeserializeOwned>(
    event_type: &str,
    event_version: &str,
    payload: &str,
) -> Result<E, DecodeError> {
    if event_version == upcast::current_version(event_type) {
        return Ok(serde_json::from_str(payload)?);
    }
    let stored = serde_json::from_str(payload)?;
    let current = upcast::upcast(event_type, event_version, stored)
        .ok_or_else(|| DecodeError::Version(event_type.to_owned(), event_version.to_owned()))?;
    Ok(serde_json::from_value(current)?)
}

/// The payload in today's version: the stored bytes when that is how it was written.
///
/// # Errors
/// When it is no event that this program knows.
pub fn current<'a>(
    event_type: &str,
    event_version: &str,
    payload: &'a str,
) -> Result<Cow<'a, str>, DecodeError> {
    if event_version == upcast::current_version(event_type) {
        return Ok(Cow::Borrowed(payload));
    }
    let text = if CustomerEvent::TYPES.contains(&event_type) {
        encode(&decode::<CustomerEvent>(event_type, event_version, payload)?)
    } else {
        encode(&decode::<AccountEvent>(event_type, event_version, payload)?)
    };
    Ok(Cow::Owned(text))
}

/// Whether an event from elsewhere is one that this program can read, of an aggregate of that type.
///
/// # Errors
/// When it is not.
pub fn check(
    aggregate_type: &str,
    event_type: &str,
    event_version: &str,
    payload: &str,
) -> Result<(), DecodeError> {
    if aggregate_type == CUSTOMER {
        decode::<CustomerEvent>(event_type, event_version, payload)?;
    } else {
        decode::<AccountEvent>(event_type, event_version, payload)?;
    }
    Ok(())
}

/// A stored event that this program cannot read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the stored event cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    #[error("version {1} of {0} is not known here: a newer program wrote it")]
    Version(String, String),
}
