//! Commands: requests to change a customer.

use crate::events::values::{DateOfBirth, Name};

/// A command of one customer. `Create` is for a customer that does not exist yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CustomerCommand {
    Create { name: Name, dob: DateOfBirth },
    Update { name: Name, dob: DateOfBirth, if_match: IfMatch },
    Delete { if_match: IfMatch },
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
