//! The checks of an exported event: only what this service could have written is restored. The values pass
//! through the parsers of every other door.

use std::collections::BTreeMap;

use chrono::Days;
use cqrs_es::DomainEvent;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::exported::Exported;
use crate::clock::rfc3339;
use crate::events::account::{ACCOUNT, AccountEvent};
use crate::events::customer::{CUSTOMER, CustomerEvent};
use crate::events::installation::{INSTALLATION, InstallationEvent, TOKEN_KEYS};
use crate::events::log::payload::decode;
use crate::events::metadata::Metadata;
use crate::events::upcast::upcast;
use crate::events::values::{CustomerId, Username};

/// The error is a text for the operator.
pub(super) fn check(event: &Exported<'_>) -> Result<(), String> {
    check_metadata(event.metadata.get())?;
    // PostgreSQL has microseconds and no leap seconds: two events must not get the same time by rounding.
    let time = event.recorded_at.at;
    let nanos = time.timestamp_subsec_nanos();
    if !nanos.is_multiple_of(1000) || nanos >= 1_000_000_000 {
        return Err("recorded_at must be a time in microseconds".to_owned());
    }
    if event.recorded_at.text != rfc3339(time) {
        return Err(format!("recorded_at must be written {}", rfc3339(time)));
    }
    if event.sequence < 1 {
        return Err("sequence must be 1 or more".to_owned());
    }
    let id = &event.aggregate_id;
    match event.aggregate_type.as_str() {
        CUSTOMER => {
            CustomerId::parse(id).map_err(|error| format!("aggregate_id {error}"))?;
            check_customer(event, &written(event)?)
        }
        ACCOUNT => {
            let name = Username::stored(id).map_err(|error| format!("aggregate_id {error}"))?;
            if name.as_str() != id {
                return Err(format!("aggregate_id must be written {name}"));
            }
            match written(event)? {
                AccountEvent::AccountAdded { username, .. } if username != name => {
                    Err("username must be the aggregate_id".to_owned())
                }
                AccountEvent::AccountAdded { .. }
                | AccountEvent::AccountDisabled {}
                | AccountEvent::AccountEnabled {}
                | AccountEvent::RoleChanged { .. }
                | AccountEvent::PasswordChanged {}
                | AccountEvent::PasswordRehashed {}
                | AccountEvent::SessionOpened { .. }
                | AccountEvent::SessionBound { .. }
                | AccountEvent::SessionClosed { .. }
                | AccountEvent::TokenReplayDetected { .. }
                | AccountEvent::LoginThrottled { .. }
                | AccountEvent::ServiceKeyAdded { .. }
                | AccountEvent::ServiceKeyRevoked { .. } => Ok(()),
            }
        }
        INSTALLATION if id != TOKEN_KEYS => Err(format!("aggregate_id must be {TOKEN_KEYS}")),
        INSTALLATION => match written(event)? {
            InstallationEvent::TokenKeyRetired { verifies_until, .. }
                if verifies_until.parse().ok().map(rfc3339).as_ref() != Some(&verifies_until) =>
            {
                Err("verifies_until must be a time".to_owned())
            }
            InstallationEvent::TokenKeyCreated { .. }
            | InstallationEvent::TokenKeyRetired { .. } => Ok(()),
        },
        other => Err(format!("aggregate_type {other} is unknown")),
    }
}

fn check_customer(event: &Exported<'_>, customer: &CustomerEvent) -> Result<(), String> {
    match customer {
        CustomerEvent::CustomerCreated { dob, .. }
        | CustomerEvent::CustomerUpdated { dob, .. }
        | CustomerEvent::CustomerRestored { dob, .. }
            if dob.date() > event.recorded_at.at.date_naive() + Days::new(1) =>
        {
            // A day later is possible: the clock of the service, which checks a dob, and that of
            // PostgreSQL, which tells recorded_at, need not agree at midnight.
            Err("dob must not be more than a day after recorded_at".to_owned())
        }
        CustomerEvent::CustomerRestored { from_version, .. }
            if !(1..event.sequence).contains(from_version) =>
        {
            Err("from_version must be an earlier version".to_owned())
        }
        CustomerEvent::CustomerCreated { .. }
        | CustomerEvent::CustomerUpdated { .. }
        | CustomerEvent::CustomerRestored { .. }
        | CustomerEvent::CustomerDeleted {} => Ok(()),
    }
}

/// Decodes the event, and checks that each of its members is what this service writes for it.
fn written<E: DomainEvent + DeserializeOwned + Serialize>(
    event: &Exported<'_>,
) -> Result<E, String> {
    let (kind, version, payload) = (&event.r#type, &event.version, event.payload());
    let text = |error: serde_json::Error| error.to_string();
    let decoded: E = decode(kind, version, &payload).map_err(|error| error.to_string())?;
    // The type becomes a part of the payload's text.
    if decoded.event_type() != *kind {
        return Err("type is not the name of an event".to_owned());
    }
    let stored: Value = serde_json::from_str(&payload).map_err(text)?;
    let stored = upcast(kind, version, stored).unwrap_or_default();
    let written = serde_json::to_value(&decoded).map_err(text)?;
    for (member, value) in stored.as_object().into_iter().flatten() {
        match written.get(member) {
            None => return Err(format!("data has the unknown member {member:?}")),
            Some(written) if written != value => {
                return Err(format!("{member} must be written {written}"));
            }
            Some(Value::String(text)) if text.contains(char::is_control) => {
                return Err(format!("{member} must not contain control characters"));
            }
            Some(_) => {}
        }
    }
    Ok(decoded)
}

/// Checks that the metadata is a flat object of strings, which is all that cqrs-es loads. A reason may
/// contain what earlier versions of `customers import --reason` accepted, which is everything but NUL.
fn check_metadata(metadata: &str) -> Result<(), String> {
    let _: Metadata = serde_json::from_str(metadata).map_err(|error| error.to_string())?;
    let members: BTreeMap<String, String> =
        serde_json::from_str(metadata).map_err(|error| format!("metadata: {error}"))?;
    let is_refused =
        |member: &str, c: char| if member == "reason" { c == '\0' } else { c.is_control() };
    let refused = members.iter().find(|(member, text)| {
        text.chars().any(|c| is_refused(member, c)) || member.contains('\0')
    });
    match refused {
        Some((member, _)) => {
            Err(format!("{member:?} in metadata must not contain control characters"))
        }
        None => Ok(()),
    }
}
