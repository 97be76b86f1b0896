//! Authentication of a request: token, session, cookie and rate, and the events that result.

use std::sync::Arc;

use super::components::Auth;
use super::error::AuthError;
use super::principal::{Cookie, Principal, Purpose};
use super::session_check::{GivenCookie, Presented, SessionCheck};
use super::token::Claims;
use super::token_refusal::TokenRefusal;
use crate::config::CookieBinding;
use crate::events::account::AccountEvent;
use crate::events::metadata::Metadata;
use crate::events::values::Role;

impl Auth {
    /// The principal of a request. The first request that brings the right cookie binds the session. If
    /// the session is bound and the right cookie is missing, ends the session and fails with
    /// [`AuthError::TokenReplay`]. An unbound session stays open: [`AuthError::OtherCookie`] for the cookie of
    /// another session, [`AuthError::CookieRequired`] without the cookie that the purpose requires. The session of a
    /// service key has no cookie: it is admitted by its token, in every mode.
    pub async fn authenticate(
        &self,
        token: &str,
        cookie: Cookie<'_>,
        purpose: Purpose,
        metadata: &Arc<Metadata>,
    ) -> Result<Principal, AuthError> {
        let refused = |refusal| self.refusals.refuse(refusal, metadata);
        let token = self.tokens.verify(token, self.clock.now()).map_err(refused)?;
        let cookie = match cookie {
            // The session of a service key has none, so every cookie is of something else.
            _ if token.claims.client_id.is_some() => None,
            Cookie::Absent => None,
            Cookie::Own(value) => Some(GivenCookie::new(value, true)),
            Cookie::Earlier(value) => Some(GivenCookie::new(value, false)),
            Cookie::Several if self.binding == CookieBinding::Off => None,
            Cookie::Several => return Err(refused(TokenRefusal::SeveralCookies)),
        };
        let presented = Arc::new(Presented { token: Arc::clone(&token), cookie, purpose });
        // To its end, even if the client disconnects, so that the log and Redis stay consistent.
        let auth = self.clone();
        let check = move |presented: Arc<Presented>, requests| {
            let auth = auth.clone();
            async move { auth.check_session(&presented, requests).await }
        };
        let checked = self.checks.ask(presented, Arc::clone(metadata), check).await;
        let role = checked.ok_or(AuthError::CheckPanicked)??;
        Ok(Principal { role, token })
    }

    /// Checks the session of requests that present the same, each with its metadata.
    async fn check_session(
        &self,
        presented: &Presented,
        requests: Vec<Arc<Metadata>>,
    ) -> Vec<Result<Role, AuthError>> {
        // The token itself says that it is one of a service key, and is signed.
        let is_of_key = presented.token.claims.client_id.is_some();
        let enforces_binding = self.binding != CookieBinding::Off && !is_of_key;
        let checks = self.sessions.check(presented, requests.len(), enforces_binding).await;
        let checks = match checks {
            Ok(checks) => checks,
            Err(error) => {
                let error = Arc::new(error);
                return requests
                    .iter()
                    .map(|_| Err(AuthError::Shared(Arc::clone(&error))))
                    .collect();
            }
        };
        let mut results = Vec::with_capacity(requests.len());
        for (check, metadata) in checks.into_iter().zip(requests) {
            results.push(self.conclude(presented, check, metadata).await);
        }
        results
    }

    /// Records what the check of a request has changed.
    async fn conclude(
        &self,
        presented: &Presented,
        check: SessionCheck,
        metadata: Arc<Metadata>,
    ) -> Result<Role, AuthError> {
        let refused = |refusal| Err(self.refusals.refuse(refusal, &metadata));
        match check {
            SessionCheck::Open { role, bound_now } => {
                if bound_now {
                    self.record_binding(presented, role, Metadata::clone(&metadata)).await?;
                }
                Ok(role)
            }
            SessionCheck::Closed => refused(TokenRefusal::NoSession),
            SessionCheck::Refused
                if presented.cookie.as_ref().is_some_and(|cookie| cookie.is_own) =>
            {
                refused(TokenRefusal::OtherCookie)
            }
            SessionCheck::Refused => refused(TokenRefusal::CookieRequired),
            SessionCheck::Limited { wait } => Err(AuthError::Limited { retry_after: wait }),
            SessionCheck::Replayed { opened_ip, opened_user_agent } => {
                let claims = &presented.token.claims;
                let event = AccountEvent::TokenReplayDetected {
                    session: claims.sid.clone(),
                    jti: claims.jti.clone(),
                    opened_ip,
                    opened_user_agent,
                };
                self.record_replay(presented, event, Metadata::clone(&metadata)).await?;
                refused(TokenRefusal::Replay)
            }
        }
    }

    /// Appends the event before Redis is changed, so the session stays bound even if Redis loses data.
    async fn record_binding(
        &self,
        presented: &Presented,
        role: Role,
        mut metadata: Metadata,
    ) -> Result<(), AuthError> {
        let Claims { sub: username, sid, .. } = &presented.token.claims;
        let event = AccountEvent::SessionBound { session: sid.clone() };
        metadata.actor = Some(username.to_string());
        metadata.role = Some(role.to_string());
        metadata.session = Some(sid.clone());
        self.accounts.record(username, &[event], metadata).await?;
        self.sessions.bind(username, sid).await
    }

    /// If this fails, the next request of the session records the replay. Until then no request of the
    /// session is admitted.
    async fn record_replay(
        &self,
        presented: &Presented,
        event: AccountEvent,
        mut metadata: Metadata,
    ) -> Result<(), AuthError> {
        let Claims { sub: username, sid, jti, .. } = &presented.token.claims;
        metadata.session = Some(sid.clone());
        match self.accounts.record(username, &[event], metadata).await {
            Ok(()) => self.sessions.close(username, sid, jti).await.map(drop),
            Err(error) => {
                tracing::error!(
                    %username, %error,
                    "token replay: append failed, the session's next request retries"
                );
                Ok(())
            }
        }
    }
}
