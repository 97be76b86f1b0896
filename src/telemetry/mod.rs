//! Logs on stderr, metrics for Prometheus, spans of requests; one of each per process.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::panic;

use tracing::{Event, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::config::{Config, LogFormat};
use crate::log_lines::LogLines;
use crate::printable::printable;

/// The table of all metrics, and their recorder.
pub mod metrics;

/// The spans of requests, and OpenTelemetry.
pub mod traces;

/// The client of the collector of traces.
mod collector;

/// The metrics that every process has: CPU, memory, files.
mod process;

pub use self::metrics::{as_f64, keep_up, metrics, rendered};

/// Starts logging as configured. Later calls change nothing. A line that cannot be written is lost; so is
/// nothing else.
pub fn start_logging(config: &Config) {
    // Fails if a logger is set already, as in a test with two services in one process.
    let started = Registry::default().with(filter(config)).with(lines(config)).try_init();
    if started.is_ok() {
        log_panics();
    }
}

/// The same, and sends spans to the collector, if one is configured.
pub fn start_logging_and_tracing(config: &Config) {
    if config.otlp_endpoint.is_none() {
        return start_logging(config);
    }
    let tracer = match traces::start() {
        Ok(tracer) => tracer,
        Err(problem) => {
            start_logging(config);
            tracing::error!(problem, "traces: not sent");
            return;
        }
    };
    // The filter is for the lines only.
    let lines = lines(config).with_filter(filter(config));
    let started = Registry::default().with(lines).with(traces::layer(tracer)).try_init();
    if started.is_ok() {
        log_panics();
    }
}

fn filter(config: &Config) -> EnvFilter {
    // PostgreSQL's notices about objects that a migration finds in place are noise.
    let directives = format!("sqlx::postgres::notice=warn,{}", config.log);
    EnvFilter::try_new(directives).unwrap_or_else(|_| EnvFilter::new("info"))
}

/// What writes log lines.
fn lines<S>(config: &Config) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(LogLines::of_process)
        // It would print what it cannot log to the same stderr, and panic if that fails.
        .log_internal_errors(false);
    match config.log_format {
        LogFormat::Pretty => lines.with_ansi(has_colors()).fmt_fields(PrintableFields).boxed(),
        LogFormat::Json => lines.json().map_event_format(PrintableLine).boxed(),
    }
}

/// Whether standard error gets colours, as `anstream` decides for the texts of the command line.
fn has_colors() -> bool {
    anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never
}

/// The message and the fields of a log line, [`printable`]. The rest of the line is the program's own.
struct PrintableFields;

impl<'writer> FormatFields<'writer> for PrintableFields {
    fn format_fields<R: RecordFields>(
        &self,
        mut writer: Writer<'writer>,
        fields: R,
    ) -> fmt::Result {
        let mut text = String::new();
        DefaultFields::new().format_fields(Writer::new(&mut text), fields)?;
        writer.write_str(&printable(&text))
    }
}

/// A log line without colours, [`printable`] as a whole.
struct PrintableLine<F>(F);

impl<S, N, F> FormatEvent<S, N> for PrintableLine<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        writeln!(writer, "{}", printable(line.trim_end_matches('\n')))
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
