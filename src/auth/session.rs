//! Sessions in Redis: an allow-list. Each operation is one script over the keys of one account: one round
//! trip, and atomic. All but `open` are fenced: they do nothing outside the given epochs.
//!
//! Keys, all under the hash tag of the account: `session:SID` a hash (jti, role, cookie, bound,
//! changed, ip, user_agent, created_at, expires_at, and client_id if a service key opened it), `sessions` a sorted set of the session ids by the
//! time they expire, `denied:JTI` a revoked token, kept as long as its signature may be valid, `changed`
//! the position of the account's last change that ended its sessions (a session that was opened at an
//! older state of the account has ended), `opened` the rate limit of its log-ins, `rate` that of its
//! requests, and `rate:SID` that of one session's requests that manage sessions.
//!
//! The work of every script is bounded: what grows with the number of sessions is done in steps.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use redis::Script;

use super::principal::Principal;
use super::redis::client::{RedisClient, RedisClientError};
use super::redis::epoch::{fenced_script, parse_reply};
use super::redis::scripts;
use super::token::{Claims, LEEWAY_SECONDS};
use crate::events::account_key::ClientId;
use crate::events::values::{Role, Username};

/// The most sessions that are listed: no account has more (`CUSTOMERS_SESSION_LIMIT`).
const SESSIONS_MAX: u32 = 1000;

/// How many sessions one script reads or ends.
const STEP: usize = 100;

/// The limits of one account; 0 = no limit, except for `live`.
#[derive(Debug, Clone, Copy, Default)]
pub struct SessionLimits {
    /// Live sessions per account, at least 1.
    pub live: u32,
    /// Log-ins per minute that open a session, over all processes.
    pub log_ins: u32,
    /// Requests per second, over all its sessions and all processes.
    pub requests: u32,
}

/// The sessions of all accounts.
pub struct Sessions {
    pub(super) client: RedisClient,
    pub(super) limits: SessionLimits,
    open: Script,
    pub(super) check: Script,
    role: Script,
    list: Script,
    read: Script,
    bind: Script,
    close: Script,
    close_all: Script,
}

/// A session to open.
pub(super) struct NewSession<'a> {
    pub claims: &'a Claims,
    pub role: Role,
    /// The position of the account's last change when its password was checked.
    pub changed: i64,
    pub client: Client<'a>,
    pub ip: &'a str,
    pub user_agent: &'a str,
    pub ttl: Duration,
}

/// What opens a session, and how its requests show that its token has not moved.
#[derive(Debug, Clone, Copy)]
pub(super) enum Client<'a> {
    /// A log-in: by the cookie, once the session is bound to it.
    Cookie { value: &'a str, bound: bool },
    /// A service key: by nothing. No cookie is right for the session, so it is never bound.
    Key(ClientId),
}

/// An open session, as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenSession {
    pub sid: String,
    pub(super) jti: String,
    /// In seconds since 1970.
    pub created_at: i64,
    pub expires_at: i64,
    pub ip: String,
    pub user_agent: String,
    /// The service key that opened it; `None` for a log-in.
    pub client_id: Option<ClientId>,
}

/// The result of a log-in's attempt to open a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Opening {
    /// `ended` are the sessions over the limit.
    Opened { ended: Vec<Ended> },
    /// The account has opened too many sessions in the last minute.
    Limited { wait: Duration },
}

/// Session id and token id.
pub(super) type Ended = (String, String);

impl Sessions {
    #[must_use]
    pub fn new(client: RedisClient, limits: SessionLimits) -> Self {
        Self {
            client,
            limits,
            open: Script::new(scripts::OPEN_SESSION),
            check: fenced_script(scripts::CHECK_SESSION_AND_COOKIE),
            role: fenced_script(scripts::READ_SESSION_ROLE),
            list: fenced_script(scripts::LIST_SESSIONS),
            read: fenced_script(scripts::READ_SESSIONS),
            bind: fenced_script(scripts::BIND_SESSION),
            close: fenced_script(scripts::CLOSE_SESSION),
            close_all: fenced_script(scripts::CLOSE_ACCOUNT_SESSIONS),
        }
    }

