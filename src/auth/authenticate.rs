//! Authentication of a request: token, session, cookie, rate; and what has to be recorded of them.

use super::core::Auth;
use super::error::AuthError;
use super::principal::{Cookie, Principal, Purpose};
use super::session::SessionCheck;
use super::token::Claims;
use crate::config::CookieBinding;
use crate::events::account::AccountEvent;
use crate::events::metadata::Metadata;

impl Auth {
    /// The principal of a request. Binds the session when the request brings the right cookie for the
    /// first time; [`AuthError::TokenReplay`] when the session is bound and the cookie is not the right
    /// one: the session is over then.
    pub async fn authenticate(
        &self,
        token: &str,
        cookie: Cookie<'_>,
        purpose: Purpose,
        metadata: &Metadata,
    ) -> Result<Principal, AuthError> {
        let claims =
            self.tokens.verify(token, self.clock.now()).ok_or(AuthError::Unauthenticated)?;
        let cookie = match cookie {
            Cookie::Absent => None,
            Cookie::One(value) => Some(value.to_owned()),
            Cookie::Several if self.binding == CookieBinding::Off => None,
            Cookie::Several => return Err(AuthError::Unauthenticated),
        };
        let metadata = metadata.clone();
        self.run_to_completion(|auth| async move {
            auth.check_session(claims, cookie, purpose, metadata).await
        })
        .await
    }

    async fn check_session(
        &self,
        claims: Claims,
        cookie: Option<String>,
        purpose: Purpose,
        metadata: Metadata,
    ) -> Result<Principal, AuthError> {
        let obeys_cookie = self.binding != CookieBinding::Off;
        match self.sessions.check(&claims, cookie.as_deref(), obeys_cookie, purpose).await? {
            SessionCheck::Open { role, bound_now } => {
                let Claims { sub: username, sid, jti, .. } = claims;
                let principal = Principal { username, role, sid, jti };
                if bound_now {
                    self.record_binding(&principal, metadata).await?;
                }
                Ok(principal)
            }
            SessionCheck::Closed => Err(AuthError::Unauthenticated),
            SessionCheck::Refused => Err(AuthError::TokenReplay),
            SessionCheck::Limited { wait } => Err(AuthError::Limited { retry_after: wait }),
            SessionCheck::Replayed { opened_ip, opened_user_agent } => {
                let event = AccountEvent::TokenReplayDetected {
                    session: claims.sid.clone(),
                    jti: claims.jti.clone(),
                    opened_ip,
                    opened_user_agent,
                };
                self.record_replay(&claims, event, metadata).await?;
                Err(AuthError::TokenReplay)
            }
        }
    }

    /// The session is bound whatever happens to Redis: the event is in the log first.
    async fn record_binding(
        &self,
        principal: &Principal,
        mut metadata: Metadata,
    ) -> Result<(), AuthError> {
        let Principal { username, role, sid, .. } = principal;
        let event = AccountEvent::SessionBound { session: sid.clone() };
        metadata.actor = Some(username.to_string());
        metadata.role = Some(role.to_string());
        metadata.session = Some(sid.clone());
        self.accounts.record(username, &[event], metadata).await?;
        self.sessions.bind(username, sid).await
    }

    /// If this does not complete, the next request of the session records the replay. No request of it
    /// is admitted meanwhile.
    async fn record_replay(
        &self,
        claims: &Claims,
        event: AccountEvent,
        mut metadata: Metadata,
    ) -> Result<(), AuthError> {
        let Claims { sub: username, sid, jti, .. } = claims;
        metadata.session = Some(sid.clone());
        match self.accounts.record(username, &[event], metadata).await {
            Ok(()) => self.sessions.close(username, sid, jti).await,
            Err(error) => {
                tracing::error!(%username, %error, "token replay: not recorded yet, retried on the next request");
                Ok(())
            }
        }
    }
}
