//! Sessions in trusted epochs of Redis only. Only this module passes the trusted epochs to a call. A call
//! that finds another epoch waits until the reconciler trusts it, and is repeated once.

use std::sync::Arc;

use super::error::AuthError;
use super::principal::{Principal, Purpose};
use super::reconciler::Reconciler;
use super::redis_epoch::ANY_EPOCH;
use super::revocation::Ended;
use super::session::{NewSession, OpenSession, SessionCheck};
use super::token::Claims;
use crate::events::values::{Role, Username};

/// The sessions of all accounts.
#[derive(Clone)]
pub(super) struct TrustedSessions(Arc<Reconciler>);

impl TrustedSessions {
    pub(super) fn new(reconciler: Arc<Reconciler>) -> Self {
        Self(reconciler)
    }

    /// See [`Sessions::open`](super::session::Sessions::open). Works in any epoch: if Redis loses the
    /// session, the session is closed, which is safe.
    pub(super) async fn open(&self, new: NewSession<'_>) -> Result<Vec<Ended>, AuthError> {
        Ok(self.0.sessions().open(new).await?)
    }

    /// Ends a session whose log-in has failed after it was opened, in any epoch.
    pub(super) async fn discard(
        &self,
        username: &Username,
        sid: &str,
        jti: &str,
    ) -> Result<(), AuthError> {
        Ok(self.0.sessions().close(username, sid, jti, ANY_EPOCH).await?)
    }

    /// See [`Sessions::check`](super::session::Sessions::check).
    pub(super) async fn check(
        &self,
        claims: &Claims,
        cookie: Option<&str>,
        obeys_cookie: bool,
        purpose: Purpose,
    ) -> Result<SessionCheck, AuthError> {
        let sessions = self.0.sessions();
        let call = |epochs: Arc<str>| async move {
            sessions.check(claims, cookie, obeys_cookie, purpose, &epochs).await
        };
        self.0.with_trust(call).await
    }

    /// See [`Sessions::role`](super::session::Sessions::role).
    pub(super) async fn role(&self, principal: &Principal) -> Result<Option<Role>, AuthError> {
        let sessions = self.0.sessions();
        let call = |epochs: Arc<str>| async move { sessions.role(principal, &epochs).await };
        self.0.with_trust(call).await
    }

    /// See [`Sessions::list`](super::session::Sessions::list).
    pub(super) async fn list(
        &self,
        username: &Username,
        now: i64,
    ) -> Result<Vec<OpenSession>, AuthError> {
        let sessions = self.0.sessions();
        let call = |epochs: Arc<str>| async move { sessions.list(username, now, &epochs).await };
        self.0.with_trust(call).await
    }

    /// See [`Sessions::bind`](super::session::Sessions::bind).
    pub(super) async fn bind(&self, username: &Username, sid: &str) -> Result<(), AuthError> {
        let sessions = self.0.sessions();
        let call = |epochs: Arc<str>| async move { sessions.bind(username, sid, &epochs).await };
        self.0.with_trust(call).await
    }

    /// See [`Sessions::close`](super::session::Sessions::close).
    pub(super) async fn close(
        &self,
        username: &Username,
        sid: &str,
        jti: &str,
    ) -> Result<(), AuthError> {
        let sessions = self.0.sessions();
        let call =
            |epochs: Arc<str>| async move { sessions.close(username, sid, jti, &epochs).await };
        self.0.with_trust(call).await
    }

    /// See [`Sessions::close_all`](super::session::Sessions::close_all).
    pub(super) async fn close_all(
        &self,
        username: &Username,
        except: Option<(&str, i64)>,
        position: i64,
    ) -> Result<Vec<Ended>, AuthError> {
        let sessions = self.0.sessions();
        let call = |epochs: Arc<str>| async move {
            sessions.close_all(username, except, position, &epochs).await
        };
        self.0.with_trust(call).await
    }

    /// Fails unless Redis is in a trusted epoch and accepts writes.
    pub(super) async fn ready(&self) -> Result<(), AuthError> {
        self.0.ready().await
    }
}
