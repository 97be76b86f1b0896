//! Cross-origin resource sharing: the origins whose pages may call the API. None by default.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Method, header};
use tower_http::cors::CorsLayer;

/// How long a browser may cache the answer to a preflight request.
const MAX_AGE: Duration = Duration::from_mins(10);

/// The request headers that a page may set.
const ALLOWED_HEADERS: [HeaderName; 11] = [
    header::AUTHORIZATION,
    header::CONTENT_TYPE,
    header::IF_MATCH,
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("import-id"),
    HeaderName::from_static("last-event-id"),
    HeaderName::from_static("min-event-position"),
    HeaderName::from_static("prefer"),
    HeaderName::from_static("x-reason"),
    HeaderName::from_static("x-reason*"),
    HeaderName::from_static("x-request-id"),
];

/// The response headers that a page may read.
const EXPOSED_HEADERS: [HeaderName; 14] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::ETAG,
    header::LINK,
    header::LOCATION,
    header::RETRY_AFTER,
    HeaderName::from_static("event-head"),
    HeaderName::from_static("event-log"),
    HeaderName::from_static("event-next"),
    HeaderName::from_static("event-position"),
    HeaderName::from_static("projection-pending"),
    HeaderName::from_static("ratelimit"),
    HeaderName::from_static("ratelimit-policy"),
    HeaderName::from_static("x-request-id"),
];

/// The layer for these origins, which `config` has validated; `None` if there is none.
pub(super) fn layer(origins: &[String]) -> Option<CorsLayer> {
    let origins: Vec<_> =
        origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect();
    (!origins.is_empty()).then(|| {
        CorsLayer::new()
            .allow_origin(origins)
            .allow_credentials(true)
            .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
            .allow_headers(ALLOWED_HEADERS)
            .expose_headers(EXPOSED_HEADERS)
            .max_age(MAX_AGE)
    })
}
