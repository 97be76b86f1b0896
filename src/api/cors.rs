//! Cross-origin resource sharing: the origins whose pages may call the API. None by default. A request of any
//! other origin is answered as if it had none, without a header for its page.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};

/// How long a browser may cache the answer to a preflight request, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

const METHODS: HeaderValue = HeaderValue::from_static("GET,POST,PUT,DELETE");

/// The request headers by which answers differ, for caches.
const VARY: HeaderValue = HeaderValue::from_static(
    "origin, access-control-request-method, access-control-request-headers",
);

/// The response headers that a page may read: all that are meant for clients. With credentials `*` would
/// not name them (Fetch, section 3.3.5).
const EXPOSED_HEADERS: HeaderValue = HeaderValue::from_static(
    "accept,accept-encoding,allow,etag,link,location,retry-after,www-authenticate,event-head,event-log,\
     event-next,event-position,idempotent-replayed,preference-applied,projection-pending,ratelimit,\
     ratelimit-policy,x-request-id",
);

/// Lets pages of these origins, which `config` has validated, call the routes.
pub(super) fn allow<S>(router: Router<S>, origins: &[String]) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    let origins: Arc<[HeaderValue]> =
        origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect();
    if origins.is_empty() {
        return router;
    }
    router.layer(middleware::from_fn_with_state(origins, answer))
}

async fn answer(
    State(origins): State<Arc<[HeaderValue]>>,
    request: Request,
    next: Next,
) -> Response {
    let headers = request.headers();
    let origin = headers.get(header::ORIGIN).filter(|origin| origins.contains(origin)).cloned();
    let mut response = match &origin {
        Some(_) if is_preflight(&request) => preflight(&request),
        _ => next.run(request).await,
    };
    let headers = response.headers_mut();
    headers.append(header::VARY, VARY);
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        let credentials = HeaderValue::from_static("true");
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, credentials);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED_HEADERS);
    }
    response
}

/// Whether a browser asks before it sends the request of a page (Fetch, section 3.3.1).
fn is_preflight(request: &Request) -> bool {
    request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// Allows what the page asks for, on each path: a page may read that there is no such route.
fn preflight(request: &Request) -> Response {
    let mut response = StatusCode::OK.into_response();
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    // Its tracing adds headers that the service does not know, and a page that may send a token is trusted with
    // every other header.
    for asked in request.headers().get_all(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.append(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
    }
    response
}
