//! The log.

use serde_json::Value;
use utoipa::ToSchema;

/// One event of the log.
#[derive(ToSchema)]
pub(crate) struct Event {
    /// Its number in the log: from 1, without gaps, in the order of the commits.
    #[schema(minimum = 1)]
    position: i64,
    #[schema(example = "customer")]
    aggregate_type: String,
    /// The id of the customer, or the name of the account.
    #[schema(example = "1")]
    aggregate_id: String,
    /// Its number within its customer or account, from 1.
    #[schema(minimum = 1)]
    sequence: i64,
    #[schema(example = "CustomerCreated")]
    r#type: String,
    #[schema(example = "1")]
    version: String,
    #[schema(value_type = Object, example = json!({"name": "Ada Lovelace", "dob": "1990-12-10"}))]
    data: Value,
    /// Who, from where and why: texts by name.
    #[schema(value_type = Object, example = json!({"actor": "demo", "role": "admin"}))]
    metadata: Value,
    #[schema(format = DateTime)]
    recorded_at: String,
}

/// A page of the log.
#[derive(ToSchema)]
pub(crate) struct EventPage {
    events: Vec<Event>,
    /// The value of `after` for the next page. It moves also if no event matches the filters.
    #[schema(minimum = 0)]
    next: i64,
    /// The position of the last event of the log.
    #[schema(minimum = 0)]
    head: i64,
    /// The identity of the log.
    #[schema(format = "uuid")]
    log: String,
}

/// An event as a CloudEvent (CNCF CloudEvents 1.0).
#[derive(ToSchema)]
pub(crate) struct CloudEvent {
    #[schema(example = "1.0")]
    specversion: String,
    id: String,
    #[schema(format = "uri-reference")]
    source: String,
    #[schema(example = "customers.CustomerCreated.v1")]
    r#type: String,
    #[schema(example = "customers/1")]
    subject: String,
    #[schema(format = DateTime)]
    time: String,
    datacontenttype: String,
    sequence: String,
    actor: Option<String>,
    reason: Option<String>,
    #[schema(value_type = Object)]
    data: Value,
}
