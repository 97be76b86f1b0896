//! Authentication of a request: token, session, cookie and rate, and the events that result.

use uuid::Uuid;

use super::components::Auth;
use super::error::AuthError;
use super::principal::{Cookie, Principal, Purpose};
use super::session::{GivenCookie, SessionCheck};
use super::token::Claims;
use crate::config::CookieBinding;
use crate::events::account::AccountEvent;
use crate::events::metadata::Metadata;

impl Auth {
    /// The principal of a request. The first request that brings the right cookie binds the session. If
    /// the session is bound and the right cookie is missing, ends the session and fails with
    /// [`AuthError::TokenReplay`]. An unbound session stays open: [`AuthError::OtherCookie`] for the cookie of
    /// another session, [`AuthError::CookieRequired`] without the cookie that the purpose requires.
    pub async fn authenticate(
        &self,
        token: &str,
        cookie: Cookie<'_>,
        purpose: Purpose,
        metadata: &Metadata,
    ) -> Result<Principal, AuthError> {
        let (kid, claims) =
            self.tokens.verify(token, self.clock.now()).ok_or(AuthError::Unauthenticated)?;
        let cookie = match cookie {
            Cookie::Absent => None,
            Cookie::Own(value) => Some(GivenCookie::new(value, true)),
            Cookie::Earlier(value) => Some(GivenCookie::new(value, false)),
            Cookie::Several if self.binding == CookieBinding::Off => None,
            Cookie::Several => return Err(AuthError::Unauthenticated),
        };
        let metadata = metadata.clone();
        self.run_to_completion(|auth| async move {
            auth.check_session((kid, claims), cookie, purpose, metadata).await
        })
        .await
    }

    async fn check_session(
        &self,
        (kid, claims): (Uuid, Claims),
        cookie: Option<GivenCookie>,
        purpose: Purpose,
        metadata: Metadata,
    ) -> Result<Principal, AuthError> {
        let enforces_binding = self.binding != CookieBinding::Off;
        match self.sessions.check(&claims, cookie.as_ref(), enforces_binding, purpose).await? {
            SessionCheck::Open { role, bound_now } => {
                let Claims { sub: username, sid, jti, .. } = claims;
                let principal = Principal { username, role, sid, jti, kid };
                if bound_now {
                    self.record_binding(&principal, metadata).await?;
                }
                Ok(principal)
            }
            SessionCheck::Closed => Err(AuthError::Unauthenticated),
            SessionCheck::Refused if cookie.is_some_and(|cookie| cookie.is_own) => {
                Err(AuthError::OtherCookie)
            }
            SessionCheck::Refused => Err(AuthError::CookieRequired),
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

    /// Appends the event before Redis is changed, so the session stays bound even if Redis loses data.
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

    /// If this fails, the next request of the session records the replay. Until then no request of the
    /// session is admitted.
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
                tracing::error!(
                    %username, %error,
                    "token replay: append failed, the session's next request retries"
                );
                Ok(())
            }
        }
    }
}
