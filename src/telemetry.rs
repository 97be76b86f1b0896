//! Logs on stderr, metrics for Prometheus; one of each per process.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal as _;
use std::panic;
use std::sync::OnceLock;
use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};
use crate::log_lines::LogLines;

/// How often histograms are condensed. Until then each of them keeps every single value.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Starts logging as configured. Later calls change nothing. A line that cannot be written is lost; so is
/// nothing else.
pub fn start_logging(config: &Config) {
    // PostgreSQL's notices about objects that a migration finds in place are noise.
    let directives = format!("sqlx::postgres::notice=warn,{}", config.log);
    let filter = EnvFilter::try_new(directives).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(LogLines::of_process)
        // It would print what it cannot log to the same stderr, and panic if that fails.
        .log_internal_errors(false);
    // Fails if a logger is set already, as in a test with two services in one process.
    let started = match config.log_format {
        LogFormat::Pretty => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    if started.is_ok() {
        log_panics();
    }
}

/// Waits for a moment until the log lines so far are written; before the process ends.
pub fn flush_logs() {
    LogLines::of_process().flush();
}

/// Makes a panic a log line. The hook of the standard library would write to stderr itself, and wait for a
/// reader that does not read.
fn log_panics() {
    let standard = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if !tracing::enabled!(tracing::Level::ERROR) {
            return standard(panic);
        }
        let backtrace = Backtrace::capture();
        let backtrace =
            (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
        let message = panic.payload_as_str().unwrap_or("panic without a message");
        let location = panic.location().map(ToString::to_string);
        tracing::error!(location, backtrace, "panic: {message}");
        // The process may end with it.
        flush_logs();
    }));
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
