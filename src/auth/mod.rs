//! WHO MAY COME IN. Accounts in PostgreSQL, sessions in Redis, tokens signed with EdDSA.
//!
//! Redis holds an allow-list: a token opens the door only while its session is there. What happened
//! to accounts and sessions is in the log.

#![deny(clippy::wildcard_enum_match_arm)]

/// Who there is: user names, hashes, roles.
pub mod account;

/// Argon2id, off the async threads, a few at a time.
pub mod password;

/// The keys that sign tokens.
pub mod keys;

/// Signed tokens.
pub mod token;

/// Log-ins, kept in Redis, each with a cookie that shows that its token has not moved.
pub mod session;

/// Which run of Redis answers, and whether it knows what has ended.
pub mod runs;

/// What Redis runs for sessions.
mod scripts;

/// Failed log-ins, counted per account and per address.
pub mod throttle;

/// Keeps Redis true to the log, whatever becomes of it.
mod keeper;

/// A request, from what a token says to a session.
mod admission;

/// How sessions end.
pub mod ending;

/// A log-in, from a user name and a password to a session.
mod log_in;

/// One Redis, with a time limit on every call.
pub mod store;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use self::account::{AccountError, Accounts};
use self::keeper::Keeper;
use self::keys::{KeyError, Keys};
use self::password::{PasswordError, Passwords};
use self::runs::Runs;
use self::session::{Open, SessionLimits, Sessions};
use self::store::{Store, StoreError};
use self::throttle::Throttle;
use self::token::Tokens;
use crate::clock::Clock;
use crate::config::{Config, CookieBinding};

use crate::events::log::AppendError;
use crate::events::metadata::Metadata;
use crate::events::values::{Role, Username};

/// The rooms of this module, put together for one process.
#[derive(Clone)]
pub struct Auth(Arc<Inner>);

struct Inner {
    accounts: Accounts,
    passwords: Passwords,
    tokens: Tokens,
    runs: Runs,
    sessions: Sessions,
    throttle: Throttle,
    keeper: Keeper,
    clock: Clock,
    ttl: Duration,
    binding: CookieBinding,
}

/// A request that came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    pub username: Username,
    pub role: Role,
    pub sid: String,
    pub jti: String,
}

/// What a log-in leads to.
pub struct LoggedIn {
    pub token: String,
    /// The value of the cookie.
    pub cookie: String,
    pub ttl: Duration,
}

/// What a request brought besides its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cookie<'a> {
    Absent,
    One(&'a str),
    /// Two or more of our name: somebody else set one of them.
    Several,
}

/// What a request is for, as far as that rules how it is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// It needs the cookie once the session is bound, and counts towards the account's limit.
    Work,
    /// It needs the cookie in any case: the cookie experiment.
    ShowCookie,
    /// It is about the account's sessions, and counts towards this session's own limit: whoever used up
    /// the account's with a stolen token cannot keep its owner from ending that.
    OwnSessions,
    /// It ends its own session, so there is no second one, and counts nowhere: nor can a thief who has
    /// the very session of the owner keep it open.
    Leave,
}

