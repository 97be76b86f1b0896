//! The metrics of a process: the table of all of them, which names, explains and registers each, and their
//! recorder. The code that measures names a metric as the table does; a test compares the two.

use std::sync::OnceLock;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use super::process;
pub use super::process::OF_PROCESS;

/// How often histograms are condensed. Until then each of them keeps every single value.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Of requests, in seconds: from a read out of memory to the longest wait for a projection.
const OF_REQUESTS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Of calls to PostgreSQL and Redis and of waits for them, in seconds: a round trip on one machine takes 0.1 ms, and
/// the longest time limit is some seconds.
const OF_CALLS: &[f64] =
    &[0.0002, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// Of delays between an event and its row, in seconds: from one page to an outage.
const OF_DELAYS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// Of commands in a batch: up to the most that one has.
const OF_BATCHES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// Of events in a page: up to the most that one has.
const OF_PAGES: &[f64] = &[1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0];

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Only grows; its name ends with `_total`.
    Counter,
    Gauge,
    /// With the upper bounds of its buckets.
    Histogram(&'static [f64]),
}

impl Kind {
    /// The name in the text format of Prometheus.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    /// Without labels the recorder registers its one series; otherwise the code that knows their values does.
    pub labels: &'static [&'static str],
    pub help: &'static str,
    /// The variable without which it does not exist.
    pub only_with: Option<&'static str>,
}

const fn counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind: Kind::Counter, labels, help, only_with: None }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, labels, help, only_with: None }
}

/// A gauge that exists only if this variable is set.
const fn gauge_with(variable: &'static str, name: &'static str, help: &'static str) -> Metric {
    Metric { only_with: Some(variable), ..gauge(name, &[], help) }
}

const fn histogram(
    name: &'static str,
    labels: &'static [&'static str],
    buckets: &'static [f64],
    help: &'static str,
) -> Metric {
    Metric { name, kind: Kind::Histogram(buckets), labels, help, only_with: None }
}

/// All metrics of the service, in the order of the documentation. Those of the process (`process_...`) come with
/// them on Linux.
#[rustfmt::skip]
pub const METRICS: [Metric; 41] = [
    gauge("customers_build_info", &["version"], "1; its label is the version of the program"),
    counter("customers_http_requests_total", &["method", "route", "status"], "Answered requests by route and status; the route - is none of the table"),
    histogram("customers_http_request_duration_seconds", &["method", "route", "status"], OF_REQUESTS, "Seconds from a request to the head of its answer, by route and class of the status (2xx)"),
    counter("customers_http2_stalled_total", &[], "Answers over HTTP/2 that were reset because the client took nothing of them for 30 s"),
    counter("customers_slow_clients_total", &[], "Answers and import bodies that were cut off because the client was too slow"),
    counter("customers_account_slots_refused_total", &["kind"], "Streams, imports, long lists and their queries refused because the account had its share"),
    gauge("customers_event_streams", &[], "Open event streams"),
    gauge("customers_spool_bytes", &[], "Bytes in the spool files of imports and long lists"),
    counter("customers_spool_refused_total", &[], "Imports and long lists refused because the spool space was used up"),
    counter("customers_logins_total", &["outcome"], "Log-ins by outcome; throttled: after too many failures, limited: too many of the account, queue_full: too many at once"),
    counter("customers_password_hashes_total", &[], "Password hashes computed"),
    counter("customers_tokens_refused_total", &["cause"], "Requests whose token was refused, by cause"),
    counter("customers_token_replays_total", &[], "Uses of a bound session's token without its cookie; each ended its session"),
    gauge("customers_log_position", &[], "The position of the last event of the log"),
    gauge("customers_append_queue_depth", &[], "Commands that wait for the appender"),
    gauge("customers_append_queue_capacity", &[], "Commands that may wait for the appender; more are answered 503"),
    histogram("customers_append_wait_seconds", &[], OF_CALLS, "Seconds that a command waits for its batch"),
    histogram("customers_append_batch_commands", &[], OF_BATCHES, "Commands per batch"),
    histogram("customers_append_seconds", &[], OF_CALLS, "Seconds that the append of a batch takes"),
    counter("customers_append_failures_total", &["cause"], "Commands without an outcome: the queue was full, PostgreSQL refused a value, or was away"),
    gauge("customers_projection_checkpoint", &["projection"], "The position that a projection has applied, as this process last saw it"),
    gauge("customers_projection_lag_events", &["projection"], "Events that a projection has not applied, at the last scrape that reached PostgreSQL"),
    gauge("customers_projection_lag_seconds", &["projection"], "The age of the oldest event that a projection has not applied, at the last scrape that reached PostgreSQL"),
    gauge("customers_projection_parked", &["projection"], "Parked customers of a projection, at the last scrape that reached PostgreSQL"),
    histogram("customers_projection_delay_seconds", &["projection"], OF_DELAYS, "Seconds from an event to its row: that of the oldest event of each page that this process applied"),
    histogram("customers_projection_page_events", &["projection"], OF_PAGES, "Events in a page that this process applied"),
    gauge("customers_postgres_up", &[], "1 if PostgreSQL answered the last scrape, else 0"),
    gauge("customers_redis_up", &[], "1 if Redis answered the last scrape, takes writes and has caught up with the log, else 0"),
    gauge("customers_pool_connections", &["pool", "state"], "Connections to PostgreSQL by pool: idle or in use"),
    gauge("customers_pool_connections_max", &["pool"], "Connections that a pool may have"),
    gauge("customers_pool_waiting", &["pool"], "Statements that wait for a connection of a pool"),
    histogram("customers_pool_wait_seconds", &["pool"], OF_CALLS, "Seconds until a statement has a connection of its pool"),
    histogram("customers_redis_call_duration_seconds", &["outcome"], OF_CALLS, "Seconds that a call to Redis takes; refused: Redis answered with an error, failed: it did not answer"),
    gauge_with("DATABASE_READ_URL", "customers_replica_up", "1 if the replica may be read, else 0"),
    gauge_with("DATABASE_READ_URL", "customers_replica_lag_seconds", "The age of the oldest event that the replica lacks, as last known"),
    counter("customers_replica_fallbacks_total", &[], "Reads that the primary answered instead of the replica"),
    counter("customers_task_restarts_total", &["task"], "Restarts of a background task"),
    gauge("customers_tasks_down", &[], "Background tasks that have failed several times in a row"),
    counter("customers_log_lines_lost_total", &[], "Log lines that could not be written"),
    counter("customers_trace_exports_failed_total", &[], "Batches of spans that the collector of traces has not taken"),
    gauge("customers_draining", &[], "1 after the process was told to stop, else 0"),
];

