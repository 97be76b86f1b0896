//! Failed log-ins, counted per account and per address in windows of a minute, in Redis, so that all
//! processes count together. Successes never count.

use std::time::Duration;

use redis::Script;

use super::store::{Store, StoreError};
use crate::events::account::ThrottledBy;
use crate::events::values::Username;

/// How long failures are counted together, in seconds.
const WINDOW_SECONDS: u32 = 60;

/// Failures so far and seconds left of the window.
const ASK: &str = r"
return { tonumber(redis.call('GET', KEYS[1]) or '0'), redis.call('TTL', KEYS[1]) }
";

/// One more failure; the window opens with the first.
const COUNT: &str = r"
local failures = redis.call('INCR', KEYS[1])
if failures == 1 then redis.call('EXPIRE', KEYS[1], ARGV[1]) end
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
        for (_, key) in self.keys(username, address) {
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
        for (by, key) in self.keys(username, address) {
            let failures: i64 =
                self.store.run(self.count.prepare_invoke().key(key).arg(WINDOW_SECONDS)).await?;
            if failures == self.limit {
                met = met.or(Some(by));
            }
        }
        Ok(met)
    }

    fn keys(
        &self,
        username: Option<&Username>,
        address: &str,
    ) -> impl Iterator<Item = (ThrottledBy, String)> {
        let account = username
            .map(|name| (ThrottledBy::Account, self.store.key(name.as_str(), "login-failures")));
        let address =
            (ThrottledBy::Address, self.store.key(&format!("ip-{address}"), "login-failures"));
        account.into_iter().chain([address])
    }
}
