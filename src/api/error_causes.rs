//! What the errors of the other modules are in the API.

#![deny(clippy::wildcard_enum_match_arm)]

use super::error::{ApiError, FieldError};
use crate::auth::AuthError;
use crate::auth::account::AccountError;
use crate::commands::{BusError, Refusal};
use crate::events::log::AppendError;
use crate::events::log::read::ReadError;
use crate::events::values::ValueError;
use crate::postgres::{self, lost::is_refused_by_pooler};
use crate::projections::ProjectionError;

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotFound => Self::NoCustomer,
            Refusal::VersionMismatch { current } => Self::VersionMismatch { current },
            Refusal::Exists => Self::Internal("a create was refused: the id exists".to_owned()),
            Refusal::ExternalIdTaken { customer } => Self::Exists(FieldError::new(
                "external_id",
                format!("is that of customer {customer}"),
            )),
            Refusal::ExternalIdMoved => Self::Overloaded,
            Refusal::NoSuchVersion => {
                Self::invalid("version", ValueError("must be a version of the customer"))
            }
            Refusal::VersionDeleted => {
                Self::invalid("version", ValueError("must not be a deletion"))
            }
        }
    }
}

impl From<BusError> for ApiError {
    fn from(error: BusError) -> Self {
        match error {
            BusError::Refused(refusal) => refusal.into(),
            BusError::IdempotencyKeyReused => Self::IdempotencyMismatch,
            BusError::Contended => Self::Overloaded,
            BusError::Log(error) => error.into(),
            BusError::Append(error) => error.into(),
            BusError::TaskFailed(error) => Self::Internal(error.to_string()),
        }
    }
}

impl From<AppendError> for ApiError {
    fn from(error: AppendError) -> Self {
        (&error).into()
    }
}

impl From<&AppendError> for ApiError {
    fn from(error: &AppendError) -> Self {
        match error {
            AppendError::Full => Self::Overloaded,
            AppendError::Unavailable(_) | AppendError::Stopped => {
                Self::Unavailable(error.to_string())
            }
            // Values are validated before, so that PostgreSQL refuses none.
            AppendError::Refused(_) => Self::Internal(error.to_string()),
        }
    }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Database(error) => error.into(),
            ReadError::Decode(error) => Self::Internal(error.to_string()),
        }
    }
}

impl From<ProjectionError> for ApiError {
    fn from(error: ProjectionError) -> Self {
        match error {
            ProjectionError::Database(error) => error.into(),
            // A newer program wrote the event, or it is corrupt; not an error of the client.
            ProjectionError::Decode { .. }
            | ProjectionError::NotRegistered(_)
            | ProjectionError::Fenced => Self::Internal(error.to_string()),
        }
    }
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        (&error).into()
    }
}

impl From<&AuthError> for ApiError {
    /// By reference, because several requests may share an error.
    fn from(error: &AuthError) -> Self {
        match error {
            AuthError::Unauthenticated => Self::Unauthenticated,
            AuthError::TokenReplay => Self::TokenReplay,
            AuthError::OtherCookie | AuthError::CookieRequired => {
                Self::CookieRefused(error.to_string())
            }
            AuthError::Throttled { retry_after }
            | AuthError::Limited { retry_after }
            | AuthError::TooManyLogins { retry_after } => {
                Self::RateLimited { retry_after: *retry_after }
            }
            AuthError::Overloaded => Self::Overloaded,
            AuthError::Append(error) => error.into(),
            AuthError::Redis(_) | AuthError::CatchingUp => Self::Unavailable(error.to_string()),
            AuthError::Database(error) | AuthError::Account(AccountError::Database(error)) => {
                error.into()
            }
            AuthError::Shared(error) => (&**error).into(),
            AuthError::Account(error @ AccountError::Exists(_)) => {
                Self::NameTaken(error.to_string())
            }
            AuthError::Account(AccountError::Unknown(_)) => Self::NoAccount,
            AuthError::Account(error @ AccountError::LastAdmin) => Self::Lockout(error.to_string()),
            AuthError::Account(error @ AccountError::TooManyKeys) => {
                Self::TooManyKeys(error.to_string())
            }
            AuthError::Config(error) => Self::Internal(error.to_string()),
            AuthError::Keys(error) => Self::Internal(error.to_string()),
            AuthError::TaskFailed(error) => Self::Internal(error.to_string()),
            AuthError::Password(error) => Self::Internal(error.to_string()),
            AuthError::CheckPanicked => Self::Internal(error.to_string()),
        }
    }
}

impl From<sqlx::Error> for ApiError {
    fn from(error: sqlx::Error) -> Self {
        (&error).into()
    }
}

impl From<&sqlx::Error> for ApiError {
    /// A database that is unreachable, full, shutting down, read-only or too slow is unavailable; every
    /// other error is internal.
    fn from(error: &sqlx::Error) -> Self {
        let is_transient = error.as_database_error().map_or(
            matches!(
                error,
                sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed
            ),
            |database| {
                // Rollback, resources, operator intervention, system; lock not available.
                database.code().is_some_and(|code| {
                    ["40", "53", "57", "58"].iter().any(|class| code.starts_with(class))
                        || code == "55P03"
                })
            },
        );
        // A statement that a pooler has refused was tried again already.
        let is_refused = is_refused_by_pooler(error);
        if postgres::is_lost(error) && !is_refused {
            Self::ConnectionLost(error.to_string())
        } else if is_transient || is_refused {
            Self::DatabaseUnavailable(error.to_string())
        } else {
            Self::StatementRefused(error.to_string())
        }
    }
}
