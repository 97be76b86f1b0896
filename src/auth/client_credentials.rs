//! Client credentials (RFC 6749, section 4.4): a program gets a token for the secret of a service key.

use std::time::Duration;

use super::account::Account;
use super::account_keys::ServiceKey;
use super::components::Auth;
use super::error::AuthError;
use super::opening::Wanted;
use super::session::Client;
use super::throttle::Subject;
use crate::events::account_key::ClientId;
use crate::events::metadata::Metadata;
use crate::events::values::Role;

/// A token for a program. It has no cookie: its session is never bound, and the token alone is enough.
pub struct IssuedToken {
    pub token: String,
    pub ttl: Duration,
    pub role: Role,
}

impl Auth {
    /// Checks a secret and opens a session, which lives no longer than the key; with the role of the account, or a
    /// lesser one that it covers. `None` if it does not cover that role. Wrong secrets are counted as failed log-ins
    /// are. [`AuthError::Unauthenticated`] for an unknown id, a wrong secret, an expired key and a disabled account
    /// alike.
    pub async fn issue_token(
        &self,
        client_id: &str,
        secret: String,
        role: Option<Role>,
        address: &str,
        mut metadata: Metadata,
    ) -> Result<Option<IssuedToken>, AuthError> {
        let client_id = ClientId::parse(client_id).ok();
        let address = address.to_owned();
        self.run_to_completion(|auth| async move {
            let checked = auth.check_secret(client_id, &secret, &address, &metadata).await?;
            let (key, account) = checked;
            let now = auth.clock.now();
            let left = key.expires_at.time() - now;
            let ttl = auth.ttl.min(Duration::from_secs(left.num_seconds().try_into().unwrap_or(0)));
            if account.disabled || ttl.is_zero() {
                return Err(AuthError::Unauthenticated);
            }
            let role = role.unwrap_or(account.role);
            if !account.role.covers(role) {
                return Ok(None);
            }
            metadata.actor = Some(account.username.to_string());
            metadata.role = Some(role.to_string());
            let client = Client::Key(key.client_id);
            let wanted = Wanted { account: &account, role, ttl, client };
            let token = auth.open_session(wanted, metadata).await?;
            auth.note_use(key.client_id);
            Ok(Some(IssuedToken { token, ttl, role }))
        })
        .await
    }

    /// The key of that id and its account, if this is its secret. Calls Redis before any other work.
    async fn check_secret(
        &self,
        client_id: Option<ClientId>,
        secret: &str,
        address: &str,
        metadata: &Metadata,
    ) -> Result<(ServiceKey, Account), AuthError> {
        self.check_throttle(Subject::Client { client_id: None, address }).await?;
        let key = match client_id {
            Some(client_id) => self.accounts.find_key(client_id).await?,
            None => None,
        };
        let account = match &key {
            Some(key) => self.accounts.find(&key.username).await?,
            None => None,
        };
        match (key, account) {
            (Some(key), Some(account)) if key.has_secret(secret) => Ok((key, account)),
            (_, account) => {
                let subject = Subject::Client { client_id, address };
                self.check_throttle(subject).await?;
                let reached = self.throttle.count(subject, account.is_some()).await?;
                if let (Some(by), Some(account)) = (reached, account) {
                    self.record_throttled(account.username, by, metadata.clone());
                }
                Err(AuthError::Unauthenticated)
            }
        }
    }

    /// After the response, because it tells people whether a key is needed, and no program waits for it.
    fn note_use(&self, client_id: ClientId) {
        let auth = self.clone();
        let now = self.clock.now();
        self.spawn(async move {
            if let Err(error) = auth.accounts.note_use(client_id, now).await {
                tracing::warn!(%client_id, %error, "service key: use not noted");
            }
        });
    }
}
