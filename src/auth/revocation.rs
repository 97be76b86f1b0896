//! Revocation: a change of an account ends its sessions, the end of a service key those that it has opened.

use super::account::Accounts;
use super::error::AuthError;
use super::session::Sessions;
use crate::events::account::{AccountEvent, CloseCause};
use crate::events::account_key::ClientId;
use crate::events::metadata::Metadata;
use crate::events::values::Username;

pub(super) use super::session::Ended;

/// The sessions of an account that were opened before a change of it.
#[derive(Debug, Clone, Copy)]
pub struct Revocation<'a> {
    pub cause: CloseCause,
    /// The position of the change.
    pub position: i64,
    /// The session in which the password was changed, and the position of the change before it.
    pub except: Option<(&'a str, i64)>,
    /// The epochs of Redis in which they may be ended, or [`ANY_EPOCH`](super::redis::epoch::ANY_EPOCH).
    pub epochs: &'a str,
}

/// Ends the sessions and appends their events. After an error the reconciler of each running process
/// repeats this as soon as Redis and PostgreSQL answer.
pub async fn revoke(
    sessions: &Sessions,
    accounts: &Accounts,
    username: &Username,
    revocation: Revocation<'_>,
    metadata: Metadata,
) -> Result<(), AuthError> {
    let Revocation { cause, position, except, epochs } = revocation;
    let ended = sessions.close_all(username, except, position, epochs).await?;
    accounts.record(username, &closed(&ended, cause), metadata).await?;
    Ok(())
}

/// The same for the sessions that a service key has opened.
pub async fn revoke_key(
    sessions: &Sessions,
    accounts: &Accounts,
    username: &Username,
    client_id: ClientId,
    epochs: &str,
    metadata: Metadata,
) -> Result<(), AuthError> {
    let ended = sessions.close_key(username, client_id, epochs).await?;
    accounts.record(username, &closed(&ended, CloseCause::KeyRevoked), metadata).await?;
    Ok(())
}

/// The events of sessions that have ended.
pub(super) fn closed(sessions: &[Ended], cause: CloseCause) -> Vec<AccountEvent> {
    let closed = |(sid, jti): &Ended| AccountEvent::SessionClosed {
        session: sid.clone(),
        jti: jti.clone(),
        cause,
    };
    sessions.iter().map(closed).collect()
}
