//! Events of customers. Each event carries the customer's whole state after it, so a decision needs only
//! the last event.

use serde::{Deserialize, Serialize};
use strum::VariantNames as _;

use super::upcast;
use super::values::{DateOfBirth, Name};

/// The `aggregate_type` of customers in the log.
pub const CUSTOMER: &str = "customer";

/// The payload is internally tagged; the order of its fields never changes, since the log is permanent:
/// `{"type":"CustomerCreated","name":"Ada","dob":"1990-12-10"}`.
#[derive(
    Debug, Clone, PartialEq, Eq, Serialize, Deserialize, strum::IntoStaticStr, strum::VariantNames,
)]
#[serde(tag = "type")]
pub enum CustomerEvent {
    CustomerCreated { name: Name, dob: DateOfBirth },
    CustomerUpdated { name: Name, dob: DateOfBirth },
    CustomerDeleted {},
}

impl CustomerEvent {
    /// The names of all customer events.
    pub const TYPES: &'static [&'static str] = Self::VARIANTS;

    #[must_use]
    pub fn event_type(&self) -> &'static str {
        self.into()
    }
}

impl cqrs_es::DomainEvent for CustomerEvent {
    fn event_type(&self) -> String {
        self.event_type().to_owned()
    }

    fn event_version(&self) -> String {
        upcast::current_version(self.event_type()).to_owned()
    }
}
