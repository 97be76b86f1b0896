//! What the appender measures.

use std::time::Duration;

use metrics::{Gauge, Histogram};

/// Counts commands without an outcome, by the cause.
const FAILURES: &str = "customers_append_failures_total";

/// Why a command has no outcome: the queue was full, PostgreSQL refused a value, it was away, or the process stops.
pub(super) const FULL: &str = "full";
pub(super) const REFUSED: &str = "refused";
pub(super) const UNAVAILABLE: &str = "unavailable";
pub(super) const STOPPED: &str = "stopped";

/// The series of the appender, registered once.
pub(super) struct AppendMetrics {
    queue_depth: Gauge,
    wait: Histogram,
    batch_commands: Histogram,
    seconds: Histogram,
}

impl AppendMetrics {
    /// `capacity` is how many commands may wait.
    pub(super) fn new(capacity: usize) -> Self {
        metrics::gauge!("customers_append_queue_capacity").set(as_f64(capacity));
        for cause in [FULL, REFUSED, UNAVAILABLE, STOPPED] {
            metrics::counter!(FAILURES, "cause" => cause).increment(0);
        }
        Self {
            queue_depth: metrics::gauge!("customers_append_queue_depth"),
            wait: metrics::histogram!("customers_append_wait_seconds"),
            batch_commands: metrics::histogram!("customers_append_batch_commands"),
            seconds: metrics::histogram!("customers_append_seconds"),
        }
    }

    /// A batch of so many commands begins, while so many others wait.
    pub(super) fn begun(&self, waiting: usize, commands: usize) {
        self.queue_depth.set(as_f64(waiting));
        self.batch_commands.record(as_f64(commands));
    }

    /// A command has waited for its batch.
    pub(super) fn waited(&self, wait: Duration) {
        self.wait.record(wait.as_secs_f64());
    }

    /// A batch has ended.
    pub(super) fn ended(&self, took: Duration) {
        self.seconds.record(took.as_secs_f64());
    }
}

/// Counts a command without an outcome.
pub(super) fn failed(cause: &'static str) {
    metrics::counter!(FAILURES, "cause" => cause).increment(1);
}

#[expect(clippy::cast_precision_loss, reason = "counts of commands are small")]
fn as_f64(count: usize) -> f64 {
    count as f64
}
