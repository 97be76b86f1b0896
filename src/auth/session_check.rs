//! The check of the session of a request: whether it is open, its cookie, and the limit of its account.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use super::principal::Purpose;
use super::redis::client::RedisClientError;
use super::redis::epoch::parse_reply;
use super::session::{Sessions, fingerprint, micros};
use super::token::{Claims, Verified};
use crate::events::values::Role;

/// How many requests per second a session may send to list and end sessions, if requests are limited.
const MANAGEMENT_RATE: u32 = 20;

/// What a request is checked by. Requests that present the same are checked together.
#[derive(Debug)]
pub(super) struct Presented {
    pub token: Arc<Verified>,
    pub cookie: Option<GivenCookie>,
    pub purpose: Purpose,
}

/// A token is verified once, so requests share it.
impl PartialEq for Presented {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.token, &other.token)
            && self.cookie == other.cookie
            && self.purpose == other.purpose
    }
}

impl Eq for Presented {}

impl Hash for Presented {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.token).hash(state);
    }
}

/// The cookie of a request to check.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct GivenCookie {
    value: String,
    /// Whether this installation has made it. Another one that is not the session's counts for nothing.
    pub is_own: bool,
}

impl GivenCookie {
    pub fn new(value: &str, is_own: bool) -> Self {
        Self { value: value.to_owned(), is_own }
    }
}

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SessionCheck {
    Open {
        role: Role,
        /// The request brought its cookie for the first time.
        bound_now: bool,
    },
    /// The session has ended or never existed.
    Closed,
    /// The session is not bound, and the cookie is that of another session, or the required one is missing.
    /// The session stays open.
    Refused,
    /// The account is over its limit.
    Limited { wait: Duration },
    /// A bound session's token came without its cookie, which ended the session.
    Replayed { opened_ip: String, opened_user_agent: String },
}

impl Sessions {
    /// Checks the session of so many requests, as if one came after the other, and their cookie if
    /// `enforces_binding`. The results are in the order of the requests.
    pub(super) async fn check(
        &self,
        presented: &Presented,
        requests: usize,
        enforces_binding: bool,
        epochs: &str,
    ) -> Result<Vec<SessionCheck>, RedisClientError> {
        let Presented { token, cookie, purpose } = presented;
        let Claims { sub: username, sid, jti, .. } = &token.claims;
        let fingerprint = cookie.as_ref().map(|cookie| fingerprint(&cookie.value));
        let tag = username.as_str();
        let (rate, limit) = match purpose {
            Purpose::Access | Purpose::CookieProof => ("rate".to_owned(), self.limits.requests),
            Purpose::SessionManagement => {
                (format!("rate:{sid}"), self.limits.requests.min(MANAGEMENT_RATE))
            }
            Purpose::Logout => ("rate".to_owned(), 0),
        };
        let reply = self
            .client
            .run(
                self.check
                    .key(self.session_key(username, sid))
                    .key(self.client.key(tag, "sessions"))
                    .key(self.denied_key(username, jti))
                    .key(self.client.key(tag, "changed"))
                    .key(self.client.key(tag, &rate))
                    .arg(sid)
                    .arg(jti)
                    .arg(fingerprint.unwrap_or_default())
                    .arg(u8::from(cookie.as_ref().is_some_and(|cookie| cookie.is_own)))
                    .arg(u8::from(enforces_binding))
                    .arg(u8::from(*purpose == Purpose::CookieProof))
                    .arg(limit)
                    .arg(requests)
                    .arg(epochs),
            )
            .await?;
        let (outcome, mut rest) = parse_reply(reply)?;
        let mut next = || rest.next().unwrap_or_default();
        let (first, admitted, others) = match outcome.as_str() {
            "open" | "bound" => match Role::parse(&next()) {
                Ok(role) => (
                    SessionCheck::Open { role, bound_now: outcome == "bound" },
                    next().parse().unwrap_or(0),
                    SessionCheck::Open { role, bound_now: false },
                ),
                Err(_) => (SessionCheck::Closed, requests, SessionCheck::Closed),
            },
            "refused" => (SessionCheck::Refused, requests, SessionCheck::Refused),
            "limited" => (SessionCheck::Closed, 0, SessionCheck::Closed),
            "replayed" => (
                SessionCheck::Replayed { opened_ip: next(), opened_user_agent: next() },
                requests,
                SessionCheck::Closed,
            ),
            _ => (SessionCheck::Closed, requests, SessionCheck::Closed),
        };
        let limited = SessionCheck::Limited { wait: micros(&next()) };
        let mut checks = Vec::with_capacity(requests);
        checks.push(first);
        checks.resize(admitted, others);
        checks.resize(requests, limited);
        Ok(checks)
    }
}
