//! Opens a session, for an account whose password or service key was checked.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::account::Account;
use super::components::Auth;
use super::error::AuthError;
use super::revocation::closed;
use super::session::{Client, NewSession, Opening};
use crate::clock;
use crate::events::account::{AccountEvent, CloseCause};
use crate::events::account_key::ClientId;
use crate::events::metadata::Metadata;
use crate::events::values::Role;

/// A session to open.
pub(super) struct Wanted<'a> {
    /// As it was when the password or the key was checked.
    pub account: &'a Account,
    /// The role of the session, which that of the account covers.
    pub role: Role,
    pub ttl: Duration,
    pub client: Client<'a>,
}

impl Auth {
    /// Opens the session and records it; returns its token. Fails with [`AuthError::Unauthenticated`] if the account
    /// has changed since it was checked, or the key was revoked.
    pub(super) async fn open_session(
        &self,
        wanted: Wanted<'_>,
        mut metadata: Metadata,
    ) -> Result<String, AuthError> {
        let Wanted { account, role, ttl, client } = wanted;
        // So that no log-in opens a session that no request can use.
        self.permissions.check(account.username.as_str()).await?;
        let client_id = match client {
            Client::Cookie { .. } => None,
            Client::Key(client_id) => Some(client_id),
        };
        let sid = clock::new_id().to_string();
        let jti = BASE64_URL_SAFE_NO_PAD.encode(clock::random_bytes::<16>());
        let now = self.clock.now();
        let claims = self.tokens.claims(&account.username, &sid, &jti, now, ttl, client_id);
        let token = self.tokens.sign(&claims)?;
        let opening = self
            .sessions
            .open(NewSession {
                claims: &claims,
                role,
                changed: account.changed,
                client,
                ip: metadata.ip.as_deref().unwrap_or_default(),
                user_agent: metadata.user_agent.as_deref().unwrap_or_default(),
                ttl,
            })
            .await?;
        let ended = match opening {
            Opening::Opened { ended } => closed(&ended, CloseCause::SessionLimit),
            Opening::Limited { wait } => {
                return Err(AuthError::TooManyLogins { retry_after: wait });
            }
        };
        metadata.session = Some(sid.clone());
        if let Err(error) = self.record_opened(account, client_id, &sid, ended, metadata).await {
            self.sessions.discard(&account.username, &sid, &jti).await?;
            return Err(error);
        }
        Ok(token)
    }

    /// Records the session, and the sessions that the limit ended. Fails with
    /// [`AuthError::Unauthenticated`] if the account has changed since it was checked, or the key is gone, because
    /// the change may have ended its sessions before this one was opened.
    async fn record_opened(
        &self,
        account: &Account,
        client_id: Option<ClientId>,
        sid: &str,
        ended: Vec<AccountEvent>,
        metadata: Metadata,
    ) -> Result<(), AuthError> {
        let mut events = ended;
        let still = self.accounts.find(&account.username).await?;
        let is_same = still.is_some_and(|still| still.is_same(account) && !still.disabled);
        let has_key = match client_id {
            Some(client_id) => self.accounts.find_key(client_id).await?.is_some(),
            None => true,
        };
        if is_same && has_key {
            events.push(AccountEvent::SessionOpened { session: sid.to_owned(), client_id });
        }
        self.accounts.record(&account.username, &events, metadata).await?;
        if is_same && has_key { Ok(()) } else { Err(AuthError::Unauthenticated) }
    }
}
