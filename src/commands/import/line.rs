//! One line of a file, as a customer or as its errors.

use serde::Serialize;

use crate::events::customer::CustomerValues;
use crate::events::external_id::ExternalId;
use crate::events::values::{CustomerId, DateOfBirth, Name, ValueError};

/// The longest line in bytes (of UTF-8): far more than a customer needs.
pub const LINE_MAX: usize = 64 * 1024;

/// One line that is not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// From 1; for a CSV record the line on which it begins.
    pub number: i64,
    pub customer: Customer,
}

/// The customer of a line, or all that is wrong with the line.
pub type Customer = Result<CustomerValues, Vec<LineError>>;

/// What is wrong with one field of a line; the field `line` is the line as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LineError {
    pub field: &'static str,
    pub detail: String,
}

/// A line that was rejected, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RejectedLine {
    pub line: i64,
    pub errors: Vec<LineError>,
}

impl LineError {
    pub(super) fn new(field: &'static str, detail: impl Into<String>) -> Self {
        Self { field, detail: detail.into() }
    }

    /// Another customer has the external id.
    pub(super) fn external_id_taken(customer: CustomerId) -> Self {
        Self::new("external_id", format!("is that of customer {customer}"))
    }

    pub(super) fn too_long() -> Self {
        Self::new("line", format!("is longer than {LINE_MAX} bytes"))
    }
}

/// The customer, or the errors of all values.
pub(super) fn customer(
    name: Result<Name, ValueError>,
    dob: Result<DateOfBirth, ValueError>,
    external_id: Result<Option<ExternalId>, ValueError>,
) -> Customer {
    match (name, dob, external_id) {
        (Ok(name), Ok(dob), Ok(external_id)) => Ok(CustomerValues { name, dob, external_id }),
        (name, dob, external_id) => {
            let name = name.err().map(|error| LineError::new("name", error.0));
            let dob = dob.err().map(|error| LineError::new("dob", error.0));
            let external_id = external_id.err().map(|error| LineError::new("external_id", error.0));
            Err(name.into_iter().chain(dob).chain(external_id).collect())
        }
    }
}
