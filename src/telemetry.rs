//! Logs on stderr, metrics for Prometheus; one of each per process.

use std::io::IsTerminal as _;
use std::sync::OnceLock;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};

/// Starts logging as configured. Later calls change nothing.
pub fn start_logging(config: &Config) {
    // PostgreSQL's notices about objects that a migration finds in place are noise.
    let directives = format!("sqlx::postgres::notice=warn,{}", config.log);
    let filter = EnvFilter::try_new(directives).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // Fails if a logger is set already, as in a test with two services in one process.
    let _ = match config.log_format {
        LogFormat::Pretty => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

/// The handle of the process's metrics; the first call installs the recorder.
pub fn metrics() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let recorder = PrometheusBuilder::new().build_recorder();
            let handle = recorder.handle();
            // Fails if a program that embeds this crate has set a recorder, which then gets the metrics.
            let _ = metrics::set_global_recorder(recorder);
            handle
        })
        .clone()
}

/// Converts a count or a position to the value of a metric.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53, where f64 is exact")]
pub fn as_f64(count: i64) -> f64 {
    count as f64
}
