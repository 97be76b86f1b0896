//! A log-in: checks user name and password, and opens a session. Also the check of the old password
//! before a new one.

use std::time::Duration;

use super::account::Account;
use super::components::Auth;
use super::error::AuthError;
use super::fair_queue::Network;
use super::login_outcomes;
use super::opening::Wanted;
use super::session::Client;
use super::throttle::{Subject, Verdict};
use crate::config::CookieBinding;
use crate::events::account::{AccountEvent, ThrottledBy};
use crate::events::metadata::Metadata;
use crate::events::values::{Role, Username};

/// The result of a log-in.
pub struct LoggedIn {
    pub token: String,
    /// The value of the session cookie.
    pub cookie: String,
    pub ttl: Duration,
}

impl Auth {
    /// Checks a user name and its password and opens a session; `bind_now` binds it to its cookie at
    /// once. Failures are counted for the address, and the networks take turns in the queue for a check.
    /// [`AuthError::Unauthenticated`] for an unknown name, a wrong password and a disabled account alike, after the
    /// same work.
    pub async fn login(
        &self,
        username: &str,
        password: String,
        bind_now: bool,
        (address, network): (&str, Network),
        mut metadata: Metadata,
    ) -> Result<LoggedIn, AuthError> {
        let username = Username::stored(username).ok();
        let address = address.to_owned();
        self.run_to_completion(|auth| async move {
            let opened = async {
                let subject = Subject::LogIn { username: username.as_ref(), address: &address };
                let account = auth.verify_password(subject, password, network, &metadata).await?;
                metadata.actor = Some(account.username.to_string());
                metadata.role = Some(account.role.to_string());
                let cookie = auth.cookies.value();
                let bound = auth.binds_at_once(account.role, bind_now);
                let client = Client::Cookie { value: &cookie, bound };
                let wanted =
                    Wanted { account: &account, role: account.role, ttl: auth.ttl, client };
                let token = auth.open_session(wanted, metadata).await?;
                Ok(LoggedIn { token, cookie, ttl: auth.ttl })
            };
            let opened = opened.await;
            login_outcomes::count(opened.as_ref().err());
            opened
        })
        .await
    }

    /// The account of the subject, if this is its password. Calls Redis before any other work.
    pub(super) async fn verify_password(
        &self,
        subject: Subject<'_>,
        password: String,
        network: Network,
        metadata: &Metadata,
    ) -> Result<Account, AuthError> {
        self.check_throttle(subject).await?;
        let account = match subject.username() {
            Some(username) => self.accounts.find(username).await?,
            None => None,
        };
        // A disabled account costs what an unknown name does, whatever the password is.
        let enabled = account.as_ref().filter(|account| !account.disabled);
        let hash = enabled.map(|account| account.password_hash.clone());
        let slot = self.passwords.slot(network).await?;
        // Checked again after the wait for a slot, because earlier log-ins may have failed meanwhile.
        self.check_throttle(subject).await?;
        let (matched, slot) = self.passwords.verify(slot, password.clone(), hash).await?;
        let known = account.as_ref().map(|account| account.username.clone());
        let Some(account) = account.filter(|account| matched.is_right() && !account.disabled)
        else {
            let reached = self.throttle.count(subject, known.is_some()).await?;
            if let (Some(by), Some(username)) = (reached, known) {
                self.record_throttled(username, by, metadata.clone());
            }
            return Err(AuthError::Unauthenticated);
        };
        // A new hash acquires a slot itself.
        drop(slot);
        if matched.is_outdated() {
            self.rehash(account, password, network, metadata).await
        } else {
            Ok(account)
        }
    }

    /// Appends the event after the response: an append before it would take longer for a name that exists.
    pub(super) fn record_throttled(&self, username: Username, by: ThrottledBy, metadata: Metadata) {
        let auth = self.clone();
        self.spawn(async move {
            let event = AccountEvent::LoginThrottled { by };
            if let Err(error) = auth.accounts.record(&username, &[event], metadata).await {
                tracing::error!(%username, %error, "log-in throttled: event not appended");
            }
        });
    }

    /// Replaces the account's hash by one of the prepared password with the current parameters.
    async fn rehash(
        &self,
        mut account: Account,
        password: String,
        network: Network,
        metadata: &Metadata,
    ) -> Result<Account, AuthError> {
        let slot = self.passwords.slot(network).await?;
        let hash = self.passwords.hash(slot, password.clone()).await?;
        if self
            .accounts
            .rehash(&account.username, &account.password_hash, &hash, metadata.clone())
            .await?
        {
            account.password_hash = hash;
            return Ok(account);
        }
        // Another log-in has replaced it, or the password was changed.
        let account = self.accounts.find(&account.username).await?;
        let account = account.ok_or(AuthError::Unauthenticated)?;
        let slot = self.passwords.slot(network).await?;
        let hash = Some(account.password_hash.clone());
        let (matched, _) = self.passwords.verify(slot, password, hash).await?;
        let is_admitted = matched.is_right() && !account.disabled;
        if is_admitted { Ok(account) } else { Err(AuthError::Unauthenticated) }
    }

    pub(super) async fn check_throttle(&self, subject: Subject<'_>) -> Result<(), AuthError> {
        match self.throttle.check(subject).await? {
            Verdict::Allowed => Ok(()),
            Verdict::Throttled(retry_after) => Err(AuthError::Throttled { retry_after }),
            Verdict::Limited(retry_after) => Err(AuthError::TooManyLogins { retry_after }),
        }
    }

    /// Whether a log-in binds its session to the cookie before a request has brought it.
    fn binds_at_once(&self, role: Role, bind_now: bool) -> bool {
        match self.binding {
            CookieBinding::Off => false,
            CookieBinding::Always => true,
            CookieBinding::FirstUse => bind_now,
            CookieBinding::Strict => bind_now || matches!(role, Role::Admin | Role::Auditor),
        }
    }
}
