//! Throttles failed log-ins, counted per account and per address in windows of a minute, in Redis, so
//! that all processes count together. Successes never count. Each time that the limit is reached again
//! the wait doubles, up to 15 minutes, so that an attacker cannot lock an account out for good.

use std::time::Duration;

use redis::Script;

use super::redis_client::{RedisClient, RedisClientError};
use super::scripts;
use crate::events::account::ThrottledBy;
use crate::events::values::Username;

/// In seconds: the window in which failures are counted, which is also the first wait; the longest wait;
/// and how long the number of times that the limit was reached is kept.
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
            failures: Script::new(scripts::READ_LOGIN_FAILURES),
            count: Script::new(scripts::COUNT_LOGIN_FAILURE),
        }
    }

    /// The longer wait of account and address. Calls Redis even without a limit: a log-in needs Redis in
    /// any case, and so fails before a password is hashed.
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

    /// Counts a failure; returns the limit that it reached, if it did.
    pub(super) async fn count(
        &self,
        username: Option<&Username>,
        address: &str,
    ) -> Result<Option<ThrottledBy>, RedisClientError> {
        let mut reached = None;
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
                reached = reached.or(Some(by));
            }
        }
        Ok(reached)
    }

    fn failures_key(&self, tag: &str) -> String {
        self.client.key(tag, "login-failures")
    }
}

/// The counters of a log-in, each with its hash tag. A user name has no space, so it cannot equal the tag
/// of an address.
fn tags(username: Option<&Username>, address: &str) -> impl Iterator<Item = (ThrottledBy, String)> {
    let account = username.map(|name| (ThrottledBy::Account, name.to_string()));
    account.into_iter().chain([(ThrottledBy::Address, format!("ip {address}"))])
}
