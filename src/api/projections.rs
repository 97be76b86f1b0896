//! How far the read tables are, and rebuilding them: for operators.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use serde_json::json;

use super::Api;
use super::error::ApiError;
use super::extract::{Params, PathName};
use super::guard::{Admin, Allowed};
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
    allowed: Allowed<Admin>,
    State(api): State<Api>,
    params: Params,
) -> Result<Json<All>, ApiError> {
    let Allowed { .. } = allowed;
    params.none()?;
    Ok(Json(All { projections: status::status(api.read()).await? }))
}

/// `POST /projections/{name}/rebuild`: begins it, or goes on with one that was cut off. One that is
/// at work is left to go on.
pub(super) async fn rebuild(
    allowed: Allowed<Admin>,
    State(api): State<Api>,
    PathName(name): PathName,
    params: Params,
) -> Result<Response, ApiError> {
    let Allowed { .. } = allowed;
    params.none()?;
    let projection = name.and_then(|name| projections::find(&name)).ok_or(ApiError::NoRoute)?;
    match Rebuild::begin(projection, api.rebuild()).await {
        Ok(begun) => {
            let stopping = api.stopping().clone();
            tokio::spawn(stopping.run_until_cancelled_owned(run(projection, begun)));
        }
        Err(RebuildError::AtWork) => {}
        Err(RebuildError::Projection(error)) => return Err(error.into()),
        Err(error) => return Err(ApiError::Internal(error.to_string())),
    }
    let body = json!({"name": projection.name(), "state": status::State::Rebuilding});
    Ok((StatusCode::ACCEPTED, Json(body)).into_response())
}

async fn run(projection: &dyn Projection, begun: Rebuild) {
    let name = projection.name();
    match begun.run().await {
        Ok(Rebuilt { position, changed }) => {
            tracing::info!(projection = name, position, changed, "rebuilt");
        }
        Err(error) => tracing::error!(projection = name, %error, "the rebuild stopped"),
    }
}
