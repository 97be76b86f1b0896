//! Failed log-ins, counted per account and per address in windows of a minute, in Redis, so that all
//! processes count together. Successes never count. Who meets the limit again and again waits twice as
//! long each time, up to a quarter of an hour: never for ever, so that nobody can lock out another.

use std::time::Duration;

use redis::Script;

use super::store::{Store, StoreError};
use crate::events::account::ThrottledBy;
use crate::events::values::Username;

/// How long failures are counted together, and how long who met the limit waits for the first time, in
/// seconds; the longest wait; and how long it is remembered how often the limit was met.
const WINDOW_SECONDS: u32 = 60;
const WAIT_MAX_SECONDS: u32 = 15 * 60;
const REMEMBERED_SECONDS: u32 = 60 * 60;

/// Failures so far and seconds left of the window.
const ASK: &str = r"
return { tonumber(redis.call('GET', KEYS[1]) or '0'), redis.call('TTL', KEYS[1]) }
";

/// One more failure; the window opens with the first. The one that meets the limit makes it longer.
const COUNT: &str = r"
local limit, window, most, remembered = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local failures = redis.call('INCR', KEYS[1])
if failures == 1 then redis.call('EXPIRE', KEYS[1], window) end
if failures == limit then
    local times = redis.call('INCR', KEYS[2])
    redis.call('EXPIRE', KEYS[2], remembered)
    redis.call('EXPIRE', KEYS[1], math.min(window * 2 ^ (times - 1), most))
end
return failures
";

/// Counts failed log-ins.
pub struct Throttle {
    store: Store,
    limit: i64,
    ask: Script,
    count: Script,
}

/// Whether a log-in may be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Go,
    Wait(Duration),
}

impl Throttle {
    /// `limit` failures per window, account and address; 0 = no limit.
    #[must_use]
    pub fn new(store: Store, limit: u32) -> Self {
        Self { store, limit: limit.into(), ask: Script::new(ASK), count: Script::new(COUNT) }
    }

    /// Asks Redis, also when there is no limit: a log-in needs it in any case, and should know
    /// before it hashes a password.
    pub(super) async fn ask(
        &self,
        username: Option<&Username>,
        address: &str,
    ) -> Result<Verdict, StoreError> {
        let mut wait = 0;
        for (_, tag) in tags(username, address) {
            let key = self.failures_key(&tag);
            let (failures, seconds): (i64, i64) =
                self.store.run(self.ask.prepare_invoke().key(key)).await?;
            if self.limit > 0 && failures >= self.limit {
                wait = wait.max(seconds.max(1));
            }
        }
        Ok(match u64::try_from(wait) {
            Ok(seconds @ 1..) => Verdict::Wait(Duration::from_secs(seconds)),
            Ok(0) | Err(_) => Verdict::Go,
        })
    }

    /// Counts a failure. Says which limit was met by it, if one was.
    pub(super) async fn count(
        &self,
        username: Option<&Username>,
        address: &str,
    ) -> Result<Option<ThrottledBy>, StoreError> {
        let mut met = None;
        for (by, tag) in tags(username, address) {
            let failures: i64 = self
                .store
                .run(
                    self.count
                        .key(self.failures_key(&tag))
                        .key(self.store.key(&tag, "login-throttled"))
                        .arg(self.limit)
                        .arg(WINDOW_SECONDS)
                        .arg(WAIT_MAX_SECONDS)
                        .arg(REMEMBERED_SECONDS),
                )
                .await?;
            if failures == self.limit {
                met = met.or(Some(by));
            }
        }
        Ok(met)
    }

    fn failures_key(&self, tag: &str) -> String {
        self.store.key(tag, "login-failures")
    }
}

/// What failures are counted by, each under a hash tag of its own. No user name has a space in it, so
/// nobody is taken for an address.
fn tags(username: Option<&Username>, address: &str) -> impl Iterator<Item = (ThrottledBy, String)> {
    let account = username.map(|name| (ThrottledBy::Account, name.to_string()));
    account.into_iter().chain([(ThrottledBy::Address, format!("ip {address}"))])
}
