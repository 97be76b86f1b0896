//! Events of the installation itself: changes of the keys that sign tokens. No event contains a key.

use serde::{Deserialize, Serialize};
use strum::VariantNames as _;
use uuid::Uuid;

use super::upcast;

/// The `aggregate_type` of the installation in the log.
pub const INSTALLATION: &str = "installation";

/// The `aggregate_id` of its signing keys.
pub const TOKEN_KEYS: &str = "token-keys";

/// The payload is internally tagged, like that of a customer's event.
#[derive(
    Debug, Clone, PartialEq, Eq, Serialize, Deserialize, strum::IntoStaticStr, strum::VariantNames,
)]
#[serde(tag = "type")]
pub enum InstallationEvent {
    TokenKeyCreated {
        kid: Uuid,
    },
    /// The key no longer signs, and verifies until that time (RFC 3339).
    TokenKeyRetired {
        kid: Uuid,
        verifies_until: String,
    },
}

impl InstallationEvent {
    /// The names of all events of the installation.
    pub const TYPES: &'static [&'static str] = Self::VARIANTS;

    #[must_use]
    pub fn event_type(&self) -> &'static str {
        self.into()
    }
}

impl cqrs_es::DomainEvent for InstallationEvent {
    fn event_type(&self) -> String {
        self.event_type().to_owned()
    }

    fn event_version(&self) -> String {
        upcast::current_version(self.event_type()).to_owned()
    }
}
