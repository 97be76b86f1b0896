//! Sessions in Redis: an allow-list. Each decision is one script over the keys of one account, so it
//! is one round-trip time and two requests at once never decide against each other.
//!
//! Keys, all under the hash tag of the account: `session:SID` a hash (jti, role, cookie, bound,
//! changed, ip, user_agent, created_at, expires_at), `sessions` a sorted set of the session ids by the
//! time they expire, `denied:JTI` a token that must not come back while its signature is good,
//! `changed` the position of the account's last change that ended its sessions: one that was opened on
//! an older state of the account is over; `rate` how much it has asked, and `rate:SID`
//! how much one session has asked about sessions.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use redis::Script;

use super::runs::{behind_run, taken_apart};
use super::scripts;
use super::store::{Store, StoreError};
use super::token::{Claims, LEEWAY_SECONDS};
use super::{Purpose, Session};
use crate::events::values::{Role, Username};

/// What one account may have and do; 0 = no limit.
#[derive(Debug, Clone, Copy, Default)]
pub struct SessionLimits {
    /// Live sessions.
    pub live: u32,
    /// Requests per second, of all its sessions and to all processes together.
    pub requests: u32,
}

/// The sessions of all accounts.
pub struct Sessions {
    store: Store,
    limits: SessionLimits,
    open: Script,
    check: Script,
    role: Script,
    list: Script,
    bind: Script,
    close: Script,
    close_all: Script,
}

/// What a session begins with.
pub(super) struct NewSession<'a> {
    pub claims: &'a Claims,
    pub role: Role,
    /// The position of the account's last change that was known when its password was checked.
    pub changed: i64,
    pub cookie: &'a str,
    pub bound: bool,
    pub ip: &'a str,
    pub user_agent: &'a str,
    pub ttl: Duration,
}

/// An open session, as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    pub sid: String,
    pub(super) jti: String,
    /// In seconds since 1970.
    pub created_at: i64,
    pub expires_at: i64,
    pub ip: String,
    pub user_agent: String,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Checked {
    Open {
        role: Role,
        /// Its cookie was seen for the first time.
        bound_now: bool,
    },
    /// Ended, or never there.
    Closed,
    /// The cookie that is demanded is missing, or it is another one, and the session is not bound:
    /// refused without ending it.
    Refused,
    /// The account asks too much.
    Limited { wait: Duration },
    /// A bound session's token without its cookie. The session is over.
    Replayed { opened_ip: String, opened_user_agent: String },
}

/// Session id and token id.
pub(super) type Ended = (String, String);

impl Sessions {
    #[must_use]
    pub fn new(store: Store, limits: SessionLimits) -> Self {
        Self {
            store,
            limits,
            open: Script::new(scripts::OPEN),
            check: behind_run(scripts::CHECK),
            role: behind_run(scripts::ROLE),
            list: behind_run(scripts::LIST),
            bind: behind_run(scripts::BIND),
            close: behind_run(scripts::CLOSE),
            close_all: behind_run(scripts::CLOSE_ALL),
        }
    }

    /// Opens it and returns those that ended for it.
    pub(super) async fn open(&self, new: NewSession<'_>) -> Result<Vec<Ended>, StoreError> {
        let claims = new.claims;
        let keep = new.ttl.as_secs() + LEEWAY_SECONDS.unsigned_abs();
        let tag = claims.sub.as_str();
        let ended: Vec<String> = self
            .store
            .run(
                self.open
                    .key(self.session_key(&claims.sub, &claims.sid))
                    .key(self.store.key(tag, "sessions"))
                    .key(self.session_key(&claims.sub, ""))
                    .arg(&claims.sid)
                    .arg(claims.iat - LEEWAY_SECONDS)
                    .arg(claims.exp)
                    .arg(keep)
                    .arg(self.limits.live)
                    .arg(&["jti", &claims.jti])
                    .arg(&["role", new.role.as_str()])
                    .arg(&["cookie", &fingerprint(new.cookie)])
                    .arg(&["bound", if new.bound { "1" } else { "0" }])
                    .arg(&["ip", new.ip])
                    .arg(&["user_agent", new.user_agent])
                    .arg("changed")
                    .arg(new.changed)
                    .arg("created_at")
                    .arg(claims.iat)
                    .arg("expires_at")
                    .arg(claims.exp),
            )
            .await?;
        Ok(pairs(ended.into_iter()))
    }

    /// Checks the token's session; `obey` is false when cookies do not count.
    pub(super) async fn check(
        &self,
        claims: &Claims,
        cookie: Option<&str>,
        obey: bool,
        purpose: Purpose,
        believed: &str,
    ) -> Result<Checked, StoreError> {
        let tag = claims.sub.as_str();
        let (rate, limit) = match purpose {
            Purpose::Work | Purpose::ShowCookie => ("rate".to_owned(), self.limits.requests),
            Purpose::OwnSessions => (format!("rate:{}", claims.sid), self.limits.requests),
            Purpose::Leave => ("rate".to_owned(), 0),
        };
        let answer = self
            .store
            .run(
                self.check
                    .key(self.session_key(&claims.sub, &claims.sid))
                    .key(self.store.key(tag, "sessions"))
                    .key(self.denied_key(&claims.sub, &claims.jti))
                    .key(self.store.key(tag, "changed"))
                    .key(self.store.key(tag, &rate))
                    .arg(&claims.sid)
                    .arg(&claims.jti)
                    .arg(cookie.map(fingerprint).unwrap_or_default())
                    .arg(u8::from(obey))
                    .arg(u8::from(purpose == Purpose::ShowCookie))
                    .arg(limit)
                    .arg(believed),
            )
            .await?;
        let (word, mut rest) = taken_apart(answer)?;
        let mut next = || rest.next().unwrap_or_default();
        Ok(match word.as_str() {
            "open" | "bound" => match Role::parse(&next()) {
                Ok(role) => Checked::Open { role, bound_now: word == "bound" },
                Err(_) => Checked::Closed,
            },
            "refused" => Checked::Refused,
            "limited" => {
                let wait = Duration::from_micros(next().parse().unwrap_or_default());
                Checked::Limited { wait }
            }
            "replayed" => Checked::Replayed { opened_ip: next(), opened_user_agent: next() },
            _ => Checked::Closed,
        })
    }

