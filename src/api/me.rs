//! `GET /me`: the account and the session of a request, as the service sees them.

use axum::Json;
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;

use super::error::ApiError;
use super::guard::{Authorized, Viewer};
use super::query::Params;
use crate::clock;

#[derive(Serialize)]
struct Me<'a> {
    username: &'a str,
    /// The role of the session; a change of the account's role ends its sessions.
    role: &'static str,
    sid: &'a str,
    expires_at: String,
}

/// `GET /me`
pub(super) async fn show(
    authorized: Authorized<Viewer>,
    params: Params,
) -> Result<Response, ApiError> {
    params.none()?;
    let principal = &authorized.principal;
    let seconds = principal.expires_at();
    let expires_at = clock::from_unix(seconds)
        .map(clock::rfc3339)
        .ok_or_else(|| ApiError::Internal(format!("invalid time of a token: {seconds}")))?;
    let me = Me {
        username: principal.username().as_str(),
        role: principal.role.as_str(),
        sid: principal.sid(),
        expires_at,
    };
    Ok(Json(me).into_response())
}
