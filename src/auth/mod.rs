//! WHO MAY COME IN. Accounts in PostgreSQL, sessions in Redis, tokens signed with EdDSA.
//!
//! Redis holds an allow-list: a token opens the door only while its session is there. What happened
//! to accounts and sessions is in the log.

#![deny(clippy::wildcard_enum_match_arm)]

/// Who there is: user names, hashes, roles.
pub mod account;

/// Argon2id, off the async threads, a few at a time.
pub mod password;

/// Signed tokens and the keys that sign them.
pub mod token;

/// Log-ins, kept in Redis, each with a cookie that shows that its token has not moved.
pub mod session;

/// Failed log-ins, counted per account and per address.
pub mod throttle;

/// A log-in, from a user name and a password to a session.
mod log_in;

/// One Redis, with a time limit on every call.
pub mod store;

use std::sync::Arc;
use std::time::Duration;

use self::account::Accounts;
use self::password::{PasswordError, Passwords};
use self::session::{Checked, Sessions};
use self::store::{Store, StoreError};
use self::throttle::Throttle;
use self::token::{Claims, KeyError, Keys};
use crate::clock::Clock;
use crate::config::{Config, CookieBinding};
use crate::events::account::{AccountEvent, CloseCause};
use crate::events::log::AppendError;
use crate::events::metadata::Metadata;
use crate::events::values::{Role, Username};

/// The rooms of this module, put together for one process.
#[derive(Clone)]
pub struct Auth(Arc<Inner>);

struct Inner {
    accounts: Accounts,
    passwords: Passwords,
    keys: Keys,
    sessions: Sessions,
    throttle: Throttle,
    store: Store,
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

/// Whether a request needs the cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CookieUse {
    /// Only once the session is bound.
    AsBound,
    /// In any case: the cookie experiment.
    Demanded,
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
    #[error("too many log-ins at once")]
    Overloaded,
    #[error("redis: {0}")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Account(#[from] account::AccountError),
    #[error(transparent)]
    Append(#[from] AppendError),
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
        Ok(Self(Arc::new(Inner {
            accounts,
            passwords: Passwords::new(),
            keys: Keys::open(&config.keys_dir, config.public_url())?,
            sessions: Sessions::new(store.clone(), config.session_limit),
            throttle: Throttle::new(store.clone(), config.login_limit),
            store,
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
        cookie_use: CookieUse,
        metadata: &Metadata,
    ) -> Result<Session, AuthError> {
        let auth = &*self.0;
        let claims = auth.keys.verify(token, auth.clock.now()).ok_or(AuthError::Unauthenticated)?;
        let cookie = match cookie {
            Cookie::Absent => None,
            Cookie::One(value) => Some(value.to_owned()),
            Cookie::Several if auth.binding == CookieBinding::Off => None,
            Cookie::Several => return Err(AuthError::Unauthenticated),
        };
        let metadata = metadata.clone();
        self.to_the_end(
            |auth| async move { auth.admitted(claims, cookie, cookie_use, metadata).await },
        )
        .await
    }

    /// The role of a session that was let in before, if it is still open: asked by what lasts.
    ///
    /// # Errors
    /// When Redis cannot be asked.
    pub async fn role_of(&self, session: &Session) -> Result<Option<Role>, AuthError> {
        Ok(self.0.sessions.role(session).await?)
    }

    /// Ends the session. It is in the log before Redis forgets it, so that it stays ended whatever
    /// becomes of Redis.
    ///
    /// # Errors
    /// When PostgreSQL or Redis cannot be reached; the log-out must be asked for again then.
    pub async fn log_out(&self, session: &Session, metadata: Metadata) -> Result<(), AuthError> {
        let session = session.clone();
        self.to_the_end(|auth| async move {
            let closed = closed(&session.sid, &session.jti, CloseCause::LogOut);
            auth.accounts.record(&session.username, &[closed], metadata).await?;
            auth.sessions.close(&session.username, &session.sid, &session.jti).await?;
            Ok(())
        })
        .await
    }

    /// Gives the account another password and ends its other sessions. `false` when `old` is wrong.
    ///
    /// # Errors
    /// As for a log-in.
    pub async fn change_password(
        &self,
        session: &Session,
        old: String,
        new: String,
        address: &str,
        metadata: Metadata,
    ) -> Result<bool, AuthError> {
        let (session, address) = (session.clone(), address.to_owned());
        self.to_the_end(|auth| async move {
            let Session { username, sid, .. } = &session;
            match auth.proven(Some(username), old, &address, &metadata).await {
                Ok(_) => {}
                Err(AuthError::Unauthenticated) => return Ok(false),
                Err(error) => return Err(error),
            }
            let hash = auth.passwords.hash(new).await?;
            auth.accounts.change_password(username, &hash, metadata.clone()).await?;
            let cause = CloseCause::PasswordChanged;
            end_sessions(&auth.sessions, &auth.accounts, username, Some(sid), cause, metadata)
                .await?;
            Ok(true)
        })
        .await
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
        self.0.keys.jwks()
    }

    /// Whether Redis answers.
    ///
    /// # Errors
    /// When it does not within the time limit.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.0.store.ping().await
    }
}

/// Ends all sessions of the account but `except`, and records it.
///
/// # Errors
/// When Redis or PostgreSQL cannot be reached.
pub async fn end_sessions(
    sessions: &Sessions,
    accounts: &Accounts,
    username: &Username,
    except: Option<&str>,
    cause: CloseCause,
    metadata: Metadata,
) -> Result<(), AuthError> {
    let ended = sessions.close_all(username, except).await?;
    let events: Vec<_> = ended.iter().map(|(sid, jti)| closed(sid, jti, cause)).collect();
    accounts.record(username, &events, metadata).await?;
    Ok(())
}

impl Inner {
    /// The session that these claims and this cookie open.
    async fn admitted(
        &self,
        claims: Claims,
        cookie: Option<String>,
        cookie_use: CookieUse,
        mut metadata: Metadata,
    ) -> Result<Session, AuthError> {
        let obey = self.binding != CookieBinding::Off;
        match self.sessions.check(&claims, cookie.as_deref(), obey, cookie_use).await? {
            Checked::Open { role } => {
                Ok(Session { username: claims.sub, role, sid: claims.sid, jti: claims.jti })
            }
            Checked::Closed => Err(AuthError::Unauthenticated),
            Checked::Refused => Err(AuthError::TokenReplay),
            Checked::Replayed { opened_ip, opened_user_agent } => {
                let (session, jti) = (claims.sid.clone(), claims.jti);
                let event = AccountEvent::TokenReplayDetected {
                    session,
                    jti,
                    opened_ip,
                    opened_user_agent,
                };
                metadata.session = Some(claims.sid);
                // The session is over, whatever becomes of the record.
                if let Err(error) = self.accounts.record(&claims.sub, &[event], metadata).await {
                    tracing::error!(username = %claims.sub, %error, "a token replay is not in the log");
                }
                Err(AuthError::TokenReplay)
            }
        }
    }
}

fn closed(sid: &str, jti: &str, cause: CloseCause) -> AccountEvent {
    AccountEvent::SessionClosed { session: sid.to_owned(), jti: jti.to_owned(), cause }
}
