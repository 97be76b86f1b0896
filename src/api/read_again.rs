//! What a database did not answer is read again: a replica that lags or does not answer, then the primary;
//! a primary whose connection was lost, then the primary on a fresh connection. The client does not
//! notice. Everything before the read happens once: the session is checked once, and the request counts
//! once.

use std::sync::{Arc, OnceLock};

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;

use super::error::Problem;
use super::pool_choice::Source;
use super::request::BoxRequest;
use super::state::Api;
use crate::auth::Principal;

/// The principal of a request that is read again, once it is authenticated.
#[derive(Clone, Default)]
pub(super) struct KnownPrincipal(pub(super) Arc<OnceLock<Principal>>);

/// For a route that reads only. With `replicated` the replica is tried first; when it lags (404), is
/// unreachable, or cancelled the query to replay the log, the request goes to the primary.
pub(super) async fn read_again<F>(
    api: &Api,
    replicated: bool,
    request: BoxRequest,
    endpoint: impl Fn(Request) -> F,
) -> Response
where
    F: Future<Output = Response>,
{
    // A GET: its body is not read.
    let (mut parts, _) = request.into_parts();
    let principal = KnownPrincipal::default();
    parts.extensions.insert(principal.clone());
    let read = |source: Source| {
        let mut request = Request::from_parts(parts.clone(), Body::empty());
        request.extensions_mut().insert(source);
        endpoint(request)
    };
    let problem = |response: &Response| {
        // What fails before or during authentication is not repeated: it would count twice.
        let authenticated = principal.0.get();
        authenticated.and_then(|_| response.extensions().get::<Problem>().cloned())
    };
    if let Some(replica) = api.replica.as_ref().filter(|replica| replicated && replica.is_usable())
    {
        let response = read(Source::Replica).await;
        let Some(failed) = problem(&response).filter(|problem| problem.is_of_database) else {
            return response;
        };
        if failed.is_lost {
            replica.short.server().discard_connections();
        }
        metrics::counter!("customers_replica_fallbacks_total").increment(1);
    }
    let response = read(Source::Primary).await;
    if problem(&response).is_some_and(|problem| problem.is_lost) {
        api.short.server().discard_connections();
        return read(Source::Primary).await;
    }
    response
}
