//! A circuit breaker: while Redis does not answer, calls fail at once instead of waiting for the time
//! limit one by one; a single trial call per interval closes it again.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// How many consecutive calls without an answer open the circuit.
const FAILURE_THRESHOLD: u32 = 8;

/// How long the circuit stays open before a trial call.
pub(super) const OPEN_FOR: Duration = Duration::from_millis(200);

/// The minimum age of a connection before timeouts replace it.
const CONNECTION_MIN_AGE: Duration = Duration::from_secs(2);

/// The state of one server's circuit.
pub(super) struct CircuitBreaker {
    failures: AtomicU32,
    /// In milliseconds since `start`.
    open_until: AtomicU64,
    /// How many calls timed out on this connection, and when it was opened, in milliseconds since `start`.
    timeouts: AtomicU32,
    connected_at: AtomicU64,
    start: Instant,
}

impl CircuitBreaker {
    pub(super) fn new() -> Self {
        Self {
            failures: AtomicU32::new(0),
            open_until: AtomicU64::new(0),
            timeouts: AtomicU32::new(0),
            connected_at: AtomicU64::new(0),
            start: Instant::now(),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn next_trial(&self) -> u64 {
        self.now() + u64::try_from(OPEN_FOR.as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether the circuit is closed, or this is the trial call.
    pub(super) fn allows_call(&self) -> bool {
        if self.failures.load(Ordering::Relaxed) < FAILURE_THRESHOLD {
            return true;
        }
        let until = self.open_until.load(Ordering::Relaxed);
        let (now, next) = (self.now(), self.next_trial());
        let is_trial = || {
            self.open_until
                .compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        };
        now >= until && is_trial()
    }

    /// Records the outcome of a call: whether there was an answer. An error from Redis is an answer.
    pub(super) fn record(&self, is_answered: bool) {
        if is_answered {
            self.failures.store(0, Ordering::Relaxed);
        } else {
            self.failures.fetch_add(1, Ordering::Relaxed);
            self.open_until.store(self.next_trial(), Ordering::Relaxed);
        }
    }

    /// Records a timeout; `true` if the connection must be replaced. Answers do not reset the count,
    /// because other nodes of a cluster may give them.
    pub(super) fn timeout_ends_connection(&self) -> bool {
        let timeouts = self.timeouts.fetch_add(1, Ordering::Relaxed) + 1;
        let (since, now) = (self.connected_at.load(Ordering::Relaxed), self.now());
        let is_kept = u128::from(now.saturating_sub(since)) < CONNECTION_MIN_AGE.as_millis();
        let ends = timeouts >= FAILURE_THRESHOLD
            && !is_kept
            && self
                .connected_at
                .compare_exchange(since, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if ends {
            self.timeouts.store(0, Ordering::Relaxed);
        }
        ends
    }
}
