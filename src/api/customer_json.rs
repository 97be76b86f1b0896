//! The JSON form of a customer, in every answer that shows one.

use axum::body::Bytes;
use serde::Serialize;

use crate::clock;
use crate::projections::Mark;
use crate::projections::customers::Row;

/// The JSON form of a customer.
#[derive(Debug, Serialize)]
pub(super) struct Customer<'a> {
    pub(super) id: i64,
    pub(super) name: &'a str,
    pub(super) dob: String,
    pub(super) external_id: Option<&'a str>,
    pub(super) version: i64,
    pub(super) created_at: String,
    pub(super) updated_at: String,
}

impl<'a> From<&'a Row> for Customer<'a> {
    fn from(row: &'a Row) -> Self {
        Self {
            id: row.id,
            name: &row.name,
            dob: row.dob.to_string(),
            external_id: row.external_id.as_deref(),
            version: row.version,
            created_at: clock::rfc3339(row.created_at),
            updated_at: clock::rfc3339(row.updated_at),
        }
    }
}

/// The JSON of a list, and the mark of the state that it shows.
#[derive(Debug, Clone)]
pub struct MarkedJson {
    pub(super) json: Bytes,
    pub(super) mark: Mark,
}
