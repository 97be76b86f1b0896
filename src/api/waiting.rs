//! Answers while the process waits for PostgreSQL at its start: alive, and not ready.

use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router, middleware};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::error::ApiError;
use super::ops::Health;
use super::request;

/// Answers on the listener until `work` is done.
pub async fn answer_during<F: Future>(
    listener: TcpListener,
    https: bool,
    public_path: &str,
    work: F,
) -> F::Output {
    let stop = CancellationToken::new();
    let path = public_path.to_owned();
    let early = move |request, next| request::early_envelope(https, path.clone(), request, next);
    let table = Router::new()
        .route("/livez", get(async || Json(Health { status: "ok", checks: json!({}) })))
        .route("/readyz", get(unready));
    let router = with_path(table, public_path)
        .fallback(async || ApiError::Unavailable("waiting for PostgreSQL".to_owned()))
        .layer(middleware::from_fn(early));
    let serve =
        axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
    let serving = tokio::spawn(serve.into_future());
    let done = work.await;
    stop.cancel();
    // Idle connections would keep it waiting.
    serving.abort();
    done
}

async fn unready() -> Response {
    let checks = json!({"postgres": "unavailable"});
    let health = Health { status: "unavailable", checks };
    (StatusCode::SERVICE_UNAVAILABLE, Json(health)).into_response()
}

/// The routes, and the same below the path of the public URL.
fn with_path<S: Clone + Send + Sync + 'static>(table: Router<S>, path: &str) -> Router<S> {
    if path.is_empty() { table } else { table.clone().nest(path, table) }
}
