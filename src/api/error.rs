//! The errors of the API, and the one place that maps them to HTTP: problem details (RFC 9457) on every
//! route.
//!
//! An `ApiError` becomes a response that carries its `Problem`; `api::request` writes the body,
//! because only it knows the request's id.

#![deny(clippy::wildcard_enum_match_arm)]

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use uuid::Uuid;

use super::problem_types::{self, ProblemType};
use crate::events::values::{Role, ValueError};

/// Why a request failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ApiError {
    #[error("a valid token and its session are required")]
    Unauthenticated,
    #[error("wrong user name or password")]
    LoginFailed,
    #[error("the token came without its session cookie")]
    TokenReplay,
    /// The cookie of a session that is not bound yet. Says in which way; the session stays open.
    #[error("{0}")]
    CookieRefused(String),
    #[error("the role {0} is required")]
    Forbidden(Role),
    /// A key that was stolen must not outlive its revocation.
    #[error("a service key adds no key to its own account: log in with the password")]
    KeyAddsKey,
    #[error("no such resource")]
    NoRoute,
    #[error("no such customer")]
    NoCustomer,
    #[error("no such session")]
    NoSession,
    #[error("no such account")]
    NoAccount,
    #[error("no such service key")]
    NoServiceKey,
    #[error("the resource does not support this method")]
    MethodNotAllowed,
    #[error("the request cannot be parsed")]
    Malformed(Vec<FieldError>),
    #[error("the request has invalid values")]
    Invalid(Vec<FieldError>),
    /// Names the media types that the route accepts.
    #[error("the body must be {}", .0.join(" or "))]
    UnsupportedMediaType(&'static [&'static str]),
    #[error("the body must be in UTF-8 or UTF-16")]
    UnsupportedCharset,
    #[error("the body must have no content coding: send it as it is")]
    ContentCoding,
    #[error("the body may have one content coding, gzip or zstd")]
    UnknownCoding,
    #[error("the body must have no transfer coding but chunked")]
    TransferCoding,
    #[error("the body must have at most {0} bytes")]
    TooLarge(usize),
    /// Names the media types that the route answers with.
    #[error("Accept excludes what the route answers with: {0}")]
    NotAcceptable(Arc<str>),
    #[error("the change must name the version that it is made of: send If-Match")]
    PreconditionRequired,
    #[error("the customer is at version {current}")]
    VersionMismatch { current: i64 },
    /// `If-Match` on what has no entity tag.
    #[error("the resource has no version that could match")]
    NoVersion,
    /// Another resource has this value, which only one may have.
    #[error("another resource has this value")]
    Exists(FieldError),
    /// Names what stands in the way of a rebuild.
    #[error("{0}")]
    Obstructed(String),
    /// Says which name is taken.
    #[error("{0}")]
    NameTaken(String),
    #[error("{0}")]
    Lockout(String),
    #[error("{0}")]
    TooManyKeys(String),
    #[error("the idempotency key was used for another request")]
    IdempotencyMismatch,
    #[error("the log was restarted: it is now the log {}", .0.log)]
    LogRestarted(CurrentLog),
    #[error("too many requests")]
    RateLimited { retry_after: Duration },
    /// The account has as many of these at work as it may have.
    #[error("at most {limit} {what} of an account are answered at the same time")]
    TooManyAtOnce { what: &'static str, limit: usize },
    #[error("the service is overloaded; retry later")]
    Overloaded,
    /// The budget of spool files, or the disk.
    #[error("the spool space is used up")]
    SpoolFull,
    /// Redis or the disk is unavailable, or the process is stopping. The cause is logged and not sent.
    #[error("a dependency is unavailable; retry later")]
    Unavailable(String),
    /// PostgreSQL is unavailable for a statement. The cause is logged and not sent.
    #[error("a dependency is unavailable; retry later")]
    DatabaseUnavailable(String),
    /// The connection to PostgreSQL was lost. The cause is logged and not sent.
    #[error("a dependency is unavailable; retry later")]
    ConnectionLost(String),
    /// The projection does not show the position that the read named.
    #[error("the requested position is not shown yet; retry later")]
    PositionNotShown,
    /// An internal error. The cause is logged and not sent.
    #[error("internal error; the cause is in the service's log under this request id")]
    Internal(String),
    /// PostgreSQL refused a statement. The cause is logged and not sent.
    #[error("internal error; the cause is in the service's log under this request id")]
    StatementRefused(String),
}

