//! A log-in: who is it, is it they, and if so a session. Also the first half of a new password.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::account::Account;
use super::ending::closed;
use super::runs::ANY_RUN;
use super::session::NewSession;
use super::throttle::Verdict;
use super::{AuthError, Inner, LoggedIn};
use crate::clock;
use crate::config::CookieBinding;
use crate::events::account::{AccountEvent, CloseCause};
use crate::events::metadata::Metadata;
use crate::events::values::{Role, Username};

impl Inner {
    /// The account whose password this is. Redis is asked before any work is done.
    pub(super) async fn proven(
        &self,
        username: Option<&Username>,
        password: String,
        address: &str,
        metadata: &Metadata,
    ) -> Result<Account, AuthError> {
        self.admit(username, address).await?;
        let account = match username {
            Some(username) => self.accounts.find(username).await?,
            None => None,
        };
        let hash = account.as_ref().map(|account| account.password_hash.clone());
        let slot = self.passwords.slot().await?;
        // Asked again behind the wait for a slot: those who held it before have been counted by now.
        self.admit(username, address).await?;
        let (matched, slot) = self.passwords.verify(slot, password.clone(), hash).await?;
        let Some(account) = account.filter(|account| matched.is_right() && !account.disabled)
        else {
            let reached = self.throttle.count(username, address).await?;
            if let (Some(by), Some(username)) = (reached, username)
                && self.accounts.find(username).await?.is_some()
            {
                let event = AccountEvent::LoginThrottled { by };
                self.accounts.record(username, &[event], metadata.clone()).await?;
            }
            return Err(AuthError::Unauthenticated);
        };
        // A new hash takes a slot of its own.
        drop(slot);
        if matched.is_outdated() { self.rehashed(account, password).await } else { Ok(account) }
    }

    /// The account with a hash of today's parameters.
    async fn rehashed(&self, mut account: Account, password: String) -> Result<Account, AuthError> {
        let hash = self.passwords.hash(password.clone()).await?;
        if self.accounts.rehash(&account.username, &account.password_hash, &hash).await? {
            account.password_hash = hash;
            return Ok(account);
        }
        // Somebody was quicker: another log-in, or a new password that this one is not.
        let account = self.accounts.find(&account.username).await?;
        let account = account.ok_or(AuthError::Unauthenticated)?;
        let slot = self.passwords.slot().await?;
        let hash = Some(account.password_hash.clone());
        let (matched, _) = self.passwords.verify(slot, password, hash).await?;
        let is_let_in = matched.is_right() && !account.disabled;
        if is_let_in { Ok(account) } else { Err(AuthError::Unauthenticated) }
    }

    async fn admit(&self, username: Option<&Username>, address: &str) -> Result<(), AuthError> {
        match self.throttle.ask(username, address).await? {
            Verdict::Go => Ok(()),
            Verdict::Wait(retry_after) => Err(AuthError::Throttled { retry_after }),
        }
    }

    pub(super) async fn open_session(
        &self,
        account: &Account,
        bind_now: bool,
        mut metadata: Metadata,
    ) -> Result<LoggedIn, AuthError> {
        let cookie = BASE64_URL_SAFE_NO_PAD.encode(clock::random_bytes::<32>());
        let sid = clock::new_id().to_string();
        let jti = BASE64_URL_SAFE_NO_PAD.encode(clock::random_bytes::<16>());
        let now = self.clock.now();
        let bound = match self.binding {
            CookieBinding::Off => false,
            CookieBinding::Always => true,
            CookieBinding::FirstUse => bind_now,
            CookieBinding::Strict => {
                bind_now || matches!(account.role, Role::Admin | Role::Auditor)
            }
        };
        let claims = self.tokens.claims(&account.username, &sid, &jti, now, self.ttl);
        let token = self.tokens.sign(&claims)?;
        let ended = self
            .sessions
            .open(NewSession {
                claims: &claims,
                role: account.role,
                changed: account.changed,
                cookie: &cookie,
                bound,
                ip: metadata.ip.as_deref().unwrap_or_default(),
                user_agent: metadata.user_agent.as_deref().unwrap_or_default(),
                ttl: self.ttl,
            })
            .await?;
        let ended = closed(&ended, CloseCause::SessionLimit);
        metadata.session = Some(sid.clone());
        if let Err(error) = self.opened(account, &sid, ended, metadata).await {
            self.sessions.close(&account.username, &sid, &jti, ANY_RUN).await?;
            return Err(error);
        }
        Ok(LoggedIn { token, cookie, ttl: self.ttl })
    }

    /// Records a session, and those that ended for it, unless the account has changed while its password
    /// was being checked, too late for the change to end this session.
    async fn opened(
        &self,
        account: &Account,
        sid: &str,
        ended: Vec<AccountEvent>,
        metadata: Metadata,
    ) -> Result<(), AuthError> {
        let mut events = ended;
        let still = self.accounts.find(&account.username).await?;
        let is_same = still.is_some_and(|still| still.is_same(account) && !still.disabled);
        if is_same {
            events.push(AccountEvent::SessionOpened { session: sid.to_owned() });
        }
        self.accounts.record(&account.username, &events, metadata).await?;
        if is_same { Ok(()) } else { Err(AuthError::Unauthenticated) }
    }
}
