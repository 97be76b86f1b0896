//! What someone asks for.

use crate::events::values::{DateOfBirth, Name};

/// A command about one customer. A create is asked of a customer that does not exist yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CustomerCommand {
    Create { name: Name, dob: DateOfBirth },
    Update { name: Name, dob: DateOfBirth, if_match: IfMatch },
    Delete { if_match: IfMatch },
}

/// Which versions of the customer the command was meant for (`If-Match`, RFC 9110 section 13.1.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfMatch {
    /// Whatever version it has.
    Any,
    /// One of these; none of them matches when the list is empty.
    OneOf(Vec<i64>),
}

impl IfMatch {
    #[must_use]
    pub fn allows(&self, version: i64) -> bool {
        match self {
            Self::Any => true,
            Self::OneOf(versions) => versions.contains(&version),
        }
    }
}
