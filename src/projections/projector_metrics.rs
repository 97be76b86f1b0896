//! What a projector measures.

use chrono::{DateTime, Utc};
use metrics::{Gauge, Histogram};

use crate::clock::Clock;
use crate::telemetry::as_f64;

/// The series of one projection, registered once.
pub(super) struct ProjectorMetrics {
    checkpoint: Gauge,
    delay: Histogram,
    page: Histogram,
    /// That of the events' times, which no test sets.
    clock: Clock,
}

impl ProjectorMetrics {
    pub(super) fn new(projection: &'static str) -> Self {
        Self {
            checkpoint: metrics::gauge!("customers_projection_checkpoint", "projection" => projection),
            delay: metrics::histogram!("customers_projection_delay_seconds", "projection" => projection),
            page: metrics::histogram!("customers_projection_page_events", "projection" => projection),
            clock: Clock::system(),
        }
    }

    /// The projection has applied the log up to here.
    pub(super) fn at(&self, checkpoint: i64) {
        self.checkpoint.set(as_f64(checkpoint));
    }

    /// This process has applied a page of so many events, of which the oldest has this time.
    pub(super) fn applied(&self, events: usize, oldest: DateTime<Utc>) {
        self.page.record(as_f64(i64::try_from(events).unwrap_or(i64::MAX)));
        let delay = (self.clock.now() - oldest).to_std().unwrap_or_default();
        self.delay.record(delay.as_secs_f64());
    }
}
