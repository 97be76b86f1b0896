//! Sessions in trusted epochs of Redis only. Only this module passes the trusted epochs to their calls. A call
//! that finds another epoch waits until the reconciler trusts it, and is repeated once.

use std::sync::Arc;

use super::error::AuthError;
use super::principal::Principal;
use super::reconciler::Reconciler;
use super::redis::epoch::ANY_EPOCH;
use super::revocation::Ended;
use super::session::{NewSession, OpenSession, Opening};
use super::session_check::{Presented, SessionCheck};
use crate::events::account_key::ClientId;
use crate::events::values::{Role, Username};

/// Makes a call of `Sessions`, with the trusted epochs as its last argument.
macro_rules! in_trusted_epochs {
    ($self:ident, $method:ident($($argument:expr),*)) => {{
        let sessions = $self.0.sessions();
        let call =
            |epochs: Arc<str>| async move { sessions.$method($($argument,)* &epochs).await };
        $self.0.with_trust(call).await
    }};
}

/// The sessions of all accounts.
#[derive(Clone)]
pub(super) struct TrustedSessions(Arc<Reconciler>);

impl TrustedSessions {
    pub(super) fn new(reconciler: Arc<Reconciler>) -> Self {
        Self(reconciler)
    }

    /// See [`Sessions::open`](super::session::Sessions::open). Works in any epoch: if Redis loses the
    /// session, the session is closed, which is safe.
    pub(super) async fn open(&self, new: NewSession<'_>) -> Result<Opening, AuthError> {
        Ok(self.0.sessions().open(new).await?)
    }

    /// Ends a session whose log-in has failed after it was opened, in any epoch.
    pub(super) async fn discard(
        &self,
        username: &Username,
        sid: &str,
        jti: &str,
    ) -> Result<(), AuthError> {
        self.0.sessions().close(username, sid, jti, ANY_EPOCH).await?;
        Ok(())
    }

    /// See [`Sessions::check`](super::session::Sessions::check).
    pub(super) async fn check(
        &self,
        presented: &Presented,
        requests: usize,
        enforces_binding: bool,
    ) -> Result<Vec<SessionCheck>, AuthError> {
        in_trusted_epochs!(self, check(presented, requests, enforces_binding))
    }

    /// See [`Sessions::role`](super::session::Sessions::role).
    pub(super) async fn role(&self, principal: &Principal) -> Result<Option<Role>, AuthError> {
        in_trusted_epochs!(self, role(principal))
    }

    /// See [`Sessions::list`](super::session::Sessions::list).
    pub(super) async fn list(
        &self,
        username: &Username,
        now: i64,
    ) -> Result<Vec<OpenSession>, AuthError> {
        in_trusted_epochs!(self, list(username, now))
    }

    /// See [`Sessions::bind`](super::session::Sessions::bind).
    pub(super) async fn bind(&self, username: &Username, sid: &str) -> Result<(), AuthError> {
        in_trusted_epochs!(self, bind(username, sid))
    }

    /// See [`Sessions::close`](super::session::Sessions::close).
    pub(super) async fn close(
        &self,
        username: &Username,
        sid: &str,
        jti: &str,
    ) -> Result<bool, AuthError> {
        in_trusted_epochs!(self, close(username, sid, jti))
    }

    /// See [`Sessions::close_all`](super::session::Sessions::close_all).
    pub(super) async fn close_all(
        &self,
        username: &Username,
        except: Option<(&str, i64)>,
        position: i64,
    ) -> Result<Vec<Ended>, AuthError> {
        in_trusted_epochs!(self, close_all(username, except, position))
    }

    /// See [`Sessions::close_key`](super::session::Sessions::close_key).
    pub(super) async fn close_key(
        &self,
        username: &Username,
        client_id: ClientId,
    ) -> Result<Vec<Ended>, AuthError> {
        in_trusted_epochs!(self, close_key(username, client_id))
    }

    /// Fails unless Redis is in a trusted epoch and accepts writes.
    pub(super) async fn ready(&self) -> Result<(), AuthError> {
        self.0.ready().await
    }
}