/// A field, parameter or header, and the problem with its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    pub field: String,
    pub detail: String,
}

/// The log that replaced the one which the client named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CurrentLog {
    pub log: Uuid,
    /// The last position that both logs have in common; `None` if the service does not know the client's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restarted_after: Option<i64>,
}

impl FieldError {
    pub fn new(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { field: field.into(), detail: detail.into() }
    }
}

impl ApiError {
    /// One parameter, header or member that cannot be parsed.
    pub fn malformed(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Malformed(vec![FieldError::new(field, detail)])
    }

    /// One value that is not allowed.
    pub fn invalid(field: impl Into<String>, error: ValueError) -> Self {
        Self::Invalid(vec![FieldError::new(field, error.to_string())])
    }

    /// Maps errors to HTTP; the only place that does.
    fn problem_type(&self) -> &'static ProblemType {
        match self {
            Self::Unauthenticated | Self::LoginFailed => &problem_types::UNAUTHENTICATED,
            Self::TokenReplay | Self::CookieRefused(_) => &problem_types::TOKEN_REPLAY,
            Self::Forbidden(_) | Self::KeyAddsKey => &problem_types::FORBIDDEN,
            Self::NoRoute
            | Self::NoCustomer
            | Self::NoSession
            | Self::NoAccount
            | Self::NoServiceKey => &problem_types::NOT_FOUND,
            Self::MethodNotAllowed => &problem_types::METHOD_NOT_ALLOWED,
            Self::NotAcceptable(_) => &problem_types::NOT_ACCEPTABLE,
            Self::PreconditionRequired => &problem_types::PRECONDITION_REQUIRED,
            Self::Malformed(_) => &problem_types::MALFORMED,
            Self::Invalid(_) => &problem_types::INVALID,
            Self::UnsupportedMediaType(_)
            | Self::UnsupportedCharset
            | Self::ContentCoding
            | Self::UnknownCoding
            | Self::TransferCoding => &problem_types::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge(_) => &problem_types::TOO_LARGE,
            Self::VersionMismatch { .. } | Self::NoVersion => &problem_types::VERSION_MISMATCH,
            Self::Exists(_) | Self::NameTaken(_) => &problem_types::EXISTS,
            Self::Obstructed(_) => &problem_types::OBSTRUCTED,
            Self::Lockout(_) => &problem_types::LOCKOUT,
            Self::TooManyKeys(_) => &problem_types::TOO_MANY_KEYS,
            Self::IdempotencyMismatch => &problem_types::IDEMPOTENCY_MISMATCH,
            Self::LogRestarted(_) => &problem_types::LOG_RESTARTED,
            Self::RateLimited { .. } | Self::TooManyAtOnce { .. } => &problem_types::RATE_LIMITED,
            Self::Overloaded | Self::SpoolFull => &problem_types::OVERLOADED,
            Self::Unavailable(_)
            | Self::DatabaseUnavailable(_)
            | Self::ConnectionLost(_)
            | Self::PositionNotShown => &problem_types::UNAVAILABLE,
            Self::Internal(_) | Self::StatementRefused(_) => &problem_types::INTERNAL,
        }
    }

    /// What the client is told.
    pub(super) fn problem(&self) -> Problem {
        let errors = if let Self::Malformed(errors) | Self::Invalid(errors) = self {
            errors.clone()
        } else if let Self::Exists(error) = self {
            vec![error.clone()]
        } else {
            vec![]
        };
        let cause = if let Self::Unavailable(cause)
        | Self::DatabaseUnavailable(cause)
        | Self::ConnectionLost(cause)
        | Self::Internal(cause)
        | Self::StatementRefused(cause) = self
        {
            Some(cause.clone())
        } else {
            None
        };
        let is_lost = matches!(self, Self::ConnectionLost(_));
        let is_of_database = self.is_of_database();
        let log = if let Self::LogRestarted(log) = self { Some(*log) } else { None };
        let detail = self.to_string();
        let kind = self.problem_type();
        Problem { kind, detail, errors, log, cause, is_of_database, is_lost }
    }

    /// Whether this is what a database answered, or that it did not answer: another one may do better.
    fn is_of_database(&self) -> bool {
        matches!(
            self,
            Self::NoCustomer
                | Self::PositionNotShown
                | Self::DatabaseUnavailable(_)
                | Self::ConnectionLost(_)
                | Self::StatementRefused(_)
        )
    }

    fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        match self {
            Self::Unauthenticated
            | Self::LoginFailed
            | Self::TokenReplay
            | Self::CookieRefused(_) => {
                Some((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")))
            }
            // What would have been accepted (RFC 9110, section 15.5.16).
            Self::UnsupportedMediaType(types) => {
                Some((header::ACCEPT, HeaderValue::from_str(&types.join(", ")).ok()?))
            }
            Self::ContentCoding => {
                Some((header::ACCEPT_ENCODING, HeaderValue::from_static("identity")))
            }
            Self::UnknownCoding => {
                Some((header::ACCEPT_ENCODING, HeaderValue::from_static("gzip, zstd")))
            }
            Self::RateLimited { retry_after } => {
                Some((header::RETRY_AFTER, HeaderValue::from(seconds(*retry_after))))
            }
            Self::TooManyAtOnce { .. }
            | Self::Overloaded
            | Self::Unavailable(_)
            | Self::DatabaseUnavailable(_)
            | Self::ConnectionLost(_)
            | Self::PositionNotShown => Some((header::RETRY_AFTER, HeaderValue::from(1))),
            Self::Forbidden(_)
            | Self::KeyAddsKey
            | Self::NoRoute
            | Self::NoCustomer
            | Self::NoSession
            | Self::NoAccount
            | Self::NoServiceKey
            | Self::MethodNotAllowed
            | Self::NotAcceptable(_)
            | Self::PreconditionRequired
            | Self::Malformed(_)
            | Self::Invalid(_)
            // `Accept` cannot name charsets.
            | Self::UnsupportedCharset
            | Self::TransferCoding
            | Self::TooLarge(_)
            | Self::VersionMismatch { .. }
            | Self::NoVersion
            | Self::Exists(_)
            | Self::Obstructed(_)
            | Self::NameTaken(_)
            | Self::Lockout(_)
            | Self::TooManyKeys(_)
            | Self::IdempotencyMismatch
            // When there is room again is not known.
            | Self::SpoolFull
            | Self::LogRestarted(_)
            | Self::Internal(_)
            | Self::StatementRefused(_) => None,
        }
    }
}

