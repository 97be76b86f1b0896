//! The metrics of a route: its answers by status, and how long they took. Each series is registered once, so that a
//! request costs two additions, and a series is there before its first answer.

use std::sync::OnceLock;
use std::time::Duration;

use axum::http::StatusCode;
use metrics::{Counter, Histogram};

/// The route of a request that is in no row of the table.
const NONE: &str = "-";

/// The classes of statuses (RFC 9110, section 15), by which durations are told apart: with each status the buckets of
/// a histogram would be too many series.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The metrics of one route.
#[derive(Debug)]
pub(super) struct RouteMetrics {
    method: &'static str,
    pub(super) path: &'static str,
    /// Of the statuses that the route is documented with.
    answers: Vec<(StatusCode, Counter)>,
    seconds: [OnceLock<Histogram>; CLASSES.len()],
}

impl RouteMetrics {
    /// Registers the series of these statuses.
    pub(super) fn new(
        method: &'static str,
        path: &'static str,
        statuses: impl IntoIterator<Item = u16>,
    ) -> Self {
        let mut metrics = Self { method, path, answers: vec![], seconds: Default::default() };
        for status in statuses.into_iter().filter_map(|status| StatusCode::from_u16(status).ok()) {
            metrics.answers.push((status, metrics.counter(status)));
            metrics.seconds(status);
        }
        metrics
    }

    /// Those of requests that no row of the table answers.
    pub(super) fn of_no_route() -> Self {
        Self::new(NONE, NONE, [200, 400, 404, 405])
    }

    /// Records an answer.
    pub(super) fn record(&self, status: StatusCode, took: Duration) {
        match self.answers.iter().find(|(known, _)| *known == status) {
            Some((_, counter)) => counter.increment(1),
            None => self.counter(status).increment(1),
        }
        self.seconds(status).record(took.as_secs_f64());
    }

    fn counter(&self, status: StatusCode) -> Counter {
        metrics::counter!("customers_http_requests_total",
            "method" => self.method, "route" => self.path, "status" => status.as_u16().to_string())
    }

    fn seconds(&self, status: StatusCode) -> &Histogram {
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1;
        self.seconds[class].get_or_init(|| {
            metrics::histogram!("customers_http_request_duration_seconds",
                "method" => self.method, "route" => self.path, "status" => CLASSES[class])
        })
    }
}