    /// Opens a session, and ends the oldest ones over the limit.
    pub(super) async fn open(&self, new: NewSession<'_>) -> Result<Opening, RedisClientError> {
        let claims = new.claims;
        let keep = new.ttl.as_secs() + LEEWAY_SECONDS.unsigned_abs();
        let tag = claims.sub.as_str();
        let (cookie, bound) = match new.client {
            Client::Cookie { value, bound } => (fingerprint(value), bound),
            Client::Key(_) => (String::new(), false),
        };
        let mut invocation = self.open.key(self.session_key(&claims.sub, &claims.sid));
        invocation
            .key(self.client.key(tag, "sessions"))
            .key(self.session_key(&claims.sub, ""))
            .key(self.client.key(tag, OPENED))
            .arg(&claims.sid)
            .arg(claims.iat - LEEWAY_SECONDS)
            .arg(claims.exp)
            .arg(keep)
            .arg(self.limits.live)
            .arg(STEP)
            .arg(self.limits.log_ins)
            .arg(&["jti", &claims.jti])
            .arg(&["role", new.role.as_str()])
            .arg(&["cookie", &cookie])
            .arg(&["bound", if bound { "1" } else { "0" }])
            .arg(&["ip", new.ip])
            .arg(&["user_agent", new.user_agent])
            .arg("changed")
            .arg(new.changed)
            .arg("created_at")
            .arg(claims.iat)
            .arg("expires_at")
            .arg(claims.exp);
        if let Client::Key(client_id) = new.client {
            invocation.arg("client_id").arg(client_id.to_string());
        }
        let mut all_ended = vec![];
        loop {
            let reply: Vec<String> = self.client.run(&invocation).await?;
            let mut reply = reply.into_iter();
            let (outcome, detail) = (reply.next(), reply.next().unwrap_or_default());
            if outcome.as_deref() == Some("limited") {
                return Ok(Opening::Limited { wait: micros(&detail) });
            }
            all_ended.extend(pairs(reply));
            if detail != "more" {
                return Ok(Opening::Opened { ended: all_ended });
            }
        }
    }

    /// The role of the session; `None` if it is not open.
    pub(super) async fn role(
        &self,
        of: &Principal,
        epochs: &str,
    ) -> Result<Option<Role>, RedisClientError> {
        let reply = self
            .client
            .run(
                self.role
                    .key(self.session_key(of.username(), of.sid()))
                    .key(self.denied_key(of.username(), of.jti()))
                    .key(self.client.key(of.username().as_str(), "changed"))
                    .arg(of.jti())
                    .arg(epochs),
            )
            .await?;
        let (_, mut rest) = parse_reply(reply)?;
        Ok(rest.next().and_then(|role| Role::parse(&role).ok()))
    }

    /// The account's sessions that are open at `now` (seconds since 1970), oldest first; at most
    /// [`SESSIONS_MAX`].
    pub(super) async fn list(
        &self,
        username: &Username,
        now: i64,
        epochs: &str,
    ) -> Result<Vec<OpenSession>, RedisClientError> {
        let tag = username.as_str();
        let reply = self
            .client
            .run(
                self.list
                    .key(self.client.key(tag, "sessions"))
                    .arg(now - LEEWAY_SECONDS)
                    .arg(SESSIONS_MAX)
                    .arg(epochs),
            )
            .await?;
        let (_, ids) = parse_reply(reply)?;
        let ids: Vec<String> = ids.collect();
        let mut found = Vec::with_capacity(ids.len());
        for step in ids.chunks(STEP) {
            let mut invocation = self.read.key(self.session_key(username, ""));
            invocation.key(self.client.key(tag, "changed")).arg(step).arg(epochs);
            let (_, mut rest) = parse_reply(self.client.run(&invocation).await?)?;
            while let Some(sid) = rest.next() {
                let mut next = || rest.next().unwrap_or_default();
                let jti = next();
                let (created_at, expires_at) = (next().parse(), next().parse());
                let (created_at, expires_at) = (created_at.unwrap_or(0), expires_at.unwrap_or(0));
                let (ip, user_agent) = (next(), next());
                let client_id = ClientId::parse(&next()).ok();
                found.push(OpenSession {
                    sid,
                    jti,
                    created_at,
                    expires_at,
                    ip,
                    user_agent,
                    client_id,
                });
            }
        }
        // Session ids sort by time.
        found.sort_by(|a, b| a.sid.cmp(&b.sid));
        Ok(found)
    }

