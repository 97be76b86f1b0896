//! Metadata of an event: actor, origin and reason, stored as a flat JSON object of strings, the only
//! shape that cqrs-es loads.

use serde::{Deserialize, Serialize};

/// Absent members are not stored; the stored members have this order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// The user name, or the name of a program that acts without a user.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub actor: Option<String>,
    /// The actor's role at that time.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub role: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub session: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub user_agent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub request_id: Option<String>,
    /// The caller's trace (W3C Trace Context).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub traceparent: Option<String>,
    /// The caller's reason (`X-Reason`).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// The user of the operating system, if a command made the change: the actor is the program then.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub os_user: Option<String>,
}

impl Metadata {
    /// For events that a program causes by itself, such as the demo data.
    #[must_use]
    pub fn of_program(name: &str) -> Self {
        Self { actor: Some(name.to_owned()), ..Self::default() }
    }
}
