//! Reads from a replica while it answers and shows the requested position; otherwise from the primary. The
//! client does not notice the fallback.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;

use super::pool_choice::Source;
use super::state::Api;

/// Tries the replica first. After a 404 or a 5xx (the replica lags, is unreachable, or cancelled the query
/// to replay the log) the request goes to the primary.
pub(super) async fn prefer_replica(
    State(api): State<Api>,
    request: Request,
    next: Next,
) -> Response {
    let Some(replica) = &api.replica else { return next.run(request).await };
    if replica.is_unavailable() {
        return next.run(request).await;
    }
    // A GET: its body is not read.
    let (parts, _) = request.into_parts();
    let mut first = Request::from_parts(parts.clone(), Body::empty());
    first.extensions_mut().insert(Source::Replica);
    let response = next.clone().run(first).await;
    if response.status() != StatusCode::NOT_FOUND && !response.status().is_server_error() {
        return response;
    }
    metrics::counter!("customers_replica_fallbacks_total").increment(1);
    next.run(Request::from_parts(parts, Body::empty())).await
}
