//! `POST /customers/{id}/restore`: gives a customer the values of an earlier version, also after its deletion.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use super::body::Body;
use super::conditions;
use super::customers::{external_id_change, origin, shown};
use super::error::ApiError;
use super::guard::{Authorized, Editor};
use super::query::{CustomerPath, Params};
use super::state::Api;

/// `POST /customers/{id}/restore`
pub(super) async fn restore(
    authorized: Authorized<Editor>,
    State(api): State<Api>,
    path: CustomerPath,
    mut params: Params,
    headers: HeaderMap,
    mut body: Body,
) -> Result<Response, ApiError> {
    let if_match = params.compared(&headers)?;
    params.none()?;
    let version = body.version("version");
    let external_id = external_id_change(&mut body);
    let reason = body.reason();
    let version = body.finish((version,))?;
    conditions::require_if_match(&headers, api.require_if_match)?;
    let origin = origin(authorized.metadata(), &headers, reason)?;
    let written = api.bus.restore(path.id()?, version, external_id, if_match, origin).await?;
    shown(&api, &headers, StatusCode::OK, &written).await
}
