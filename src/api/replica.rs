//! Reads from a replica while it answers and shows enough; else from the primary, unseen by the client.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;

use super::pool_choice::Source;
use super::state::Api;

/// Asks the replica first. A request that the replica answers with 404 or an error (it lags, it is away,
/// or it cancelled the query to replay the log) goes to the primary.
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
