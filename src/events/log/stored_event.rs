//! An event as it is stored, and its columns.

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::payload::{DecodeError, decode};
use crate::events::customer::CUSTOMER;
use crate::events::metadata::Metadata;
use crate::events::values::CustomerId;

/// The columns of a [`StoredEvent`], for a query that is not checked.
pub const COLUMNS: &str = "position, aggregate_type, aggregate_id, sequence, event_type, event_version, \
                           payload::text as payload, metadata::text as metadata, recorded_at";

/// An event as it is stored in the log.
#[derive(Debug, Clone)]
pub struct StoredEvent {
    pub position: i64,
    pub aggregate_type: String,
    pub aggregate_id: String,
    pub sequence: i64,
    pub event_type: String,
    pub event_version: String,
    pub payload: String,
    pub metadata: String,
    pub recorded_at: DateTime<Utc>,
}

impl StoredEvent {
    /// The event in the [`COLUMNS`] of a row, of which the first has this index.
    pub fn from_columns(row: &PgRow, first: usize) -> Result<Self, sqlx::Error> {
        Ok(Self {
            position: row.try_get(first)?,
            aggregate_type: row.try_get(first + 1)?,
            aggregate_id: row.try_get(first + 2)?,
            sequence: row.try_get(first + 3)?,
            event_type: row.try_get(first + 4)?,
            event_version: row.try_get(first + 5)?,
            payload: row.try_get(first + 6)?,
            metadata: row.try_get(first + 7)?,
            recorded_at: row.try_get(first + 8)?,
        })
    }

    /// Decodes the event; fails for a type or version that this program does not have.
    pub fn decode<E: DeserializeOwned>(&self) -> Result<E, DecodeError> {
        decode(&self.event_type, &self.event_version, &self.payload)
    }

    /// Actor, origin and reason; fails if the stored JSON is not a flat object of strings.
    pub fn metadata(&self) -> Result<Metadata, DecodeError> {
        Ok(serde_json::from_str(&self.metadata)?)
    }

    /// The customer's id; `None` for an event of an account.
    #[must_use]
    pub fn customer(&self) -> Option<CustomerId> {
        (self.aggregate_type == CUSTOMER)
            .then(|| CustomerId::parse(&self.aggregate_id).ok())
            .flatten()
    }
}
