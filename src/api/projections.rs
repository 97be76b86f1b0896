//! Status and rebuild of projections, for operators.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use serde_json::json;
use tokio::sync::oneshot;

use super::error::ApiError;
use super::guard::{Admin, Authorized};
use super::query::{Params, PathName};
use super::state::Api;
use crate::postgres::Pool;
use crate::projections::rebuild::{Rebuild, RebuildError, Rebuilt};
use crate::projections::status::{self, Status};
use crate::projections::{self, Projection};

/// All projections.
#[derive(Serialize)]
pub struct All {
    projections: Vec<Status>,
}

/// `GET /projections`
pub(super) async fn list(
    _: Authorized<Admin>,
    State(api): State<Api>,
    params: Params,
) -> Result<Json<All>, ApiError> {
    params.none()?;
    Ok(Json(All { projections: status::status(&api.short).await? }))
}

/// `POST /projections/{name}/rebuild`: begins a rebuild, or resumes an interrupted one. A rebuild that is
/// running continues.
pub(super) async fn rebuild(
    _: Authorized<Admin>,
    State(api): State<Api>,
    PathName(name): PathName,
    params: Params,
) -> Result<Response, ApiError> {
    params.none()?;
    let projection = name.and_then(|name| projections::find(&name)).ok_or(ApiError::NoRoute)?;
    let (begun, answer) = oneshot::channel();
    let rebuild = run(projection, api.rebuild.clone(), begun);
    // Continues when the client disconnects.
    api.tasks.spawn(api.stopping.clone().run_until_cancelled_owned(rebuild));
    match answer.await {
        Ok(Ok(()) | Err(RebuildError::AlreadyRunning)) => {}
        Ok(Err(RebuildError::Projection(error))) => return Err(error.into()),
        Ok(Err(error @ RebuildError::PreviousAttemptRunning)) => {
            return Err(ApiError::Unavailable(error.to_string()));
        }
        Ok(Err(error @ RebuildError::Obstructed(_))) => {
            return Err(ApiError::Obstructed(error.to_string()));
        }
        Ok(Err(error)) => return Err(ApiError::Internal(error.to_string())),
        Err(_) => return Err(ApiError::Unavailable("the process is stopping".to_owned())),
    }
    let body = json!({"name": projection.name(), "state": status::State::Rebuilding});
    Ok((StatusCode::ACCEPTED, Json(body)).into_response())
}

/// Reports whether the rebuild began, and runs it.
async fn run(
    projection: &'static dyn Projection,
    pool: Pool,
    begun: oneshot::Sender<Result<(), RebuildError>>,
) {
    let name = projection.name();
    let rebuild = match Rebuild::begin(projection, &pool).await {
        Ok(rebuild) => rebuild,
        Err(error) => return drop(begun.send(Err(error))),
    };
    // The client may have disconnected.
    let _ = begun.send(Ok(()));
    match rebuild.run().await {
        Ok(Rebuilt { position, changed }) => {
            tracing::info!(projection = name, position, changed, "rebuild: done");
        }
        Err(error) => tracing::error!(projection = name, %error, "rebuild: failed"),
    }
}