    /// The role of the session if it is open.
    pub(super) async fn role(
        &self,
        of: &Session,
        believed: &str,
    ) -> Result<Option<Role>, StoreError> {
        let answer = self
            .store
            .run(
                self.role
                    .key(self.session_key(&of.username, &of.sid))
                    .key(self.denied_key(&of.username, &of.jti))
                    .key(self.store.key(of.username.as_str(), "changed"))
                    .arg(&of.jti)
                    .arg(believed),
            )
            .await?;
        let (_, mut rest) = taken_apart(answer)?;
        Ok(rest.next().and_then(|role| Role::parse(&role).ok()))
    }

    /// The account's sessions that are open at `now` (seconds since 1970), oldest first.
    pub(super) async fn list(
        &self,
        username: &Username,
        now: i64,
        believed: &str,
    ) -> Result<Vec<Open>, StoreError> {
        let answer = self
            .store
            .run(
                self.list
                    .key(self.store.key(username.as_str(), "sessions"))
                    .key(self.session_key(username, ""))
                    .key(self.store.key(username.as_str(), "changed"))
                    .arg(now - LEEWAY_SECONDS)
                    .arg(believed),
            )
            .await?;
        let (_, mut rest) = taken_apart(answer)?;
        let mut found = Vec::new();
        while let Some(sid) = rest.next() {
            let mut next = || rest.next().unwrap_or_default();
            let jti = next();
            let (created_at, expires_at) = (next().parse(), next().parse());
            let (created_at, expires_at) = (created_at.unwrap_or(0), expires_at.unwrap_or(0));
            found.push(Open { sid, jti, created_at, expires_at, ip: next(), user_agent: next() });
        }
        // Their ids are in the order of time.
        found.sort_by(|a, b| a.sid.cmp(&b.sid));
        Ok(found)
    }

    /// Binds the session to its cookie if it is there.
    pub(super) async fn bind(
        &self,
        username: &Username,
        sid: &str,
        runs: &str,
    ) -> Result<(), StoreError> {
        let key = self.session_key(username, sid);
        let answer = self.store.run(self.bind.key(key).arg(runs)).await?;
        taken_apart(answer).map(drop)
    }

    /// Ends it; ending it twice is no error.
    pub(super) async fn close(
        &self,
        username: &Username,
        sid: &str,
        jti: &str,
        runs: &str,
    ) -> Result<(), StoreError> {
        let answer = self
            .store
            .run(
                self.close
                    .key(self.session_key(username, sid))
                    .key(self.store.key(username.as_str(), "sessions"))
                    .key(self.denied_key(username, jti))
                    .arg(sid)
                    .arg(DENY_SECONDS)
                    .arg(runs),
            )
            .await?;
        taken_apart(answer).map(drop)
    }

    /// Ends all that were opened before the account's change at `position`, and returns those that ended;
    /// but `except`, if it knew of the change before.
    pub(super) async fn close_all(
        &self,
        username: &Username,
        except: Option<(&str, i64)>,
        position: i64,
        runs: &str,
    ) -> Result<Vec<Ended>, StoreError> {
        let (except, previous) = except.unwrap_or_default();
        let answer = self
            .store
            .run(
                self.close_all
                    .key(self.store.key(username.as_str(), "sessions"))
                    .key(self.session_key(username, ""))
                    .key(self.store.key(username.as_str(), "changed"))
                    .arg(except)
                    .arg(previous)
                    .arg(position)
                    .arg(DENY_SECONDS)
                    .arg(runs),
            )
            .await?;
        let (_, ended) = taken_apart(answer)?;
        Ok(pairs(ended))
    }

    fn session_key(&self, username: &Username, sid: &str) -> String {
        self.store.key(username.as_str(), &format!("session:{sid}"))
    }

    fn denied_key(&self, username: &Username, jti: &str) -> String {
        self.store.key(username.as_str(), &format!("denied:{jti}"))
    }
}

/// How long a token is denied: longer than any can live, leeway included.
const DENY_SECONDS: i64 = super::token::LIFETIME_MAX_SECONDS + 2 * LEEWAY_SECONDS;

/// The SHA-256 of a cookie, in base64url: Redis never holds the secret itself, and how long the
/// comparison of two fingerprints takes tells nothing of the secrets behind them.
fn fingerprint(cookie: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, cookie.as_bytes()))
}

fn pairs(mut flat: impl Iterator<Item = String>) -> Vec<Ended> {
    let mut pairs = Vec::new();
    while let (Some(sid), Some(jti)) = (flat.next(), flat.next()) {
        pairs.push((sid, jti));
    }
    pairs
}
