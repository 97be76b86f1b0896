//! [`Auth`]: the components of authentication, built once per process.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::account::Accounts;
use super::cookie::SessionCookies;
use super::error::AuthError;
use super::keys::{self, Keys};
use super::login_outcomes;
use super::password::Passwords;
use super::principal::Principal;
use super::reconciler::Reconciler;
use super::redis::client::RedisClient;
use super::redis::epoch::RedisEpochs;
use super::redis::permissions::RedisPermissions;
use super::session::{OpenSession, SessionLimits, Sessions};
use super::session_check::Presented;
use super::throttle::Throttle;
use super::token::Tokens;
use super::token_refusal::Refusals;
use super::trusted_sessions::TrustedSessions;
use crate::clock::Clock;
use crate::coalesce::Coalescer;
use crate::config::{Config, CookieBinding};
use crate::events::metadata::Metadata;
use crate::events::values::Role;
use crate::tasks::Tasks;

/// Accounts, tokens and sessions. Clones share them. Log-in, authentication and log-out are in files of
/// their own.
#[derive(Clone)]
pub struct Auth(Arc<Components>);

/// The components of [`Auth`].
pub struct Components {
    pub(super) accounts: Accounts,
    pub(super) passwords: Passwords,
    pub(super) tokens: Tokens,
    pub(super) cookies: SessionCookies,
    pub(super) sessions: TrustedSessions,
    pub(super) permissions: RedisPermissions,
    pub(super) throttle: Throttle,
    pub(super) refusals: Refusals,
    reconciler: Arc<Reconciler>,
    pub(super) clock: Clock,
    pub(super) ttl: Duration,
    pub(super) binding: CookieBinding,
    /// The checks of sessions, by what their requests present.
    pub(super) checks: Coalescer<Arc<Presented>, Arc<Metadata>, Result<Role, AuthError>>,
    /// Work that runs to its end even if its client disconnects.
    running: TaskTracker,
}

impl Deref for Auth {
    type Target = Components;

    fn deref(&self) -> &Components {
        &self.0
    }
}

impl Auth {
    /// Reads the signing keys, or creates the first one; does not wait for Redis. `secret` is that of the
    /// installation.
    pub fn new(
        config: &Config,
        secret: &str,
        accounts: Accounts,
        clock: Clock,
        tasks: &Tasks,
    ) -> Result<Self, AuthError> {
        let client = RedisClient::new(config, tasks)?;
        let limits = SessionLimits {
            live: config.session_limit,
            log_ins: config.session_rate,
            requests: config.account_limit,
        };
        let sessions = Sessions::new(client.clone(), limits);
        let epochs = RedisEpochs::new(client.clone());
        let permissions = RedisPermissions::new(client.clone());
        let reconciler = Arc::new(Reconciler::new(
            sessions,
            epochs,
            accounts.clone(),
            permissions.clone(),
            tasks.clone(),
        ));
        let running = TaskTracker::new();
        login_outcomes::register();
        Ok(Self(Arc::new(Components {
            accounts,
            passwords: Passwords::new(),
            tokens: Tokens::new(Keys::open(&config.keys_dir)?, config.public_url()),
            cookies: SessionCookies::new(secret, &config.public_url(), &config.redis_prefix),
            sessions: TrustedSessions::new(Arc::clone(&reconciler)),
            permissions,
            throttle: Throttle::new(client, config.login_limit, config.session_rate),
            refusals: Refusals::new(),
            reconciler,
            clock,
            ttl: config.token_ttl,
            binding: config.cookie_binding,
            checks: Coalescer::new(&running),
            running,
        })))
    }

    /// The session cookies of the installation.
    #[must_use]
    pub fn cookies(&self) -> &SessionCookies {
        &self.cookies
    }

    /// The role of a session that was authenticated before; `None` if the session has ended, or the key
    /// of its token is retired. For work that goes on after the request was admitted.
    pub async fn role_of(&self, principal: &Principal) -> Result<Option<Role>, AuthError> {
        if !self.tokens.keys().verifies(principal.token.kid, self.clock.now()) {
            return Ok(None);
        }
        self.sessions.role(principal).await
    }

    /// The account's open sessions, oldest first.
    pub async fn list_sessions(
        &self,
        principal: &Principal,
    ) -> Result<Vec<OpenSession>, AuthError> {
        self.sessions.list(principal.username(), self.clock.now().timestamp()).await
    }

    /// Starts the reconciler and the periodic read of the signing keys, which other processes may change.
    /// Both run until shutdown.
    pub fn follow(&self, tasks: &Tasks) {
        let reconciler = Arc::clone(&self.reconciler);
        tasks.supervise("reconciler", move || Arc::clone(&reconciler).follow());
        let auth = self.clone();
        tasks.supervise("signing keys", move || auth.clone().reload_keys());
    }

    /// Waits until the work that requests have started is done.
    pub async fn drain(&self) {
        self.running.close();
        self.running.wait().await;
    }

    /// Runs work to its end, even if the client disconnects, so that the log and Redis stay consistent.
    pub(super) async fn run_to_completion<T: Send + 'static, F>(
        &self,
        work: impl FnOnce(Self) -> F,
    ) -> Result<T, AuthError>
    where
        F: Future<Output = Result<T, AuthError>> + Send + 'static,
    {
        self.running.spawn(work(self.clone()).in_current_span()).await?
    }

    /// Runs work after the response; shutdown waits for it.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.running.spawn(work.in_current_span());
    }

    /// The issuer of the tokens: the public URL, without a slash at its end.
    #[must_use]
    pub fn issuer(&self) -> &str {
        self.tokens.issuer()
    }

    /// The public keys, as a JWK set (RFC 7517, section 5).
    #[must_use]
    pub fn jwks(&self) -> serde_json::Value {
        self.tokens.keys().jwks(self.clock.now())
    }

    /// Fails unless Redis is in a trusted epoch and accepts writes, and its user has all permissions.
    pub async fn ready(&self) -> Result<(), AuthError> {
        let permitted = self.permissions.check_bypassing_breaker("ready");
        // At the same time, because both together must stay within the 500 ms of an answer.
        let (permitted, ready) = tokio::join!(permitted, self.sessions.ready());
        permitted?;
        ready
    }

    async fn reload_keys(self) {
        loop {
            tokio::time::sleep(keys::RELOAD_INTERVAL).await;
            let auth = self.clone();
            let read = tokio::task::spawn_blocking(move || auth.tokens.keys().reload()).await;
            if let Ok(Err(error)) = read {
                tracing::error!(%error, "signing keys: read failed, retrying");
            }
        }
    }
}
