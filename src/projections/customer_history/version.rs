//! A state of a customer: one row of `customer_history`.

use chrono::{DateTime, NaiveDate, Utc};

use crate::projections::customers::Row;

/// One version of one customer: a state, and the event that led to it with its actor.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Version {
    pub customer_id: i64,
    pub version: i64,
    pub position: i64,
    /// The position of the customer's next event.
    pub until_position: Option<i64>,
    pub event_type: String,
    /// `None` after a deletion, like `dob`.
    pub name: Option<String>,
    pub dob: Option<NaiveDate>,
    pub external_id: Option<String>,
    pub created_at: DateTime<Utc>,
    pub valid_from: DateTime<Utc>,
    pub valid_to: Option<DateTime<Utc>>,
    pub actor: Option<String>,
    pub role: Option<String>,
    pub request_id: Option<String>,
    pub ip: Option<String>,
    pub user_agent: Option<String>,
    pub reason: Option<String>,
}

impl Version {
    /// The customer in this state; `None` after a deletion.
    #[must_use]
    pub fn into_row(self) -> Option<Row> {
        let (id, version) = (self.customer_id, self.version);
        let (created_at, updated_at) = (self.created_at, self.valid_from);
        let (name, dob, external_id) = (self.name?, self.dob?, self.external_id);
        Some(Row { id, name, dob, external_id, version, created_at, updated_at })
    }
}