/// The body of a failed request, without the request id.
#[derive(Debug, Clone)]
pub struct Problem {
    kind: &'static ProblemType,
    detail: String,
    errors: Vec<FieldError>,
    log: Option<CurrentLog>,
    /// Logged and not sent.
    pub cause: Option<String>,
    /// Whether another database may answer the request.
    pub(super) is_of_database: bool,
    /// Whether a connection to PostgreSQL was lost.
    pub(super) is_lost: bool,
}

impl Problem {
    pub(super) fn status(&self) -> StatusCode {
        self.kind.status
    }

    /// The body, as `application/problem+json`. Its type is an address below the path of the public URL.
    pub(super) fn body(&self, public_path: &str, request_id: &str) -> String {
        #[derive(Serialize)]
        struct Body<'a> {
            r#type: String,
            title: &'a str,
            status: u16,
            detail: &'a str,
            request_id: &'a str,
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            errors: &'a [FieldError],
            #[serde(flatten)]
            log: Option<CurrentLog>,
        }
        serde_json::to_string(&Body {
            r#type: format!("{public_path}/problems/{}", self.kind.slug),
            title: self.kind.title,
            status: self.kind.status.as_u16(),
            detail: &self.detail,
            request_id,
            errors: &self.errors,
            log: self.log,
        })
        .expect("strings and numbers always serialise")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let problem = self.problem();
        let mut response = problem.kind.status.into_response();
        if let Some((name, value)) = self.header() {
            response.headers_mut().insert(name, value);
        }
        response.extensions_mut().insert(problem);
        response
    }
}

/// Whole seconds, rounded up, at least 1.
fn seconds(wait: Duration) -> u64 {
    u64::try_from(wait.as_nanos().div_ceil(1_000_000_000)).unwrap_or(u64::MAX).max(1)
}