/// The handle of the process's metrics; the first call installs the recorder and registers what it can, so that
/// every series is there from the start.
pub fn metrics() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let mut builder = PrometheusBuilder::new();
            for metric in &METRICS {
                if let Kind::Histogram(buckets) = metric.kind {
                    let name = Matcher::Full(metric.name.to_owned());
                    builder = builder.set_buckets_for_metric(name, buckets).expect("buckets");
                }
            }
            let recorder = builder.build_recorder();
            let handle = recorder.handle();
            // Fails if a program that embeds this crate has set a recorder, which then gets the metrics.
            let _ = metrics::set_global_recorder(recorder);
            METRICS.iter().for_each(register);
            metrics::gauge!("customers_build_info", "version" => env!("CARGO_PKG_VERSION"))
                .set(1.0);
            process::begin();
            handle
        })
        .clone()
}

/// Explains the metric, and registers its series if it has only one.
fn register(metric: &Metric) {
    let Metric { name, help, .. } = *metric;
    match metric.kind {
        Kind::Counter => metrics::describe_counter!(name, help),
        Kind::Gauge => metrics::describe_gauge!(name, help),
        Kind::Histogram(_) => metrics::describe_histogram!(name, help),
    }
    if metric.labels.is_empty() && metric.only_with.is_none() {
        match metric.kind {
            Kind::Counter => drop(metrics::counter!(name)),
            Kind::Gauge => drop(metrics::gauge!(name)),
            Kind::Histogram(_) => drop(metrics::histogram!(name)),
        }
    }
}

/// All metrics in the text format of Prometheus (version 0.0.4).
#[must_use]
pub fn rendered(handle: &PrometheusHandle) -> String {
    let mut text = handle.render();
    process::render(&mut text);
    text
}

/// Condenses the histograms periodically, which otherwise happens only when they are read: without a
/// Prometheus they would grow for ever. Never returns.
pub async fn keep_up() {
    loop {
        tokio::time::sleep(UPKEEP_INTERVAL).await;
        metrics().run_upkeep();
    }
}

/// Converts a count or a position to the value of a metric.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53, where f64 is exact")]
pub fn as_f64(count: i64) -> f64 {
    count as f64
}
