//! Sessions in Redis: an allow-list. Each decision is one script over the keys of one account, so it
//! is one round-trip time and two requests at once never decide against each other.
//!
//! Keys, all under the hash tag of the account: `session:SID` a hash (jti, role, cookie, bound, ip,
//! user_agent, created_at, expires_at), `sessions` a sorted set of the session ids by the time they expire,
//! `denied:JTI` a token that must not come back while its signature is good.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use redis::Script;

use super::store::{Store, StoreError};
use super::token::{Claims, LEEWAY_SECONDS};
use super::{CookieUse, Session};
use crate::events::values::{Role, Username};

/// Opens a session; over the limit the oldest ones end. Returns those as pairs of sid and jti.
///
/// `HSET` comes first: a Redis that is full refuses the first write of a script, but none that
/// follows one that it took. The set lives as long as the last of its sessions, also when another
/// process opened that for longer.
const OPEN: &str = r"
local session, sessions, prefix = KEYS[1], KEYS[2], KEYS[3]
local sid, over_since, expires = ARGV[1], ARGV[2], ARGV[3]
local keep, limit = tonumber(ARGV[4]), tonumber(ARGV[5])
redis.call('HSET', session, unpack(ARGV, 6))
redis.call('EXPIRE', session, keep)
redis.call('ZREMRANGEBYSCORE', sessions, '-inf', over_since)
local ended = {}
if limit > 0 then
    local over = redis.call('ZCARD', sessions) - limit
    -- A negative end would count from the back: below the limit there is nothing to end.
    for _, old in ipairs(over < 0 and {} or redis.call('ZRANGE', sessions, 0, over)) do
        local jti = redis.call('HGET', prefix .. old, 'jti')
        if jti then
            table.insert(ended, old)
            table.insert(ended, jti)
        end
        redis.call('DEL', prefix .. old)
        redis.call('ZREM', sessions, old)
    end
end
redis.call('ZADD', sessions, expires, sid)
redis.call('EXPIRE', sessions, math.max(keep, redis.call('TTL', sessions)))
return ended
";

/// Checks a session and binds it, or ends it when its token was replayed.
const CHECK: &str = r"
local session, sessions, denied = KEYS[1], KEYS[2], KEYS[3]
local sid, jti, cookie, obey, demanded = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local s = redis.call('HMGET', session, 'jti', 'role', 'cookie', 'bound', 'ip', 'user_agent')
if s[1] ~= jti or redis.call('EXISTS', denied) == 1 then return { 'closed' } end
local right = cookie ~= '' and cookie == s[3]
if obey == '1' then
    if right and s[4] ~= '1' then redis.call('HSET', session, 'bound', '1') end
    if not right and s[4] == '1' then
        local keep = redis.call('TTL', session)
        redis.call('DEL', session)
        redis.call('ZREM', sessions, sid)
        redis.call('SET', denied, '1', 'EX', math.max(keep, 1))
        return { 'replayed', s[5], s[6] }
    end
    if not right and cookie ~= '' then return { 'refused' } end
end
if not right and demanded == '1' then return { 'refused' } end
return { 'open', s[2] }
";

/// The role of an open session, and nothing else: it neither binds nor ends.
const ROLE: &str = r"
local s = redis.call('HMGET', KEYS[1], 'jti', 'role')
if s[1] ~= ARGV[1] or redis.call('EXISTS', KEYS[2]) == 1 then return false end
return s[2]
";

/// Ends one session and denies its token.
const CLOSE: &str = r"
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('SET', KEYS[3], '1', 'EX', ARGV[2])
return 1
";

/// Ends every session but one; returns those that ended as pairs of sid and jti.
const CLOSE_ALL: &str = r"
local sessions, prefix, except = KEYS[1], KEYS[2], ARGV[1]
local ended = {}
for _, sid in ipairs(redis.call('ZRANGE', sessions, 0, -1)) do
    if sid ~= except then
        local jti = redis.call('HGET', prefix .. sid, 'jti')
        if jti then
            table.insert(ended, sid)
            table.insert(ended, jti)
        end
        redis.call('DEL', prefix .. sid)
        redis.call('ZREM', sessions, sid)
    end
end
return ended
";

/// The sessions of all accounts.
pub struct Sessions {
    store: Store,
    /// Live sessions per account; 0 = no limit.
    limit: u32,
    open: Script,
    check: Script,
    role: Script,
    close: Script,
    close_all: Script,
}

