//! The span of a request, which everything that the request causes is inside of.

use tracing::Span;

/// The span of a request. Its log lines name the id.
#[must_use]
pub fn request_span(request_id: &str) -> Span {
    tracing::info_span!("request", request_id)
}
