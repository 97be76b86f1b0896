//! Throttles failed log-ins, counted per account and per address in Redis, so that all processes count
//! together: in windows of a minute, and in windows of a day for those that come slowly. Successes never
//! count. Each time that the limit is reached again the wait doubles, up to 15 minutes, so that an
//! attacker cannot lock an account out for good. Failures of an open session's password change count for
//! that session alone: a stranger cannot keep the owner from changing a stolen password. Wrong secrets of a service
//! key count for the key and the address, but only the address is asked before a secret is checked: its 256 bits
//! cannot be guessed, and a stranger cannot keep a program from its tokens.

use std::time::Duration;

use redis::Script;

use super::redis::client::{RedisClient, RedisClientError};
use super::redis::scripts;
use super::session::{OPENED, micros};
use crate::events::account::ThrottledBy;
use crate::events::account_key::ClientId;
use crate::events::values::Username;

/// In seconds: the window in which failures are counted, which is also the first wait; the longest wait;
/// and how long the number of times that the limit was reached is kept.
const WINDOW_SECONDS: u32 = 60;
const WAIT_MAX_SECONDS: u32 = 15 * 60;
const REMEMBERED_SECONDS: u32 = 60 * 60;

/// The slow failures: after this many times the limit in one long window, they are throttled, too. The window
/// is a day for an account, an hour for an address, and none for a name without an account: strangers can
/// invent any number of names, and each window is a key in Redis.
const MANY: i64 = 10;
const DAY_SECONDS: u32 = 24 * 60 * 60;
const HOUR_SECONDS: u32 = 60 * 60;

/// Counts failed log-ins.
pub struct Throttle {
    client: RedisClient,
    limit: i64,
    /// Log-ins per minute that open a session.
    session_rate: u32,
    failures: Script,
    count: Script,
}

/// Whose password or secret is checked.
#[derive(Debug, Clone, Copy)]
pub(super) enum Subject<'a> {
    /// A log-in; without a name if the given one is no user name.
    LogIn { username: Option<&'a Username>, address: &'a str },
    /// The owner of a session, who changes the password.
    Session { username: &'a Username, sid: &'a str },
    /// A client with a service key; without an id if the given one is none, and before its secret is checked.
    Client { client_id: Option<ClientId>, address: &'a str },
}

/// Whether a log-in may be tried, or after which wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Allowed,
    /// Too many failures.
    Throttled(Duration),
    /// Too many successes.
    Limited(Duration),
}

/// One counter: its limit's name, its hash tag, and the end of its keys.
struct Counter {
    by: ThrottledBy,
    tag: String,
    of: String,
}

impl Throttle {
    /// `limit` failures per window, account and address, and `session_rate` successes per minute and
    /// account; 0 = no limit.
    #[must_use]
    pub fn new(client: RedisClient, limit: u32, session_rate: u32) -> Self {
        Self {
            client,
            limit: limit.into(),
            session_rate,
            failures: Script::new(scripts::READ_LOGIN_FAILURES),
            count: Script::new(scripts::COUNT_LOGIN_FAILURE),
        }
    }

    /// The longest wait of the subject's counters. Calls Redis even without a limit: a log-in needs Redis
    /// in any case, and so fails before a password is hashed.
    pub(super) async fn check(&self, subject: Subject<'_>) -> Result<Verdict, RedisClientError> {
        let mut verdict = Verdict::Allowed;
        for counter in subject.counters() {
            // Only a log-in opens a session.
            let is_log_in = matches!(subject, Subject::LogIn { .. });
            let rate = if is_log_in { self.session_rate } else { 0 };
            let (failures, seconds, wait): (i64, i64, String) = self
                .client
                .run(
                    self.failures
                        .key(self.key(&counter, "login-failures"))
                        .key(self.client.key(&counter.tag, OPENED))
                        .arg(rate),
                )
                .await?;
            let wait = micros(&wait);
            if self.limit > 0 && failures >= self.limit {
                let seconds = Duration::from_secs(seconds.max(1).unsigned_abs());
                verdict = match verdict {
                    Verdict::Throttled(earlier) => Verdict::Throttled(earlier.max(seconds)),
                    Verdict::Allowed | Verdict::Limited(_) => Verdict::Throttled(seconds),
                };
            } else if !wait.is_zero() && verdict == Verdict::Allowed {
                verdict = Verdict::Limited(wait);
            }
        }
        Ok(verdict)
    }

    /// Counts a failure; returns the limit that it reached, if it did. `is_known`: there is an account of
    /// that name.
    pub(super) async fn count(
        &self,
        subject: Subject<'_>,
        is_known: bool,
    ) -> Result<Option<ThrottledBy>, RedisClientError> {
        let mut reached = None;
        for counter in subject.counters() {
            let long_window = match counter.by {
                ThrottledBy::Account | ThrottledBy::Session | ThrottledBy::Key if is_known => {
                    DAY_SECONDS
                }
                ThrottledBy::Account | ThrottledBy::Session | ThrottledBy::Key => 0,
                ThrottledBy::Address => HOUR_SECONDS,
            };
            let is_reached: bool = self
                .client
                .run(
                    self.count
                        .key(self.key(&counter, "login-failures"))
                        .key(self.key(&counter, "login-throttled"))
                        .key(self.key(&counter, "login-failures-long"))
                        .arg(self.limit)
                        .arg(WINDOW_SECONDS)
                        .arg(WAIT_MAX_SECONDS)
                        .arg(REMEMBERED_SECONDS)
                        .arg(self.limit * MANY)
                        .arg(long_window),
                )
                .await?;
            if is_reached {
                reached = reached.or(Some(counter.by));
            }
        }
        Ok(reached)
    }

    fn key(&self, counter: &Counter, name: &str) -> String {
        self.client.key(&counter.tag, &format!("{name}{}", counter.of))
    }
}

impl Subject<'_> {
    pub(super) fn username(&self) -> Option<&Username> {
        match self {
            Self::LogIn { username, .. } => *username,
            Self::Session { username, .. } => Some(username),
            Self::Client { .. } => None,
        }
    }

    /// A user name has no space, so it cannot equal the tag of an address or of a key.
    fn counters(&self) -> Vec<Counter> {
        let counter = |by, tag: String| Counter { by, tag, of: String::new() };
        match self {
            Self::LogIn { username, address } => {
                let account = username.map(|name| counter(ThrottledBy::Account, name.to_string()));
                let address = counter(ThrottledBy::Address, format!("ip {address}"));
                account.into_iter().chain([address]).collect()
            }
            Self::Session { username, sid } => {
                let of = format!(":{sid}");
                vec![Counter { by: ThrottledBy::Session, tag: username.to_string(), of }]
            }
            Self::Client { client_id, address } => {
                let key = client_id.map(|id| counter(ThrottledBy::Key, format!("key {id}")));
                let address = counter(ThrottledBy::Address, format!("ip {address}"));
                key.into_iter().chain([address]).collect()
            }
        }
    }
}
