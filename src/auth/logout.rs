//! Log-out and password change: an owner ends sessions, or changes the password and so ends all other
//! sessions.
//! `SessionClosed` is in the log before Redis deletes a session, so that the session stays ended even if
//! Redis loses data.

use super::account::{AccountError, Change};
use super::components::Auth;
use super::error::AuthError;
use super::fair_queue::Network;
use super::principal::Principal;
use super::revocation::{Ended, closed};
use super::throttle::Subject;
use crate::events::account::CloseCause;
use crate::events::metadata::Metadata;
use crate::events::values::Username;

impl Auth {
    /// Ends the principal's session. After an error the client has to retry.
    pub async fn logout(&self, principal: &Principal, metadata: Metadata) -> Result<(), AuthError> {
        let own = (principal.sid().to_owned(), principal.jti().to_owned());
        self.end(principal.username().clone(), vec![own], metadata).await
    }

    /// Ends one session of the account; `false` if the account has no such session.
    pub async fn end_session(
        &self,
        principal: &Principal,
        sid: &str,
        metadata: Metadata,
    ) -> Result<bool, AuthError> {
        let open = self.list_sessions(principal).await?;
        let Some(open) = open.into_iter().find(|open| open.sid == sid) else { return Ok(false) };
        let ended = vec![(open.sid, open.jti)];
        self.end(principal.username().clone(), ended, metadata).await?;
        Ok(true)
    }

    /// Ends all sessions of the account; returns how many.
    pub async fn end_all_sessions(
        &self,
        principal: &Principal,
        metadata: Metadata,
    ) -> Result<usize, AuthError> {
        let open = self.list_sessions(principal).await?;
        let open: Vec<_> = open.into_iter().map(|open| (open.sid, open.jti)).collect();
        let number = open.len();
        self.end(principal.username().clone(), open, metadata).await?;
        Ok(number)
    }

    /// Ends sessions of an account.
    pub(super) async fn end(
        &self,
        username: Username,
        ended: Vec<Ended>,
        metadata: Metadata,
    ) -> Result<(), AuthError> {
        self.run_to_completion(|auth| async move {
            let events = closed(&ended, CloseCause::LogOut);
            auth.accounts.record(&username, &events, metadata).await?;
            for (sid, jti) in &ended {
                auth.sessions.close(&username, sid, jti).await?;
            }
            Ok(())
        })
        .await
    }

    /// Changes the account's password and ends its other sessions; `false` if `old` is wrong.
    pub async fn change_password(
        &self,
        principal: &Principal,
        old: String,
        new: String,
        network: Network,
        metadata: Metadata,
    ) -> Result<bool, AuthError> {
        let principal = principal.clone();
        self.run_to_completion(|auth| async move {
            let (username, sid) = (principal.username(), principal.sid());
            let subject = Subject::Session { username, sid };
            let old = match auth.verify_password(subject, old, network, &metadata).await {
                Ok(account) => account.password_hash,
                Err(AuthError::Unauthenticated) => return Ok(false),
                Err(error) => return Err(error),
            };
            let slot = auth.passwords.slot(network).await?;
            let hash = auth.passwords.hash(slot, new).await?;
            // A change counts like a failure: each costs two or three hashes and stays in the log.
            auth.throttle.count(subject, true).await?;
            // Another session may have changed the password meanwhile, to revoke this one.
            let changed =
                auth.accounts.change_password(username, Some(&old), &hash, metadata.clone());
            let Change { position, previous } = match changed.await {
                Err(AccountError::Unknown(_)) => return Ok(false),
                changed => changed?,
            };
            let except = Some((sid, previous));
            match auth.sessions.close_all(username, except, position).await {
                Ok(ended) => {
                    let events = closed(&ended, CloseCause::PasswordChanged);
                    auth.accounts.record(username, &events, metadata).await?;
                }
                // The change is in the log, so the reconcilers end the sessions when Redis answers again.
                Err(error) => {
                    tracing::warn!(
                        %username, %error,
                        "password change: sessions not ended yet, reconciler retries"
                    );
                }
            }
            Ok(true)
        })
        .await
    }
}
