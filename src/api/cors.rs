//! Cross-origin resource sharing: the origins whose pages may call the API. None by default. A request of any
//! other origin is answered as if it had none, without a header for its page.

use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use super::request::BoxRequest;

/// How long a browser may cache the answer to a preflight request, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

const METHODS: HeaderValue = HeaderValue::from_static("GET,POST,PUT,PATCH,DELETE");

/// The request headers by which answers differ, for caches.
const VARY: HeaderValue = HeaderValue::from_static(
    "origin, access-control-request-method, access-control-request-headers",
);

/// The response headers that a page may read: all that are meant for clients. With credentials `*` would
/// not name them (Fetch, section 3.3.5).
const EXPOSED_HEADERS: HeaderValue = HeaderValue::from_static(
    "accept,accept-encoding,allow,as-of,etag,link,location,retry-after,www-authenticate,event-head,event-log,\
     event-next,event-position,idempotent-replayed,preference-applied,projection-pending,ratelimit,\
     ratelimit-policy,x-request-id",
);

/// The origins whose pages may call the API.
pub(super) struct Origins(Vec<HeaderValue>);

impl Origins {
    /// Of origins that `config` has validated.
    pub(super) fn new(origins: &[String]) -> Self {
        Self(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect())
    }

    /// The answer to a request, for the page that sent it.
    pub(super) async fn answer<F>(
        &self,
        request: BoxRequest,
        answer: impl FnOnce(BoxRequest) -> F,
    ) -> Response
    where
        F: Future<Output = Response>,
    {
        if self.0.is_empty() {
            return answer(request).await;
        }
        let origin = request.headers().get(header::ORIGIN);
        let origin = origin.filter(|origin| self.0.contains(origin)).cloned();
        let mut response = match &origin {
            Some(_) if is_preflight(&request) => preflight(&request),
            _ => answer(request).await,
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
