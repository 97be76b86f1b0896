//! A request: is its session open, is its cookie the right one, and what has to be recorded of that.

use std::sync::Arc;

use super::session::Checked;
use super::token::Claims;
use super::{AuthError, Inner, Purpose, Session};
use crate::config::CookieBinding;
use crate::events::account::AccountEvent;
use crate::events::metadata::Metadata;

impl Inner {
    /// The session that these claims and this cookie open.
    pub(super) async fn admitted(
        self: Arc<Self>,
        claims: Claims,
        cookie: Option<String>,
        purpose: Purpose,
        mut metadata: Metadata,
    ) -> Result<Session, AuthError> {
        let obey = self.binding != CookieBinding::Off;
        let cookie = cookie.as_deref();
        let (sessions, asked) = (&self.sessions, &claims);
        let check = |runs: Arc<str>| async move {
            sessions.check(asked, cookie, obey, purpose, &runs).await
        };
        match self.believed(check).await? {
            Checked::Open { role, bound_now } => {
                if bound_now {
                    // It is bound whatever becomes of Redis.
                    let event = AccountEvent::SessionBound { session: claims.sid.clone() };
                    metadata.actor = Some(claims.sub.to_string());
                    metadata.role = Some(role.to_string());
                    metadata.session = Some(claims.sid.clone());
                    self.accounts.record(&claims.sub, &[event], metadata).await?;
                    let bind = |runs: Arc<str>| async move {
                        sessions.bind(&asked.sub, &asked.sid, &runs).await
                    };
                    self.believed(bind).await?;
                }
                Ok(Session { username: claims.sub, role, sid: claims.sid, jti: claims.jti })
            }
            Checked::Closed => Err(AuthError::Unauthenticated),
            Checked::Refused => Err(AuthError::TokenReplay),
            Checked::Limited { wait } => Err(AuthError::Limited { retry_after: wait }),
            Checked::Replayed { opened_ip, opened_user_agent } => {
                let Claims { sub, sid, jti, .. } = claims;
                let event = AccountEvent::TokenReplayDetected {
                    session: sid.clone(),
                    jti: jti.clone(),
                    opened_ip,
                    opened_user_agent,
                };
                metadata.session = Some(sid.clone());
                // Whoever asks next records it if this does not come to its end. Nobody is let in.
                match self.accounts.record(&sub, &[event], metadata).await {
                    Ok(()) => {
                        let (sub, sid, jti) = (&sub, &sid, &jti);
                        let close = |runs: Arc<str>| async move {
                            sessions.close(sub, sid, jti, &runs).await
                        };
                        self.believed(close).await?;
                    }
                    Err(error) => {
                        tracing::error!(username = %sub, %error, "a token replay is not in the log yet");
                    }
                }
                Err(AuthError::TokenReplay)
            }
        }
    }
}
