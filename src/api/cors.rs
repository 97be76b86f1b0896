//! Which pages in browsers may ask, by their origin. None, if none is configured.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Method, header};
use tower_http::cors::CorsLayer;

/// How long a browser remembers what it was told.
const REMEMBERED: Duration = Duration::from_mins(10);

/// What pages may send beside what any page may.
const SENT: [HeaderName; 10] = [
    header::AUTHORIZATION,
    header::CONTENT_TYPE,
    header::IF_MATCH,
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("import-id"),
    HeaderName::from_static("last-event-id"),
    HeaderName::from_static("min-event-position"),
    HeaderName::from_static("prefer"),
    HeaderName::from_static("x-reason"),
    HeaderName::from_static("x-request-id"),
];

/// What pages may read.
const READ: [HeaderName; 11] = [
    header::ETAG,
    header::LINK,
    header::LOCATION,
    header::RETRY_AFTER,
    HeaderName::from_static("event-head"),
    HeaderName::from_static("event-next"),
    HeaderName::from_static("event-position"),
    HeaderName::from_static("projection-pending"),
    HeaderName::from_static("ratelimit"),
    HeaderName::from_static("ratelimit-policy"),
    HeaderName::from_static("x-request-id"),
];

/// `None` when no origin may ask. The origins were checked when they were configured.
pub(super) fn layer(origins: &[String]) -> Option<CorsLayer> {
    let origins: Vec<_> =
        origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect();
    (!origins.is_empty()).then(|| {
        CorsLayer::new()
            .allow_origin(origins)
            .allow_credentials(true)
            .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
            .allow_headers(SENT)
            .expose_headers(READ)
            .max_age(REMEMBERED)
    })
}
