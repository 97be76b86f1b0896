//! Traces: the span of a request, which everything that the request causes is inside of, and OpenTelemetry, which sends
//! spans to a collector when one is configured.

use std::env;
use std::sync::OnceLock;
use std::time::Duration;

use opentelemetry::trace::{
    SpanContext, SpanId, Status, TraceContextExt as _, TraceFlags, TraceId, TraceState,
    TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tracing::{Level, Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;

use super::collector::Collector;

/// How long the end of the process waits for the collector to take the last spans.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// The name of the service, unless a variable of OpenTelemetry gives another.
const SERVICE: &str = "customers";

/// What sends the spans; set once, if there is a collector.
static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// Starts to send spans to the collector that the variables of OpenTelemetry name; what went wrong, if that is
/// impossible.
pub(super) fn start() -> Result<SdkTracer, String> {
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_http_client(Collector::new()?)
        .build()
        .map_err(|error| error.to_string())?;
    // A bounded queue, and a thread of its own that sends: no request waits for the collector.
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource())
        .build();
    let tracer = provider.tracer(SERVICE);
    let _ = PROVIDER.set(provider);
    Ok(tracer)
}

/// What the spans say of this process: `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` come first.
fn resource() -> Resource {
    let set = |name: &str| env::var(name).unwrap_or_default();
    let is_named = !set("OTEL_SERVICE_NAME").is_empty()
        || set("OTEL_RESOURCE_ATTRIBUTES").contains("service.name=");
    let resource = Resource::builder()
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    if is_named { resource.build() } else { resource.with_service_name(SERVICE).build() }
}

/// The layer that makes spans of OpenTelemetry of this program's spans, at every level.
pub(super) fn layer<S>(tracer: SdkTracer) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let own = Targets::new().with_target("customers", Level::DEBUG);
    let layer = tracing_opentelemetry::layer().with_tracer(tracer);
    layer.with_location(false).with_threads(false).with_tracked_inactivity(false).with_filter(own)
}

/// Sends the spans so far, and no more; before the process ends.
pub fn flush() {
    if let Some(provider) = PROVIDER.get() {
        // What could not be sent is counted.
        let _ = provider.shutdown_with_timeout(FLUSH_LIMIT);
    }
}

fn is_on() -> bool {
    PROVIDER.get().is_some()
}

/// The span of a request, whose log lines name the id. Its parent is the caller's, by a valid `traceparent`.
#[must_use]
pub fn request_span(request_id: &str, traceparent: Option<&str>) -> Span {
    if !is_on() {
        return tracing::info_span!("request", request_id);
    }
    let span = tracing::info_span!("request", request_id, otel.kind = "server");
    if let Some(parent) = traceparent.and_then(parse) {
        let _ = span.set_parent(Context::new().with_remote_span_context(parent));
    }
    span
}

/// The `traceparent` of what the request causes: `None` unless its spans are sent.
#[must_use]
pub fn traceparent(span: &Span) -> Option<String> {
    if !is_on() {
        return None;
    }
    let context = span.context();
    let span = context.span();
    let of = span.span_context();
    let is_sent = of.is_valid() && of.is_sampled();
    is_sent.then(|| format!("00-{}-{}-01", of.trace_id(), of.span_id()))
}

/// Tells the span of a request which route has answered and how.
pub fn answered(span: &Span, method: &'static str, route: &'static str, status: u16) {
    if !is_on() {
        return;
    }
    let context = span.context();
    let of = context.span();
    of.update_name(format!("{method} {route}"));
    of.set_attributes([
        KeyValue::new("http.request.method", method),
        KeyValue::new("http.route", route),
        KeyValue::new("http.response.status_code", i64::from(status)),
    ]);
    if status >= 500 {
        of.set_status(Status::error(""));
    }
}

/// A `traceparent` that is valid.
fn parse(text: &str) -> Option<SpanContext> {
    let mut parts = text.split('-').skip(1);
    let trace = TraceId::from_hex(parts.next()?).ok()?;
    let span = SpanId::from_hex(parts.next()?).ok()?;
    let flags = TraceFlags::new(u8::from_str_radix(parts.next()?, 16).ok()?);
    Some(SpanContext::new(trace, span, flags & TraceFlags::SAMPLED, true, TraceState::default()))
}
