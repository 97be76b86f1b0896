//! Throttles failed log-ins, counted per account and per address in windows of a minute, in Redis, so
//! that all processes count together. Successes never count. Each time that the limit is met again the
//! wait doubles, up to 15 minutes: never for ever, so that a stranger cannot lock an account out.

use std::time::Duration;

use redis::Script;

use super::redis_client::{RedisClient, RedisClientError};
use super::scripts;
use crate::events::account::ThrottledBy;
use crate::events::values::Username;

/// In seconds: the window in which failures are counted, which is also the first wait; the longest wait;
/// and how long the number of times that the limit was met is remembered.
const WINDOW_SECONDS: u32 = 60;
const WAIT_MAX_SECONDS: u32 = 15 * 60;
const REMEMBERED_SECONDS: u32 = 60 * 60;

/// Counts failed log-ins.
pub struct Throttle {
    client: RedisClient,
    limit: i64,
    failures: Script,
    count: Script,
}

/// Whether a log-in may be tried, or after which wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Allowed,
    Throttled(Duration),
}

impl Throttle {
    /// `limit` failures per window, account and address; 0 = no limit.
    #[must_use]
    pub fn new(client: RedisClient, limit: u32) -> Self {
        Self {
            client,
            limit: limit.into(),
            failures: Script::new(scripts::LOGIN_FAILURES),
            count: Script::new(scripts::COUNT_LOGIN_FAILURE),
        }
    }

    /// Asks Redis, also without a limit: a log-in needs Redis in any case, and fails before it hashes a
    /// password.
    pub(super) async fn check(
        &self,
        username: Option<&Username>,
        address: &str,
    ) -> Result<Verdict, RedisClientError> {
        let mut wait = 0;
        for (_, tag) in tags(username, address) {
            let key = self.failures_key(&tag);
            let (failures, seconds): (i64, i64) =
                self.client.run(self.failures.prepare_invoke().key(key)).await?;
            if self.limit > 0 && failures >= self.limit {
                wait = wait.max(seconds.max(1));
            }
        }
        Ok(match u64::try_from(wait) {
            Ok(seconds @ 1..) => Verdict::Throttled(Duration::from_secs(seconds)),
            Ok(0) | Err(_) => Verdict::Allowed,
        })
    }

    /// Counts a failure; the limit that it met, if it met one.
    pub(super) async fn count(
        &self,
        username: Option<&Username>,
        address: &str,
    ) -> Result<Option<ThrottledBy>, RedisClientError> {
        let mut met = None;
        for (by, tag) in tags(username, address) {
            let failures: i64 = self
                .client
                .run(
                    self.count
                        .key(self.failures_key(&tag))
                        .key(self.client.key(&tag, "login-throttled"))
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
        self.client.key(tag, "login-failures")
    }
}

/// What failures are counted by, each under a hash tag of its own. No user name has a space, so none is
/// taken for an address.
fn tags(username: Option<&Username>, address: &str) -> impl Iterator<Item = (ThrottledBy, String)> {
    let account = username.map(|name| (ThrottledBy::Account, name.to_string()));
    account.into_iter().chain([(ThrottledBy::Address, format!("ip {address}"))])
}
