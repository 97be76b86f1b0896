//! The JSON shapes of requests and answers, for the document only: the tests compare every answer with them. A
//! comment of a member is its description.

#![expect(dead_code, reason = "read by the derived code only")]
#![expect(clippy::struct_field_names, reason = "the names of the members")]

use serde_json::Value;
use utoipa::ToSchema;

/// A customer as it is, or was.
#[derive(ToSchema)]
pub(super) struct Customer {
    /// Never used again.
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1)]
    id: i64,
    /// 1 to 128 Unicode scalar values, in NFC.
    #[schema(min_length = 1, max_length = 128, example = "Ada Lovelace")]
    name: String,
    #[schema(format = Date, example = "1990-12-10")]
    dob: String,
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
pub(super) struct CustomerValues {
    /// 1 to 128 Unicode scalar values after trimming, without control and invisible characters.
    #[schema(min_length = 1, example = "Ada Lovelace")]
    name: String,
    /// A real date from 1900-01-01 to today (UTC).
    #[schema(format = Date, example = "1990-12-10")]
    dob: String,
    /// Why; the event and the history keep it. Up to 500 characters in one line.
    #[schema(max_length = 500)]
    reason: Option<String>,
}

/// The values of a customer, with its id.
#[derive(ToSchema)]
pub(super) struct CustomerUpdate {
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1)]
    id: i64,
    #[schema(min_length = 1, example = "Ada Lovelace")]
    name: String,
    #[schema(format = Date, example = "1990-12-10")]
    dob: String,
    #[schema(max_length = 500)]
    reason: Option<String>,
}

/// Customers, the youngest first; those of one date of birth by their ids.
#[derive(ToSchema)]
pub(super) struct CustomerList {
    /// How many there are in this list.
    #[schema(minimum = 0)]
    number: i64,
    customers: Vec<Customer>,
    /// Of a page only: the value of `after` for the next page; null on the last one.
    #[schema(required = false)]
    next: Option<String>,
}

#[derive(ToSchema)]
pub(super) struct DeletedCustomer {
    msg: String,
    #[schema(minimum = 1, example = 1)]
    id: i64,
}

#[derive(ToSchema)]
pub(super) struct Message {
    msg: String,
}

