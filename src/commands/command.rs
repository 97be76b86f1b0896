//! Commands: requests to change a customer.

use crate::events::customer::CustomerValues;
use crate::events::external_id::ExternalId;
use crate::events::values::{DateOfBirth, Name};

/// A command of one customer. `Create` is for a customer that does not exist yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CustomerCommand {
    Create(CustomerValues),
    Update {
        name: Name,
        dob: DateOfBirth,
        external_id: ExternalIdChange,
        if_match: IfMatch,
    },
    /// As `Update`, if the customer has the external id of the values.
    UpdateExternal {
        values: CustomerValues,
        if_match: IfMatch,
    },
    Delete {
        if_match: IfMatch,
    },
    /// Gives the customer the values of an earlier version.
    Restore {
        values: CustomerValues,
        from_version: i64,
        if_match: IfMatch,
    },
}

/// What becomes of the external id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExternalIdChange {
    Keep,
    /// `None` takes it away.
    Set(Option<ExternalId>),
}

impl ExternalIdChange {
    /// The external id after the change.
    #[must_use]
    pub fn applied_to(&self, before: Option<&ExternalId>) -> Option<ExternalId> {
        match self {
            Self::Keep => before.cloned(),
            Self::Set(external_id) => external_id.clone(),
        }
    }
}

/// The versions of the customer to which the command applies (`If-Match` and `If-None-Match`, RFC 9110,
/// section 13.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfMatch {
    /// Any version.
    Any,
    /// One of these versions; an empty list matches none.
    OneOf(Vec<i64>),
    /// Any version but these.
    NoneOf(Vec<i64>),
}

impl IfMatch {
    #[must_use]
    pub fn allows(&self, version: i64) -> bool {
        match self {
            Self::Any => true,
            Self::OneOf(versions) => versions.contains(&version),
            Self::NoneOf(versions) => !versions.contains(&version),
        }
    }
}