/// What a session begins with.
pub(super) struct NewSession<'a> {
    pub claims: &'a Claims,
    pub role: Role,
    pub cookie: &'a str,
    pub bound: bool,
    pub ip: &'a str,
    pub user_agent: &'a str,
    pub ttl: Duration,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Checked {
    Open {
        role: Role,
    },
    /// Ended, or never there.
    Closed,
    /// The cookie that is demanded is missing, or it is another one, and the session is not bound:
    /// refused without ending it.
    Refused,
    /// A bound session's token without its cookie. The session is over.
    Replayed {
        opened_ip: String,
        opened_user_agent: String,
    },
}

/// Session id and token id.
type Ended = (String, String);

impl Sessions {
    #[must_use]
    pub fn new(store: Store, limit: u32) -> Self {
        Self {
            store,
            limit,
            open: Script::new(OPEN),
            check: Script::new(CHECK),
            role: Script::new(ROLE),
            close: Script::new(CLOSE),
            close_all: Script::new(CLOSE_ALL),
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
                    .arg(self.limit)
                    .arg(&["jti", &claims.jti])
                    .arg(&["role", new.role.as_str()])
                    .arg(&["cookie", &fingerprint(new.cookie)])
                    .arg(&["bound", if new.bound { "1" } else { "0" }])
                    .arg(&["ip", new.ip])
                    .arg(&["user_agent", new.user_agent])
                    .arg("created_at")
                    .arg(claims.iat)
                    .arg("expires_at")
                    .arg(claims.exp),
            )
            .await?;
        Ok(pairs(ended))
    }

    /// Checks the token's session; `obey` is false when cookies do not count.
    pub(super) async fn check(
        &self,
        claims: &Claims,
        cookie: Option<&str>,
        obey: bool,
        cookie_use: CookieUse,
    ) -> Result<Checked, StoreError> {
        let tag = claims.sub.as_str();
        let answer: Vec<Option<String>> = self
            .store
            .run(
                self.check
                    .key(self.session_key(&claims.sub, &claims.sid))
                    .key(self.store.key(tag, "sessions"))
                    .key(self.denied_key(&claims.sub, &claims.jti))
                    .arg(&claims.sid)
                    .arg(&claims.jti)
                    .arg(cookie.map(fingerprint).unwrap_or_default())
                    .arg(u8::from(obey))
                    .arg(u8::from(cookie_use == CookieUse::Demanded)),
            )
            .await?;
        let mut answer = answer.into_iter().map(Option::unwrap_or_default);
        let word = answer.next().unwrap_or_default();
        Ok(match word.as_str() {
            "open" => match Role::parse(&answer.next().unwrap_or_default()) {
                Ok(role) => Checked::Open { role },
                Err(_) => Checked::Closed,
            },
            "refused" => Checked::Refused,
            "replayed" => Checked::Replayed {
                opened_ip: answer.next().unwrap_or_default(),
                opened_user_agent: answer.next().unwrap_or_default(),
            },
            _ => Checked::Closed,
        })
    }

    /// The role of the session if it is open.
    pub(super) async fn role(&self, of: &Session) -> Result<Option<Role>, StoreError> {
        let role: Option<String> = self
            .store
            .run(
                self.role
                    .key(self.session_key(&of.username, &of.sid))
                    .key(self.denied_key(&of.username, &of.jti))
                    .arg(&of.jti),
            )
            .await?;
        Ok(role.and_then(|role| Role::parse(&role).ok()))
    }

    /// Ends it; ending it twice is no error.
    pub(super) async fn close(
        &self,
        username: &Username,
        sid: &str,
        jti: &str,
    ) -> Result<(), StoreError> {
        self.store
            .run(
                self.close
                    .key(self.session_key(username, sid))
                    .key(self.store.key(username.as_str(), "sessions"))
                    .key(self.denied_key(username, jti))
                    .arg(sid)
                    .arg(DENY_SECONDS),
            )
            .await
    }

    /// Ends all but `except` and returns those that ended.
    pub(super) async fn close_all(
        &self,
        username: &Username,
        except: Option<&str>,
    ) -> Result<Vec<Ended>, StoreError> {
        let ended: Vec<String> = self
            .store
            .run(
                self.close_all
                    .key(self.store.key(username.as_str(), "sessions"))
                    .key(self.session_key(username, ""))
                    .arg(except.unwrap_or_default()),
            )
            .await?;
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

fn pairs(flat: Vec<String>) -> Vec<Ended> {
    let mut flat = flat.into_iter();
    let mut pairs = Vec::new();
    while let (Some(sid), Some(jti)) = (flat.next(), flat.next()) {
        pairs.push((sid, jti));
    }
    pairs
}