    /// Binds the session to its cookie, if it is open. Idempotent.
    pub(super) async fn bind(
        &self,
        username: &Username,
        sid: &str,
        epochs: &str,
    ) -> Result<(), RedisClientError> {
        let key = self.session_key(username, sid);
        let reply = self.client.run(self.bind.key(key).arg(epochs)).await?;
        parse_reply(reply).map(drop)
    }

    /// Ends a session and denies its token. Idempotent; returns whether this call has ended it.
    pub(super) async fn close(
        &self,
        username: &Username,
        sid: &str,
        jti: &str,
        epochs: &str,
    ) -> Result<bool, RedisClientError> {
        let reply = self
            .client
            .run(
                self.close
                    .key(self.session_key(username, sid))
                    .key(self.client.key(username.as_str(), "sessions"))
                    .key(self.denied_key(username, jti))
                    .arg(sid)
                    .arg(DENY_SECONDS)
                    .arg(epochs),
            )
            .await?;
        let (_, mut rest) = parse_reply(reply)?;
        Ok(rest.next().as_deref() == Some("1"))
    }

    /// Ends the sessions that were opened before the account's change at `position`, and returns them.
    /// `except`, a session id with the position of the previous change, stays open unless that previous
    /// change should have ended it.
    pub(super) async fn close_all(
        &self,
        username: &Username,
        except: Option<(&str, i64)>,
        position: i64,
        epochs: &str,
    ) -> Result<Vec<Ended>, RedisClientError> {
        let (except, previous) = except.unwrap_or_default();
        let (mut rank, mut all_ended) = ("0".to_owned(), vec![]);
        loop {
            let reply = self
                .client
                .run(
                    self.close_all
                        .key(self.client.key(username.as_str(), "sessions"))
                        .key(self.session_key(username, ""))
                        .key(self.client.key(username.as_str(), "changed"))
                        .arg(except)
                        .arg(previous)
                        .arg(position)
                        .arg(DENY_SECONDS)
                        .arg(&rank)
                        .arg(STEP)
                        .arg(epochs),
                )
                .await?;
            let (_, mut ended) = parse_reply(reply)?;
            rank = ended.next().unwrap_or_default();
            all_ended.extend(pairs(ended));
            if rank.is_empty() {
                return Ok(all_ended);
            }
        }
    }

    /// Ends the sessions that a service key has opened, and returns those that this call has ended. The key is gone by
    /// then: a session that it opens meanwhile is ended before its token is sent.
    pub(super) async fn close_key(
        &self,
        username: &Username,
        client_id: ClientId,
        epochs: &str,
    ) -> Result<Vec<Ended>, RedisClientError> {
        let mut ended = vec![];
        // Those that have expired, too: this has no clock.
        for open in self.list(username, 0, epochs).await? {
            if open.client_id == Some(client_id)
                && self.close(username, &open.sid, &open.jti, epochs).await?
            {
                ended.push((open.sid, open.jti));
            }
        }
        Ok(ended)
    }

    pub(super) fn session_key(&self, username: &Username, sid: &str) -> String {
        self.client.key(username.as_str(), &format!("session:{sid}"))
    }

    pub(super) fn denied_key(&self, username: &Username, jti: &str) -> String {
        self.client.key(username.as_str(), &format!("denied:{jti}"))
    }
}

/// How long a token is denied: longer than any token lives, leeway included.
const DENY_SECONDS: i64 = super::token::LIFETIME_MAX_SECONDS + 2 * LEEWAY_SECONDS;

/// The SHA-256 of a cookie, in base64url: Redis never holds the secret, and the time that a comparison
/// of two fingerprints takes reveals nothing of the secrets.
pub(super) fn fingerprint(cookie: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, cookie.as_bytes()))
}

/// The key of the rate limit of log-ins, after the hash tag of the account.
pub(super) const OPENED: &str = "opened";

/// A time span in microseconds, as a script returns it.
pub(super) fn micros(text: &str) -> Duration {
    Duration::from_micros(text.parse().unwrap_or_default())
}

fn pairs(mut flat: impl Iterator<Item = String>) -> Vec<Ended> {
    let mut pairs = Vec::new();
    while let (Some(sid), Some(jti)) = (flat.next(), flat.next()) {
        pairs.push((sid, jti));
    }
    pairs
}
