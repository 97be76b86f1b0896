//! Logs on stderr, metrics for Prometheus. Both are one per process.

use std::io::IsTerminal as _;
use std::sync::OnceLock;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};

/// Starts to log as configured. Later calls change nothing.
pub fn start_logging(config: &Config) {
    // PostgreSQL's notices of what a migration found already there tell nobody anything.
    let directives = format!("sqlx::postgres::notice=warn,{}", config.log);
    let filter = EnvFilter::try_new(directives).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // Fails when somebody logs already: a test with two services in one process.
    let _ = match config.log_format {
        LogFormat::Pretty => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

/// The process's metrics.
pub fn metrics() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let recorder = PrometheusBuilder::new().build_recorder();
            let handle = recorder.handle();
            // Fails when a program that embeds this one has a recorder of its own: it counts then.
            let _ = metrics::set_global_recorder(recorder);
            handle
        })
        .clone()
}

/// A position, a number of events or of anything else that is counted, as metrics take it.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53, where f64 is exact")]
pub fn as_f64(count: i64) -> f64 {
    count as f64
}
