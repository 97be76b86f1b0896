//! Events of customers. Each event carries the customer's whole state after it, so a decision needs only
//! the last event.

use serde::{Deserialize, Serialize};
use strum::VariantNames as _;

use super::external_id::ExternalId;
use super::upcast;
use super::values::{DateOfBirth, Name};

/// The `aggregate_type` of customers in the log.
pub const CUSTOMER: &str = "customer";

/// What is known of a customer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CustomerValues {
    pub name: Name,
    pub dob: DateOfBirth,
    /// `None`: no other system knows the customer.
    pub external_id: Option<ExternalId>,
}

impl CustomerValues {
    /// Without an external id.
    #[must_use]
    pub fn new(name: Name, dob: DateOfBirth) -> Self {
        Self { name, dob, external_id: None }
    }
}

/// The payload is internally tagged; the order of its fields never changes, since the log is permanent:
/// `{"type":"CustomerCreated","name":"Ada","dob":"1990-12-10"}`. A customer without an external id has no such
/// member.
#[derive(
    Debug, Clone, PartialEq, Eq, Serialize, Deserialize, strum::IntoStaticStr, strum::VariantNames,
)]
#[serde(tag = "type")]
pub enum CustomerEvent {
    CustomerCreated {
        name: Name,
        dob: DateOfBirth,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        external_id: Option<ExternalId>,
    },
    CustomerUpdated {
        name: Name,
        dob: DateOfBirth,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        external_id: Option<ExternalId>,
    },
    CustomerDeleted {},
    /// The customer has the values of an earlier version again; it may have been deleted in between.
    CustomerRestored {
        name: Name,
        dob: DateOfBirth,
        from_version: i64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        external_id: Option<ExternalId>,
    },
}

impl CustomerEvent {
    /// The names of all customer events.
    pub const TYPES: &'static [&'static str] = Self::VARIANTS;

    #[must_use]
    pub fn created(CustomerValues { name, dob, external_id }: CustomerValues) -> Self {
        Self::CustomerCreated { name, dob, external_id }
    }

    #[must_use]
    pub fn updated(CustomerValues { name, dob, external_id }: CustomerValues) -> Self {
        Self::CustomerUpdated { name, dob, external_id }
    }

    #[must_use]
    pub fn restored(values: CustomerValues, from_version: i64) -> Self {
        let CustomerValues { name, dob, external_id } = values;
        Self::CustomerRestored { name, dob, from_version, external_id }
    }

    #[must_use]
    pub fn event_type(&self) -> &'static str {
        self.into()
    }

    /// What is known of the customer after the event; `None` when the event deletes it.
    #[must_use]
    pub fn into_values(self) -> Option<CustomerValues> {
        match self {
            Self::CustomerCreated { name, dob, external_id }
            | Self::CustomerUpdated { name, dob, external_id }
            | Self::CustomerRestored { name, dob, external_id, from_version: _ } => {
                Some(CustomerValues { name, dob, external_id })
            }
            Self::CustomerDeleted {} => None,
        }
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
