//! Customers, their histories, the import.

use serde_json::Value;
use utoipa::ToSchema;

use super::problems::{FieldError, Problem};

/// A customer as it is, or was.
#[derive(ToSchema)]
pub(crate) struct Customer {
    /// Never used again.
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1)]
    id: i64,
    /// 1 to 128 Unicode scalar values, in NFC.
    #[schema(min_length = 1, max_length = 128, example = "Ada Lovelace")]
    name: String,
    #[schema(format = Date, example = "1990-12-10")]
    dob: String,
    /// The id that another system has for the customer; null without one.
    #[schema(required = true, example = "crm-4711")]
    external_id: Option<String>,
    /// The number of changes; the entity tag is the same number in quotes.
    #[schema(minimum = 1, example = 1)]
    version: i64,
    /// The time of the first event.
    #[schema(format = DateTime)]
    created_at: String,
    /// The time of the last event.
    #[schema(format = DateTime)]
    updated_at: String,
}

/// The values of a customer.
#[derive(ToSchema)]
pub(crate) struct CustomerValues {
    /// 1 to 128 Unicode scalar values after trimming, without control and invisible characters.
    #[schema(min_length = 1, example = "Ada Lovelace")]
    name: String,
    /// A real date from 1900-01-01 to today (UTC).
    #[schema(format = Date, example = "1990-12-10")]
    dob: String,
    /// 1 to 128 visible characters, unique among the customers that are there. An update without it keeps it, null takes
    /// it away.
    #[schema(example = "crm-4711")]
    external_id: Option<String>,
    /// Why; the event and the history keep it. Up to 500 characters in one line.
    #[schema(max_length = 500)]
    reason: Option<String>,
}

/// The values of a customer, with its id.
#[derive(ToSchema)]
pub(crate) struct CustomerUpdate {
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1)]
    id: i64,
    #[schema(min_length = 1, example = "Ada Lovelace")]
    name: String,
    #[schema(format = Date, example = "1990-12-10")]
    dob: String,
    #[schema(example = "crm-4711")]
    external_id: Option<String>,
    #[schema(max_length = 500)]
    reason: Option<String>,
}

/// The version whose values a customer gets.
#[derive(ToSchema)]
pub(crate) struct Restoration {
    #[schema(minimum = 1, example = 1)]
    version: i64,
    /// Instead of the external id of that version, which another customer may have by now; null for none.
    external_id: Option<String>,
    #[schema(max_length = 500)]
    reason: Option<String>,
}

/// Customers, the youngest first; those of one date of birth by their ids.
#[derive(ToSchema)]
pub(crate) struct CustomerList {
    /// How many there are in this list.
    #[schema(minimum = 0)]
    number: i64,
    customers: Vec<Customer>,
    /// Of a page only: the value of `after` for the next page; null on the last one.
    #[schema(required = false)]
    next: Option<String>,
}

/// The answer to `count`.
#[derive(ToSchema)]
pub(crate) struct CustomerCount {
    #[schema(minimum = 0)]
    number: i64,
}

#[derive(ToSchema)]
pub(crate) struct DeletedCustomer {
    msg: String,
    #[schema(minimum = 1, example = 1)]
    id: i64,
}

/// A page of the history of a customer, the oldest change first.
#[derive(ToSchema)]
pub(crate) struct History {
    #[schema(minimum = 1)]
    customer_id: i64,
    history: Vec<Change>,
    /// The value of `after` for the next page; null on the last one.
    #[schema(required = true)]
    next: Option<i64>,
}

/// One change of a customer; what is not known is null.
#[derive(ToSchema)]
pub(crate) struct Change {
    #[schema(minimum = 1)]
    version: i64,
    /// The number of its event in the log.
    #[schema(minimum = 1)]
    position: i64,
    /// The type of its event.
    #[schema(example = "CustomerUpdated")]
    event: String,
    #[schema(format = DateTime)]
    at: String,
    /// The user name of the account.
    #[schema(required = true)]
    actor: Option<String>,
    #[schema(required = true)]
    role: Option<String>,
    #[schema(required = true)]
    request_id: Option<String>,
    #[schema(required = true)]
    ip: Option<String>,
    #[schema(required = true)]
    user_agent: Option<String>,
    #[schema(required = true)]
    reason: Option<String>,
    changes: Vec<FieldChange>,
}

#[derive(ToSchema)]
pub(crate) struct FieldChange {
    #[schema(example = "name")]
    field: String,
    /// Null when the customer was created.
    #[schema(required = true)]
    from: Option<String>,
    /// Null when the customer was deleted.
    #[schema(required = true)]
    to: Option<String>,
}

/// A line of the answer of an import: one of its members.
#[derive(ToSchema)]
pub(crate) struct ImportLine {
    /// The number of a refused line, with `errors`.
    line: Option<i64>,
    errors: Option<Vec<FieldError>>,
    /// How far the import is, every few seconds.
    #[schema(value_type = Option<Object>)]
    progress: Option<Value>,
    /// The last line of an import that has succeeded.
    summary: Option<ImportSummary>,
    /// The last line of an import that has failed after its answer had begun.
    error: Option<Problem>,
}

#[derive(ToSchema)]
pub(crate) struct ImportSummary {
    lines: i64,
    created: i64,
    refused: i64,
    /// The position of the last create; 0 without one.
    last_position: i64,
}
