//! Encodes and decodes payloads and metadata. A later transformation of payloads (for example encryption
//! with a key per customer) belongs here.

use std::borrow::Cow;

use cqrs_es::DomainEvent;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::events::account::AccountEvent;
use crate::events::customer::CustomerEvent;
use crate::events::installation::InstallationEvent;
use crate::events::metadata::Metadata;
use crate::events::upcast;

/// An event to append.
#[derive(Debug, Clone)]
pub struct NewEvent {
    pub event_type: Cow<'static, str>,
    pub event_version: Cow<'static, str>,
    /// JSON, tagged with the event's type; the fields are in the order of their declaration.
    pub payload: String,
}

impl<E: DomainEvent> From<&E> for NewEvent {
    fn from(event: &E) -> Self {
        Self {
            event_type: event.event_type().into(),
            event_version: event.event_version().into(),
            payload: encode(event),
        }
    }
}

/// Metadata as the log stores it: the JSON of a flat object of strings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedMetadata(String);

impl EncodedMetadata {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Accepts any flat object of strings; fails for other JSON, which cqrs-es cannot load.
    pub(super) fn parse(metadata: &serde_json::Value) -> Result<Self, DecodeError> {
        let members: std::collections::BTreeMap<String, String> =
            Deserialize::deserialize(metadata)?;
        Ok(Self(encode(&members)))
    }
}

impl From<Metadata> for EncodedMetadata {
    fn from(metadata: Metadata) -> Self {
        (&metadata).into()
    }
}

impl From<&Metadata> for EncodedMetadata {
    fn from(metadata: &Metadata) -> Self {
        Self(encode(metadata))
    }
}

/// Encodes a value as JSON text, as the log stores it.
pub(super) fn encode(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("events and metadata are plain structs with string keys")
}

/// Decodes a stored event of any known version into the current version.
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

/// The payload in the current version: the stored bytes if they have that version already.
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
    } else if InstallationEvent::TYPES.contains(&event_type) {
        encode(&decode::<InstallationEvent>(event_type, event_version, payload)?)
    } else {
        encode(&decode::<AccountEvent>(event_type, event_version, payload)?)
    };
    Ok(Cow::Owned(text))
}

/// A stored event that this program cannot decode.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the stored event cannot be decoded: {0}")]
    Json(#[from] serde_json::Error),
    #[error("version {1} of {0} is unknown: a newer program wrote it")]
    Version(String, String),
}
