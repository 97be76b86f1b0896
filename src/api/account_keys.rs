//! Service keys: an admin, or the account itself, lists, adds and revokes the keys with which programs get tokens.

use axum::Json;
use axum::extract::{FromRequest as _, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use serde_json::json;

use super::accounts::username;
use super::body::Body;
use super::error::ApiError;
use super::guard::{Authorized, Viewer};
use super::query::{Params, PathName, SecondPathName};
use super::reason::{with_reason, with_reasons};
use super::state::Api;
use crate::auth::account_keys::ServiceKey;
use crate::clock;
use crate::events::account_key::{ClientId, KeyExpiry, KeyName};
use crate::events::values::{Role, Username};

/// A key, without its secret.
#[derive(Serialize)]
struct Shown<'a> {
    client_id: ClientId,
    name: &'a KeyName,
    created_at: String,
    expires_at: KeyExpiry,
    last_used_at: Option<String>,
}

impl<'a> From<&'a ServiceKey> for Shown<'a> {
    fn from(key: &'a ServiceKey) -> Self {
        Self {
            client_id: key.client_id,
            name: &key.name,
            created_at: clock::rfc3339(key.created_at),
            expires_at: key.expires_at,
            last_used_at: key.last_used_at.map(clock::rfc3339),
        }
    }
}

/// `GET /accounts/{username}/keys`
pub(super) async fn list(
    authorized: Authorized<Viewer>,
    State(api): State<Api>,
    PathName(name): PathName,
    params: Params,
) -> Result<Response, ApiError> {
    let username = managed(&authorized, name)?;
    params.none()?;
    let keys = api.auth.keys_of(&username?).await?;
    let shown: Vec<_> = keys.iter().map(Shown::from).collect();
    Ok(Json(json!({ "keys": shown })).into_response())
}

/// `POST /accounts/{username}/keys`
pub(super) async fn add(
    authorized: Authorized<Viewer>,
    State(api): State<Api>,
    PathName(name): PathName,
    params: Params,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, ApiError> {
    let username = managed(&authorized, name)?;
    let is_own = username.as_ref().is_ok_and(|name| name == authorized.principal.username());
    if is_own && authorized.principal.client_id().is_some() {
        return Err(ApiError::KeyAddsKey);
    }
    // After the refusals of above.
    let mut body = Body::from_request(request, &api).await?;
    params.none()?;
    let name = body.text("name", KeyName::parse);
    let expires_at = body.text("expires_at", |text| KeyExpiry::parse(text, api.clock.now()));
    let reason = body.reason();
    let (name, expires_at) = body.finish((name, expires_at))?;
    let metadata = with_reasons(authorized.metadata(), &headers, reason)?;
    let key = api.auth.add_key(&username?, name.clone(), expires_at, metadata).await?;
    let shown = json!({
        "client_id": key.client_id, "client_secret": key.secret.expose(),
        "name": name, "expires_at": expires_at,
    });
    Ok((StatusCode::CREATED, Json(shown)).into_response())
}

/// `DELETE /accounts/{username}/keys/{client_id}`
pub(super) async fn revoke(
    authorized: Authorized<Viewer>,
    State(api): State<Api>,
    PathName(name): PathName,
    SecondPathName(client_id): SecondPathName,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let username = managed(&authorized, name)?;
    params.none()?;
    let metadata = with_reason(authorized.metadata(), &headers)?;
    let username = username?;
    let client_id = client_id.and_then(|id| ClientId::parse(&id).ok());
    let client_id = client_id.ok_or(ApiError::NoServiceKey)?;
    if !api.auth.revoke_key(&username, client_id, metadata).await? {
        return Err(ApiError::NoServiceKey);
    }
    Ok(Json(json!({"msg": "service key revoked, its sessions ended"})).into_response())
}

/// The account in the path, or 404 for later, if the caller may manage its keys; otherwise 403.
fn managed(
    authorized: &Authorized<Viewer>,
    name: Option<String>,
) -> Result<Result<Username, ApiError>, ApiError> {
    let username = username(name);
    let principal = &authorized.principal;
    let is_own = username.as_ref().is_ok_and(|name| name == principal.username());
    if is_own || principal.role.covers(Role::Admin) {
        Ok(username)
    } else {
        Err(ApiError::Forbidden(Role::Admin))
    }
}
