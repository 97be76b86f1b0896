//! How sessions end: by their owner, by a new password, by another change of the account.

use std::sync::Arc;

use super::account::{AccountError, Accounts, Change};
use super::session::{Ended, Sessions};
use super::{Auth, AuthError, Session};
use crate::events::account::{AccountEvent, CloseCause};
use crate::events::metadata::Metadata;
use crate::events::values::Username;

/// Which sessions of an account end by a change of it: those that were opened before.
#[derive(Debug, Clone, Copy)]
pub struct Ending<'a> {
    /// Not this one, in which the change was made, if it knew of the change before, at that position.
    pub except: Option<(&'a str, i64)>,
    pub cause: CloseCause,
    /// The position of the change.
    pub position: i64,
    /// The runs of Redis in which they may end, or [`super::runs::ANY_RUN`].
    pub runs: &'a str,
}

/// Ends the sessions that a change of the account ends, and records it.
///
/// # Errors
/// When Redis or PostgreSQL cannot be reached. Running processes of the service do the same again as
/// soon as both are there: they follow the log.
pub async fn end_sessions(
    sessions: &Sessions,
    accounts: &Accounts,
    username: &Username,
    ending: Ending<'_>,
    metadata: Metadata,
) -> Result<(), AuthError> {
    let Ending { except, cause, position, runs } = ending;
    let ended = sessions.close_all(username, except, position, runs).await?;
    accounts.record(username, &closed(&ended, cause), metadata).await?;
    Ok(())
}

impl Auth {
    /// Ends the session. It is in the log before Redis forgets it, so that it stays ended whatever
    /// becomes of Redis.
    ///
    /// # Errors
    /// When PostgreSQL or Redis cannot be reached; the log-out must be asked for again then.
    pub async fn log_out(&self, session: &Session, metadata: Metadata) -> Result<(), AuthError> {
        let own = (session.sid.clone(), session.jti.clone());
        self.end(session, vec![own], metadata).await
    }

    /// Ends one session of the account; `false` if it has no such session.
    ///
    /// # Errors
    /// As for [`Auth::log_out`].
    pub async fn end_session(
        &self,
        session: &Session,
        sid: &str,
        metadata: Metadata,
    ) -> Result<bool, AuthError> {
        let open = self.sessions(session).await?;
        let Some(open) = open.into_iter().find(|open| open.sid == sid) else { return Ok(false) };
        self.end(session, vec![(open.sid, open.jti)], metadata).await?;
        Ok(true)
    }

    /// Ends all sessions of the account; how many.
    ///
    /// # Errors
    /// As for [`Auth::log_out`].
    pub async fn end_all_sessions(
        &self,
        session: &Session,
        metadata: Metadata,
    ) -> Result<usize, AuthError> {
        let open = self.sessions(session).await?;
        let open: Vec<_> = open.into_iter().map(|open| (open.sid, open.jti)).collect();
        let number = open.len();
        self.end(session, open, metadata).await?;
        Ok(number)
    }

    /// They are in the log before Redis forgets them.
    async fn end(
        &self,
        by: &Session,
        sessions: Vec<Ended>,
        metadata: Metadata,
    ) -> Result<(), AuthError> {
        let username = by.username.clone();
        self.to_the_end(|auth| async move {
            let events = closed(&sessions, CloseCause::LogOut);
            auth.accounts.record(&username, &events, metadata).await?;
            for (sid, jti) in &sessions {
                let (auth, username) = (&auth, &username);
                auth.believed(|runs| async move {
                    auth.sessions.close(username, sid, jti, &runs).await
                })
                .await?;
            }
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
            let old = match auth.proven(Some(username), old, &address, &metadata).await {
                Ok(account) => account.password_hash,
                Err(AuthError::Unauthenticated) => return Ok(false),
                Err(error) => return Err(error),
            };
            let hash = auth.passwords.hash(new).await?;
            // Somebody else may have given it another one meanwhile, to lock this one out.
            let changed =
                auth.accounts.change_password(username, Some(&old), &hash, metadata.clone());
            let Change { position, previous } = match changed.await {
                Err(AccountError::Unknown(_)) => return Ok(false),
                changed => changed?,
            };
            let except = Some((sid.as_str(), previous));
            let sessions = &auth.sessions;
            let end = |runs: Arc<str>| async move {
                sessions.close_all(username, except, position, &runs).await
            };
            match auth.believed(end).await {
                Ok(ended) => {
                    let events = closed(&ended, CloseCause::PasswordChanged);
                    auth.accounts.record(username, &events, metadata).await?;
                }
                // The password is another one now; if Redis went away meanwhile, every process ends the
                // sessions as soon as it is back.
                Err(error) => {
                    tracing::warn!(%username, %error, "sessions end when Redis is back");
                }
            }
            Ok(true)
        })
        .await
    }
}

/// What the log says of sessions that end.
pub(super) fn closed(sessions: &[Ended], cause: CloseCause) -> Vec<AccountEvent> {
    let closed = |(sid, jti): &Ended| AccountEvent::SessionClosed {
        session: sid.clone(),
        jti: jti.clone(),
        cause,
    };
    sessions.iter().map(closed).collect()
}
