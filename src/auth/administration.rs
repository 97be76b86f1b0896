//! Administration of accounts through the API: what an admin, or the owner of service keys, changes.

use super::account::{Account, AccountError};
use super::account_changes::{AccountChange, Made};
use super::account_keys::{NewKey, ServiceKey};
use super::components::Auth;
use super::error::AuthError;
use super::fair_queue::Network;
use super::revocation::closed;
use super::session::OpenSession;
use crate::events::account::CloseCause;
use crate::events::account_key::{ClientId, KeyExpiry, KeyName};
use crate::events::metadata::Metadata;
use crate::events::values::{Role, Username};

/// What an admin wants to change of an account; `None` leaves a part as it is.
#[derive(Debug, Default)]
pub struct WantedAccount {
    pub role: Option<Role>,
    pub password: Option<String>,
    pub disabled: Option<bool>,
}

impl Auth {
    /// All accounts by name.
    pub async fn list_accounts(&self) -> Result<Vec<Account>, AuthError> {
        Ok(self.accounts.list().await?)
    }

    /// The account of that name; [`AccountError::Unknown`] if there is none.
    pub async fn account(&self, username: &Username) -> Result<Account, AuthError> {
        let account = self.accounts.find(username).await?;
        Ok(account.ok_or_else(|| AccountError::Unknown(username.clone()))?)
    }

    /// Adds an account; [`AccountError::Exists`] if the name is taken.
    pub async fn add_account(
        &self,
        username: Username,
        password: String,
        role: Role,
        network: Network,
        metadata: Metadata,
    ) -> Result<Account, AuthError> {
        self.run_to_completion(|auth| async move {
            // Before a hash is computed.
            if auth.accounts.find(&username).await?.is_some() {
                return Err(AccountError::Exists(username).into());
            }
            let slot = auth.passwords.slot(network).await?;
            let hash = auth.passwords.hash(slot, password).await?;
            auth.accounts.add(&username, &hash, role, metadata).await?;
            auth.account(&username).await
        })
        .await
    }

    /// Changes an account, all or nothing, and ends its sessions if that is what a change does. Returns the account
    /// and the parts that are other ones now. [`AccountError::LastAdmin`] rather than take the last enabled admin
    /// away.
    pub async fn change_account(
        &self,
        username: Username,
        wanted: WantedAccount,
        network: Network,
        metadata: Metadata,
    ) -> Result<(Account, Vec<Made>), AuthError> {
        self.run_to_completion(|auth| async move {
            auth.account(&username).await?;
            let password_hash = match wanted.password {
                Some(password) => {
                    let slot = auth.passwords.slot(network).await?;
                    Some(auth.passwords.hash(slot, password).await?)
                }
                None => None,
            };
            let WantedAccount { role, disabled, .. } = wanted;
            let change = AccountChange { role, password_hash, disabled, must_keep_admin: true };
            let made = auth.accounts.change(&username, &change, metadata.clone()).await?;
            let ends = |made: &Made| Some((made.event.ends_all_sessions()?, made.position));
            if let Some((cause, position)) = made.iter().rev().find_map(ends)
                && let Err(error) = auth.end_all(&username, cause, position, metadata).await
            {
                // The change is in the log, so the reconcilers end the sessions when Redis answers again.
                tracing::warn!(
                    %username, %error, "account change: sessions not ended yet, reconciler retries"
                );
            }
            Ok((auth.account(&username).await?, made))
        })
        .await
    }

    async fn end_all(
        &self,
        username: &Username,
        cause: CloseCause,
        position: i64,
        metadata: Metadata,
    ) -> Result<(), AuthError> {
        let ended = self.sessions.close_all(username, None, position).await?;
        self.accounts.record(username, &closed(&ended, cause), metadata).await?;
        Ok(())
    }

    /// The open sessions of an account, the oldest first.
    pub async fn sessions_of(&self, username: &Username) -> Result<Vec<OpenSession>, AuthError> {
        self.account(username).await?;
        self.sessions.list(username, self.clock.now().timestamp()).await
    }

    /// Ends all sessions of an account; returns how many.
    pub async fn end_sessions_of(
        &self,
        username: &Username,
        metadata: Metadata,
    ) -> Result<usize, AuthError> {
        let open = self.sessions_of(username).await?;
        let open: Vec<_> = open.into_iter().map(|open| (open.sid, open.jti)).collect();
        let number = open.len();
        self.end(username.clone(), open, metadata).await?;
        Ok(number)
    }

    /// The service keys of an account, the oldest first.
    pub async fn keys_of(&self, username: &Username) -> Result<Vec<ServiceKey>, AuthError> {
        self.account(username).await?;
        Ok(self.accounts.keys(username).await?)
    }

    /// Adds a service key; [`AccountError::TooManyKeys`] if the account has as many as it may have.
    pub async fn add_key(
        &self,
        username: &Username,
        name: KeyName,
        expires_at: KeyExpiry,
        metadata: Metadata,
    ) -> Result<NewKey, AuthError> {
        let username = username.clone();
        self.run_to_completion(|auth| async move {
            Ok(auth.accounts.add_key(&username, &name, expires_at, metadata).await?)
        })
        .await
    }

    /// Revokes a service key and ends the sessions that it has opened; `false` if the account has no such key.
    pub async fn revoke_key(
        &self,
        username: &Username,
        client_id: ClientId,
        metadata: Metadata,
    ) -> Result<bool, AuthError> {
        let username = username.clone();
        self.run_to_completion(|auth| async move {
            if !auth.accounts.remove_key(&username, client_id, metadata.clone()).await? {
                return Ok(false);
            }
            match auth.sessions.close_key(&username, client_id).await {
                Ok(ended) => {
                    let events = closed(&ended, CloseCause::KeyRevoked);
                    auth.accounts.record(&username, &events, metadata).await?;
                }
                // The revocation is in the log, so the reconcilers end the sessions when Redis answers again.
                Err(error) => {
                    tracing::warn!(
                        %username, %error,
                        "service key revoked: sessions not ended yet, reconciler retries"
                    );
                }
            }
            Ok(true)
        })
        .await
    }
}