#[derive(ToSchema)]
pub(super) struct LogIn {
    #[schema(example = "demo")]
    username: String,
    #[schema(format = Password, example = "demo-password")]
    password: String,
    /// Binds the session to its cookie at once, and not at the first request that brings it.
    binding: Option<Binding>,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(super) enum Binding {
    Cookie,
}

/// A token (RFC 6749, section 5.1).
#[derive(ToSchema)]
pub(super) struct Token {
    /// A JWT, signed with EdDSA.
    access_token: String,
    #[schema(example = "Bearer")]
    token_type: String,
    /// In seconds.
    #[schema(minimum = 1, example = 3600)]
    expires_in: i64,
}

/// A session of the account.
#[derive(ToSchema)]
pub(super) struct Session {
    sid: String,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    expires_at: String,
    /// The address of the log-in.
    ip: String,
    user_agent: String,
    /// Whether it is the session of this request.
    current: bool,
}

#[derive(ToSchema)]
pub(super) struct SessionList {
    /// The oldest first.
    sessions: Vec<Session>,
}

#[derive(ToSchema)]
pub(super) struct PasswordChange {
    #[schema(format = Password)]
    old: String,
    /// 8 to 1024 bytes.
    #[schema(format = Password)]
    new: String,
    #[schema(max_length = 500)]
    reason: Option<String>,
}

/// A page of the history of a customer, the oldest change first.
#[derive(ToSchema)]
pub(super) struct History {
    #[schema(minimum = 1)]
    customer_id: i64,
    history: Vec<Change>,
    /// The value of `after` for the next page; null on the last one.
    #[schema(required = true)]
    next: Option<i64>,
}

/// One change of a customer; what is not known is null.
#[derive(ToSchema)]
pub(super) struct Change {
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
pub(super) struct FieldChange {
    #[schema(example = "name")]
    field: String,
    /// Null when the customer was created.
    #[schema(required = true)]
    from: Option<String>,
    /// Null when the customer was deleted.
    #[schema(required = true)]
    to: Option<String>,
}

/// One event of the log.
#[derive(ToSchema)]
pub(super) struct Event {
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
pub(super) struct EventPage {
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
pub(super) struct CloudEvent {
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

/// A line of the answer of an import: one of its members.
#[derive(ToSchema)]
pub(super) struct ImportLine {
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
pub(super) struct ImportSummary {
    lines: i64,
    created: i64,
    refused: i64,
    /// The position of the last create; 0 without one.
    last_position: i64,
}

/// A projection: the code that follows the log, and its table.
#[derive(ToSchema)]
pub(super) struct Projection {
    #[schema(example = "customers")]
    name: String,
    version: i64,
    state: ProjectionState,
    /// The position that the table shows.
    checkpoint: i64,
    /// The position of the last event of the log.
    head: i64,
    lag_events: i64,
    /// The age of the oldest event that is not applied yet; 0 if all are applied.
    lag_seconds: f64,
    /// How many customers are parked.
    parked: i64,
    /// Null unless the table is rebuilt.
    #[schema(required = true)]
    rebuild: Option<Rebuild>,
}

#[derive(ToSchema)]
#[schema(rename_all = "kebab-case")]
pub(super) enum ProjectionState {
    Following,
    Rebuilding,
    RebuildStopped,
}

/// The progress of a rebuild, in events.
#[derive(ToSchema)]
pub(super) struct Rebuild {
    done: i64,
    total: i64,
    per_second: f64,
    /// Null while no attempt runs.
    #[schema(required = true)]
    seconds_left: Option<f64>,
    /// Why the last attempt failed.
    #[schema(required = true)]
    error: Option<String>,
}

#[derive(ToSchema)]
pub(super) struct ProjectionList {
    projections: Vec<Projection>,
}

#[derive(ToSchema)]
pub(super) struct RebuildBegun {
    #[schema(example = "customers")]
    name: String,
    state: ProjectionState,
}

#[derive(ToSchema)]
pub(super) struct Health {
    status: HealthStatus,
    /// The parts, by name.
    #[schema(value_type = Object)]
    checks: Value,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(super) enum HealthStatus {
    Ok,
    Unavailable,
}

/// Public keys (RFC 7517, section 5).
#[derive(ToSchema)]
pub(super) struct KeySet {
    #[schema(value_type = Vec<Object>)]
    keys: Vec<Value>,
}

/// An error (RFC 9457). The address in `type` says what it means and what to do.
#[derive(ToSchema)]
pub(super) struct Problem {
    #[schema(format = "uri-reference", example = "/problems/not-found")]
    r#type: String,
    title: String,
    #[schema(minimum = 400, maximum = 599)]
    status: i64,
    detail: String,
    request_id: String,
    /// What is wrong, by field.
    errors: Option<Vec<FieldError>>,
    /// With `log-restarted`: the identity of the present log.
    #[schema(format = "uuid")]
    log: Option<String>,
    /// With `log-restarted`: the last position that both logs have in common.
    restarted_after: Option<i64>,
}

/// What is wrong with a member, a parameter or a header.
#[derive(ToSchema)]
pub(super) struct FieldError {
    #[schema(example = "dob")]
    field: String,
    detail: String,
}

/// An OpenAPI document.
#[derive(ToSchema)]
pub(super) struct Document {
    openapi: String,
    #[schema(value_type = Object)]
    info: Value,
    #[schema(value_type = Vec<Object>)]
    servers: Value,
    #[schema(value_type = Object)]
    paths: Value,
    #[schema(value_type = Object)]
    components: Value,
    #[schema(value_type = Vec<Object>)]
    tags: Value,
}

/// What an error means, and what to do about it.
#[derive(ToSchema)]
pub(super) struct ProblemType {
    #[schema(format = "uri-reference", example = "/problems/not-found")]
    r#type: String,
    title: String,
    status: i64,
    meaning: String,
    remedy: String,
}
