//! Errors.

use utoipa::ToSchema;

/// An error (RFC 9457). The address in `type` says what it means and what to do.
#[derive(ToSchema)]
pub(crate) struct Problem {
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
pub(crate) struct FieldError {
    #[schema(example = "dob")]
    field: String,
    detail: String,
}

/// What an error means, and what to do about it.
#[derive(ToSchema)]
pub(crate) struct ProblemType {
    #[schema(format = "uri-reference", example = "/problems/not-found")]
    r#type: String,
    title: String,
    status: i64,
    meaning: String,
    remedy: String,
}
