//! Accounts, for admins: list, add, change; the sessions of any account.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde_json::json;

use super::body::Body;
use super::error::ApiError;
use super::guard::{Admin, Authorized};
use super::query::{Params, PathName};
use super::reason::{with_reason, with_reasons};
use super::sessions::{list_of, session_ended};
use super::state::Api;
use crate::auth::WantedAccount;
use crate::auth::account::{Account, check_password};
use crate::auth::account_changes::Part;
use crate::auth::fair_queue::Network;
use crate::clock;
use crate::events::values::{Role, Username, ValueError};

/// What a segment of a path encodes of a user name: all but the unreserved characters (RFC 3986, section 2.3).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// An account, without its secret.
#[derive(Serialize)]
struct Shown<'a> {
    username: &'a Username,
    role: Role,
    disabled: bool,
    created_at: String,
    /// Of the answer to a change: the members that are other ones now.
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<Vec<Part>>,
}

impl<'a> Shown<'a> {
    fn new(account: &'a Account) -> Self {
        let Account { username, role, disabled, created_at, .. } = account;
        let created_at = clock::rfc3339(*created_at);
        Self { username, role: *role, disabled: *disabled, created_at, changed: None }
    }
}

/// `GET /accounts`
pub(super) async fn list(
    _: Authorized<Admin>,
    State(api): State<Api>,
    params: Params,
) -> Result<Response, ApiError> {
    params.none()?;
    let accounts = api.auth.list_accounts().await?;
    let shown: Vec<_> = accounts.iter().map(Shown::new).collect();
    Ok(Json(json!({ "accounts": shown })).into_response())
}

/// `GET /accounts/{username}`
pub(super) async fn show(
    _: Authorized<Admin>,
    State(api): State<Api>,
    PathName(name): PathName,
    params: Params,
) -> Result<Response, ApiError> {
    params.none()?;
    let account = api.auth.account(&username(name)?).await?;
    Ok(Json(Shown::new(&account)).into_response())
}

/// `POST /accounts`
pub(super) async fn add(
    authorized: Authorized<Admin>,
    State(api): State<Api>,
    params: Params,
    headers: HeaderMap,
    mut body: Body,
) -> Result<Response, ApiError> {
    params.none()?;
    let username = body.text("username", Username::parse);
    let password = body.text("password", |text| check_password(text).map(|()| text.to_owned()));
    let role = body.text("role", Role::parse);
    let reason = body.reason();
    let (username, password, role) = body.finish((username, password, role))?;
    let metadata = with_reasons(authorized.metadata(), &headers, reason)?;
    let network = Network::of(authorized.caller.ip);
    let account = api.auth.add_account(username, password, role, network, metadata).await?;
    let mut response = (StatusCode::CREATED, Json(Shown::new(&account))).into_response();
    let name = utf8_percent_encode(account.username.as_str(), ENCODED);
    let location = format!("{}/accounts/{name}", api.public_path);
    let location =
        HeaderValue::try_from(location).map_err(|error| ApiError::Internal(error.to_string()))?;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

/// `PATCH /accounts/{username}`
pub(super) async fn change(
    authorized: Authorized<Admin>,
    State(api): State<Api>,
    PathName(name): PathName,
    params: Params,
    headers: HeaderMap,
    mut body: Body,
) -> Result<Response, ApiError> {
    params.none()?;
    let role = body.optional_text("role", Role::parse);
    let disabled = body.optional_bool("disabled");
    let password =
        body.optional_text("password", |text| check_password(text).map(|()| text.to_owned()));
    let reason = body.reason();
    body.finish(())?;
    let metadata = with_reasons(authorized.metadata(), &headers, reason)?;
    let username = username(name)?;
    let wanted = WantedAccount { role, password, disabled };
    if username == *authorized.principal.username() {
        check_own(&wanted)?;
    }
    let network = Network::of(authorized.caller.ip);
    let (account, made) = api.auth.change_account(username, wanted, network, metadata).await?;
    let changed = made.iter().map(|made| made.part).collect();
    Ok(Json(Shown { changed: Some(changed), ..Shown::new(&account) }).into_response())
}

/// What an admin does not do to its own account. The session may be stolen, or the admin mistaken.
fn check_own(wanted: &WantedAccount) -> Result<(), ApiError> {
    if wanted.password.is_some() {
        let advice = ValueError("of your own account is changed by POST /password");
        return Err(ApiError::invalid("password", advice));
    }
    if wanted.disabled == Some(true) || wanted.role.is_some_and(|role| role != Role::Admin) {
        let refused = "an admin neither disables its own account nor gives up its role";
        return Err(ApiError::Lockout(refused.to_owned()));
    }
    Ok(())
}

/// `GET /accounts/{username}/sessions`
pub(super) async fn list_sessions(
    authorized: Authorized<Admin>,
    State(api): State<Api>,
    PathName(name): PathName,
    params: Params,
) -> Result<Response, ApiError> {
    params.none()?;
    let sessions = api.auth.sessions_of(&username(name)?).await?;
    list_of(&sessions, &authorized.principal)
}

/// `DELETE /accounts/{username}/sessions`
pub(super) async fn end_sessions(
    authorized: Authorized<Admin>,
    State(api): State<Api>,
    PathName(name): PathName,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    params.none()?;
    let metadata = with_reason(authorized.metadata(), &headers)?;
    let username = username(name)?;
    let ended = api.auth.end_sessions_of(&username, metadata).await?;
    let msg = format!("logged out everywhere: {ended}");
    if username == *authorized.principal.username() {
        return session_ended(&api, &headers, &msg);
    }
    Ok(Json(json!({ "msg": msg })).into_response())
}

/// The user name in a path; 404 if no account can have it.
pub(super) fn username(name: Option<String>) -> Result<Username, ApiError> {
    name.and_then(|name| Username::stored(&name).ok()).ok_or(ApiError::NoAccount)
}
