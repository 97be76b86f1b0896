//! What the client of Redis measures.

use std::time::Duration;

use metrics::Histogram;

/// The series of calls to Redis, registered once. Clones share them.
#[derive(Clone)]
pub(super) struct CallMetrics {
    ok: Histogram,
    refused: Histogram,
    failed: Histogram,
}

impl CallMetrics {
    pub(super) fn new() -> Self {
        let of = |outcome: &'static str| metrics::histogram!("customers_redis_call_duration_seconds", "outcome" => outcome);
        Self { ok: of("ok"), refused: of("refused"), failed: of("failed") }
    }

    /// A call has ended: well, or with an answer that is an error, or without an answer.
    pub(super) fn record(&self, is_ok: bool, is_answered: bool, took: Duration) {
        let series = match (is_ok, is_answered) {
            (true, _) => &self.ok,
            (false, true) => &self.refused,
            (false, false) => &self.failed,
        };
        series.record(took.as_secs_f64());
    }
}
