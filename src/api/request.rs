//! The caller of a request, and what surrounds each answer: request id, the client's address, problem
//! bodies, panics as problems, security headers, and `Connection: close` while the process drains.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::body::{Body, HttpBody as _};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures_util::FutureExt as _;
use ipnet::IpNet;
use tracing::{Instrument as _, Span};

use super::access_line;
use super::error::{ApiError, Problem};
use super::forwarded;
use super::headers::traceparent;
use super::host;
use super::route_metrics::RouteMetrics;
use super::state::Api;
use crate::clock;
use crate::events::metadata::Metadata;
use crate::tasks::panic_message;
use crate::telemetry::traces;

/// The name of the header that carries the request's id, both ways.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id that a client may give its request, in bytes.
const REQUEST_ID_MAX: usize = 64;

/// The number of bytes that are kept of a user agent.
const USER_AGENT_MAX: usize = 256;

/// A request on its way to its handler. Each step on that way is a future, which moves what it keeps: a box is moved
/// faster than a request.
pub(super) type BoxRequest = Box<Request>;

/// The caller of a request, before authentication. Clones share what the headers say.
#[derive(Debug, Clone)]
pub struct Caller {
    pub ip: IpAddr,
    said: Arc<Said>,
}

/// What the headers say of the caller.
#[derive(Debug)]
struct Said {
    request_id: HeaderValue,
    user_agent: Option<HeaderValue>,
    traceparent: Option<String>,
    /// Made when it is asked for: most requests cause no event.
    metadata: OnceLock<Arc<Metadata>>,
    /// Set by the router.
    route: OnceLock<Arc<RouteMetrics>>,
}

impl Caller {
    /// The metadata of the events that the request causes, without those of its account.
    #[must_use]
    pub fn metadata(&self) -> &Arc<Metadata> {
        let said = &self.said;
        said.metadata.get_or_init(|| {
            Arc::new(Metadata {
                ip: Some(self.ip.to_string()),
                user_agent: said.user_agent.as_ref().map(kept),
                request_id: Some(self.request_id().to_owned()),
                traceparent: said.traceparent.clone(),
                ..Metadata::default()
            })
        })
    }

    #[must_use]
    pub fn request_id(&self) -> &str {
        self.said.request_id.to_str().unwrap_or_default()
    }

    /// Notes the route that answers.
    pub(super) fn is_routed(&self, route: &Arc<RouteMetrics>) {
        let _ = self.said.route.set(Arc::clone(route));
    }

    /// The caller, and the span of its request.
    fn of(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> (Self, Span) {
        let (request_id, given) = (request_id(headers), traceparent(headers));
        let id = request_id.to_str().unwrap_or_default();
        let span = traces::request_span(id, given.as_deref());
        let said = Said {
            user_agent: headers.get(header::USER_AGENT).cloned(),
            // That of our own span, if it is sent, so that the events lead to it.
            traceparent: traces::traceparent(&span).or(given),
            request_id,
            metadata: OnceLock::new(),
            route: OnceLock::new(),
        };
        let ip = forwarded::client(peer, headers, trusted);
        (Self { ip, said: Arc::new(said) }, span)
    }
}

/// The answer to a request of this peer, as it is sent. It is counted and logged with its route, or as one of
/// `no_route`.
pub(super) async fn envelope<F>(
    api: &Api,
    no_route: &RouteMetrics,
    peer: IpAddr,
    mut request: BoxRequest,
    answer: impl FnOnce(BoxRequest) -> F,
) -> Response
where
    F: Future<Output = Response>,
{
    let began = Instant::now();
    api.requests.fetch_add(1, Ordering::Relaxed);
    let (caller, span) = Caller::of(peer, request.headers(), &api.trusted_proxies);
    // HTTP/2 has no such header; its connections are closed when the port is.
    let has_connection_header = request.version() < Version::HTTP_2;
    let method = request.method().clone();
    request.extensions_mut().insert(caller.clone());
    let answered = AssertUnwindSafe(answer(request).instrument(span.clone()));
    let answered = answered.catch_unwind().await;
    let mut response =
        answered.unwrap_or_else(|panic| ApiError::Internal(panic_message(&*panic)).into_response());
    let said = &*caller.said;
    finish(&mut response, said.request_id.clone(), api.https, &api.public_path);
    if has_connection_header && api.draining.is_cancelled() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let response = if method == Method::HEAD { without_body(response) } else { response };
    let (route, took) = (said.route.get().map_or(no_route, |route| &**route), began.elapsed());
    route.record(response.status(), took);
    access_line::write(&method, route.path, &response, took, caller.request_id());
    traces::answered(&span, access_line::name(&method), route.path, response.status().as_u16());
    response
}

/// The answer to HEAD: the headers of the one to GET.
fn without_body(answer: Response) -> Response {
    let (mut head, body) = answer.into_parts();
    if let Some(length) = body.size_hint().exact() {
        head.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    Response::from_parts(head, Body::empty())
}

/// Writes the problem of a failed request, and the headers of every answer.
fn finish(response: &mut Response, request_id: HeaderValue, https: bool, public_path: &str) {
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        write_problem(response, &problem, request_id.to_str().unwrap_or_default(), public_path);
    }
    protect(response.headers_mut(), https);
    response.headers_mut().insert(X_REQUEST_ID, request_id);
}

/// The same for the router that answers before the service has started.
pub(super) async fn early_envelope(
    https: bool,
    public_path: String,
    request: Request,
    next: Next,
) -> Response {
    let request_id = request_id(request.headers());
    let is_head = request.method() == Method::HEAD;
    let mut response = match host::refuse(&request) {
        Some(refused) => refused.into_response(),
        None => next.run(request).await,
    };
    finish(&mut response, request_id, https, &public_path);
    if is_head { without_body(response) } else { response }
}

/// Sets headers for browsers and caches: no content sniffing, no subresources, no frames, no referrer, no
/// caching, unless the handler has set its own, and HSTS if the service is on https.
fn protect(headers: &mut HeaderMap, https: bool) {
    let set = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    for (name, value) in set {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if https {
        let year = HeaderValue::from_static("max-age=31536000");
        headers.insert(header::STRICT_TRANSPORT_SECURITY, year);
    }
}

fn write_problem(response: &mut Response, problem: &Problem, request_id: &str, public_path: &str) {
    if problem.status().is_server_error() {
        let (status, cause) = (problem.status().as_u16(), problem.cause.as_deref());
        tracing::error!(request_id, status, cause, "request failed");
    }
    let body = problem.body(public_path, request_id);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    *response.body_mut() = Body::from(body);
}

/// The request id of the client if it is short and plain, otherwise a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let given = headers.get(X_REQUEST_ID).filter(|id| {
        (1..=REQUEST_ID_MAX).contains(&id.len()) && id.as_bytes().iter().copied().all(plain)
    });
    given.cloned().unwrap_or_else(|| {
        let mut text = uuid::Uuid::encode_buffer();
        let text = clock::new_id().hyphenated().encode_lower(&mut text);
        HeaderValue::from_str(text).expect("an id is visible ASCII")
    })
}

/// What is kept of a user agent.
fn kept(value: &HeaderValue) -> String {
    let text = String::from_utf8_lossy(value.as_bytes());
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    let end = text.floor_char_boundary(USER_AGENT_MAX);
    text[..end].to_owned()
}