/// Why nobody came in.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// No token, not ours, out of time, or its session is over. Also every failed log-in.
    #[error("not logged in")]
    Unauthenticated,
    /// The token came without its cookie.
    #[error("the token came without its cookie")]
    TokenReplay,
    #[error("too many failed log-ins; try again in {retry_after:?}")]
    Throttled { retry_after: Duration },
    #[error("the account asks too much; try again in {retry_after:?}")]
    Limited { retry_after: Duration },
    #[error("too many log-ins at once")]
    Overloaded,
    #[error("redis: {0}")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Account(#[from] AccountError),
    #[error(transparent)]
    Append(#[from] AppendError),
    /// Another run of Redis answers, and what ended is not known to it yet.
    #[error("redis is another one now and does not know yet what has ended")]
    Unsettled,
    #[error("postgres: {0}")]
    Database(#[from] sqlx::Error),
    #[error("keys: {0}")]
    Keys(#[from] KeyError),
    #[error("a task ended early: {0}")]
    Lost(#[from] tokio::task::JoinError),
    #[error("a hash cannot be computed: {0}")]
    Password(PasswordError),
}

impl From<PasswordError> for AuthError {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Overloaded => Self::Overloaded,
            PasswordError::Hash(_) | PasswordError::Lost => Self::Password(error),
        }
    }
}

impl Auth {
    /// Reads or makes the signing keys and gets ready to reach Redis; does not wait for it.
    ///
    /// # Errors
    /// When the keys cannot be read or made, or the URL of Redis is none.
    pub fn new(
        config: &Config,
        redis_url: &str,
        accounts: Accounts,
        clock: Clock,
    ) -> Result<Self, AuthError> {
        let store = Store::new(redis_url, &config.redis_prefix)?;
        let limits = SessionLimits { live: config.session_limit, requests: config.account_limit };
        Ok(Self(Arc::new(Inner {
            accounts,
            passwords: Passwords::new(),
            tokens: Tokens::new(Keys::open(&config.keys_dir)?, config.public_url()),
            runs: Runs::new(store.clone()),
            sessions: Sessions::new(store.clone(), limits),
            throttle: Throttle::new(store, config.login_limit),
            keeper: Keeper::default(),
            clock,
            ttl: config.token_ttl,
            binding: config.cookie_binding,
        })))
    }

    /// Checks a user name and its password and opens a session. `bind_now` binds it to its cookie
    /// at once.
    ///
    /// # Errors
    /// [`AuthError::Unauthenticated`] whatever was wrong: unknown name, wrong password and disabled
    /// account look the same and cost the same work.
    pub async fn log_in(
        &self,
        username: &str,
        password: String,
        bind_now: bool,
        address: &str,
        mut metadata: Metadata,
    ) -> Result<LoggedIn, AuthError> {
        let username = Username::parse(username).ok();
        let address = address.to_owned();
        self.to_the_end(|auth| async move {
            let account = auth.proven(username.as_ref(), password, &address, &metadata).await?;
            metadata.actor = Some(account.username.to_string());
            metadata.role = Some(account.role.to_string());
            auth.open_session(&account, bind_now, metadata).await
        })
        .await
    }

    /// Lets a request in, or not. Binds the session when it brings the right cookie for the first
    /// time.
    ///
    /// # Errors
    /// [`AuthError::TokenReplay`] when the session is bound and the cookie is not the right one: the
    /// session is over then.
    pub async fn authenticate(
        &self,
        token: &str,
        cookie: Cookie<'_>,
        purpose: Purpose,
        metadata: &Metadata,
    ) -> Result<Session, AuthError> {
        let auth = &*self.0;
        let claims =
            auth.tokens.verify(token, auth.clock.now()).ok_or(AuthError::Unauthenticated)?;
        let cookie = match cookie {
            Cookie::Absent => None,
            Cookie::One(value) => Some(value.to_owned()),
            Cookie::Several if auth.binding == CookieBinding::Off => None,
            Cookie::Several => return Err(AuthError::Unauthenticated),
        };
        let metadata = metadata.clone();
        self.to_the_end(
            |auth| async move { auth.admitted(claims, cookie, purpose, metadata).await },
        )
        .await
    }

    /// The role of a session that was let in before, if it is still open: asked by what lasts.
    ///
    /// # Errors
    /// When Redis cannot be asked.
    pub async fn role_of(&self, session: &Session) -> Result<Option<Role>, AuthError> {
        let auth = &self.0;
        let ask = |runs: Arc<str>| async move { auth.sessions.role(session, &runs).await };
        auth.believed(ask).await
    }

    /// The account's open sessions, oldest first.
    ///
    /// # Errors
    /// When Redis cannot be asked.
    pub async fn sessions(&self, session: &Session) -> Result<Vec<Open>, AuthError> {
        let (auth, now) = (&self.0, self.0.clock.now().timestamp());
        let username = &session.username;
        let ask = |runs: Arc<str>| async move { auth.sessions.list(username, now, &runs).await };
        auth.believed(ask).await
    }

    /// Keeps Redis true to the log, and follows what other processes do with the keys, until
    /// `shutdown`.
    pub fn follow(&self, shutdown: &CancellationToken) {
        let follow = Arc::clone(&self.0).follow();
        tokio::spawn(shutdown.clone().run_until_cancelled_owned(follow));
        let read_keys = Arc::clone(&self.0).read_keys();
        tokio::spawn(shutdown.clone().run_until_cancelled_owned(read_keys));
    }

    /// Runs what was begun to its end, also when the client goes away: what Redis was told and what
    /// the log was told must not part.
    async fn to_the_end<T: Send + 'static, F>(
        &self,
        work: impl FnOnce(Arc<Inner>) -> F,
    ) -> Result<T, AuthError>
    where
        F: Future<Output = Result<T, AuthError>> + Send + 'static,
    {
        tokio::spawn(work(Arc::clone(&self.0))).await?
    }

    /// The public keys, as a JWK set (RFC 7517).
    #[must_use]
    pub fn jwks(&self) -> serde_json::Value {
        self.0.tokens.keys().jwks(self.0.clock.now())
    }

    /// Whether Redis answers and takes writes.
    ///
    /// # Errors
    /// When it does not within the time limit, or does not know yet what has ended.
    pub async fn ready(&self) -> Result<(), AuthError> {
        self.0.ready().await
    }
}

impl Inner {
    /// Reads the keys again and again.
    async fn read_keys(self: Arc<Self>) {
        loop {
            tokio::time::sleep(keys::READ_EVERY).await;
            let auth = Arc::clone(&self);
            let read = tokio::task::spawn_blocking(move || auth.tokens.keys().read_again()).await;
            if let Ok(Err(error)) = read {
                tracing::error!(%error, "cannot read the keys again");
            }
        }
    }
}
