//! Why a request was not admitted, or an account not changed.

use std::time::Duration;

use super::account::AccountError;
use super::keys::KeyError;
use super::password::PasswordError;
use super::redis::client::RedisClientError;
use crate::config::ConfigError;
use crate::events::log::AppendError;

/// The errors that callers of [`Auth`](super::Auth) distinguish.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The token is missing, invalid or expired, or its session has ended. Also every failed log-in.
    #[error("not authenticated")]
    Unauthenticated,
    #[error("the token came without its session cookie")]
    TokenReplay,
    #[error(
        "the cookie belongs to another session; this session is not bound to a cookie and stays open"
    )]
    OtherCookie,
    #[error(
        "the cookie of this session is required; the session is not bound to it yet and stays open"
    )]
    CookieRequired,
    #[error("too many failed log-ins; retry in {retry_after:?}")]
    Throttled { retry_after: Duration },
    #[error("too many requests of the account; retry in {retry_after:?}")]
    Limited { retry_after: Duration },
    #[error("too many log-ins of the account; retry in {retry_after:?}")]
    TooManyLogins { retry_after: Duration },
    #[error("too many log-ins at once")]
    Overloaded,
    #[error("Redis: {0}")]
    Redis(#[from] RedisClientError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Account(#[from] AccountError),
    #[error(transparent)]
    Append(#[from] AppendError),
    /// Redis is in an epoch that does not have the effects of the log yet.
    #[error("Redis is in a new epoch and is catching up with the log")]
    CatchingUp,
    #[error("cannot query PostgreSQL: {0}")]
    Database(#[from] sqlx::Error),
    #[error("signing keys: {0}")]
    Keys(#[from] KeyError),
    #[error("task failed: {0}")]
    TaskFailed(#[from] tokio::task::JoinError),
    #[error("the check of the session has panicked")]
    CheckPanicked,
    /// Of requests that were checked together.
    #[error(transparent)]
    Shared(std::sync::Arc<Self>),
    #[error("password hash: {0}")]
    Password(PasswordError),
}

impl From<PasswordError> for AuthError {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Overloaded => Self::Overloaded,
            PasswordError::Hash(_) | PasswordError::TaskFailed => Self::Password(error),
        }
    }
}
