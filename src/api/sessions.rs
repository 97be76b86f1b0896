//! Log-in, log-out, session management, the cookie experiment, password change.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use serde_json::json;

use super::body::Body;
use super::error::ApiError;
use super::guard::{Authorized, CookieProof, Logout, SessionManagement, sent_cookies};
use super::limits;
use super::query::{Params, PathName};
use super::reason::{with_reason, with_reasons};
use super::request::Caller;
use super::state::Api;
use crate::auth::account::check_password;
use crate::auth::fair_queue::Network;
use crate::auth::session::OpenSession;
use crate::auth::{AuthError, Principal};
use crate::clock;
use crate::events::account_key::ClientId;
use crate::events::metadata::Metadata;
use crate::events::values::ValueError;

/// The response to a log-in (RFC 6749, section 5.1).
#[derive(Serialize)]
struct TokenAnswer<'a> {
    access_token: &'a str,
    token_type: &'static str,
    expires_in: u64,
}

/// `POST /login`
pub(super) async fn login(
    State(api): State<Api>,
    caller: Caller,
    params: Params,
    headers: HeaderMap,
    mut body: Body,
) -> Result<Response, ApiError> {
    params.none()?;
    let text = |text: &str| Ok(text.to_owned());
    let username = body.text("username", text);
    let password = body.text("password", text);
    let bind_now = body.optional_text("binding", |text| match text {
        "cookie" => Ok(()),
        _ => Err(ValueError("must be cookie if it is given")),
    });
    let (username, password) = body.finish((username, password))?;
    let address = limits::network(caller.ip).to_string();
    let network = Network::of(caller.ip);
    let logged_in = api
        .auth
        .login(
            &username,
            password,
            bind_now.is_some(),
            (&address, network),
            Metadata::clone(caller.metadata()),
        )
        .await
        .map_err(|error| match error {
            AuthError::Unauthenticated => ApiError::LoginFailed,
            error => error.into(),
        })?;
    let seconds = logged_in.ttl.as_secs();
    let token =
        TokenAnswer { access_token: &logged_in.token, token_type: "Bearer", expires_in: seconds };
    let mut response = Json(token).into_response();
    let sent = sent_cookies(&api, &headers);
    put_cookies(&mut response, api.auth.cookies().set(&logged_in.cookie, seconds, sent))?;
    Ok(response)
}

/// `DELETE /logout`
pub(super) async fn logout(
    authorized: Authorized<Logout>,
    State(api): State<Api>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    params.none()?;
    let metadata = with_reason(authorized.metadata(), &headers)?;
    api.auth.logout(&authorized.principal, metadata).await?;
    session_ended(&api, &headers, "logged out")
}

/// One session, as its owner sees it.
#[derive(Serialize)]
struct Shown<'a> {
    sid: &'a str,
    created_at: String,
    expires_at: String,
    ip: &'a str,
    user_agent: &'a str,
    /// Whether it is the session of this request.
    current: bool,
    /// The service key that opened it; absent for a log-in.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<ClientId>,
}

/// `GET /sessions`
pub(super) async fn list(
    authorized: Authorized<SessionManagement>,
    State(api): State<Api>,
    params: Params,
) -> Result<Response, ApiError> {
    params.none()?;
    let sessions = api.auth.list_sessions(&authorized.principal).await?;
    list_of(&sessions, &authorized.principal)
}

/// The answer to a list of sessions, for the owner of one of them or an admin.
pub(super) fn list_of(
    sessions: &[OpenSession],
    principal: &Principal,
) -> Result<Response, ApiError> {
    let time = |seconds| {
        clock::from_unix(seconds)
            .map(clock::rfc3339)
            .ok_or_else(|| ApiError::Internal(format!("invalid time of a session: {seconds}")))
    };
    let shown: Result<Vec<_>, ApiError> = sessions
        .iter()
        .map(|open| {
            Ok(Shown {
                sid: &open.sid,
                created_at: time(open.created_at)?,
                expires_at: time(open.expires_at)?,
                ip: &open.ip,
                user_agent: &open.user_agent,
                current: open.sid == principal.sid(),
                client_id: open.client_id,
            })
        })
        .collect();
    Ok(Json(json!({ "sessions": shown? })).into_response())
}

/// `DELETE /sessions`
pub(super) async fn end_all(
    authorized: Authorized<Logout>,
    State(api): State<Api>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    params.none()?;
    let metadata = with_reason(authorized.metadata(), &headers)?;
    let ended = api.auth.end_all_sessions(&authorized.principal, metadata).await?;
    session_ended(&api, &headers, &format!("logged out everywhere: {ended}"))
}

/// `DELETE /sessions/{sid}`
pub(super) async fn end_one(
    authorized: Authorized<SessionManagement>,
    State(api): State<Api>,
    PathName(sid): PathName,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    params.none()?;
    let sid = sid.ok_or(ApiError::NoSession)?;
    let metadata = with_reason(authorized.metadata(), &headers)?;
    if !api.auth.end_session(&authorized.principal, &sid, metadata).await? {
        return Err(ApiError::NoSession);
    }
    let msg = "session ended";
    if sid == authorized.principal.sid() {
        return session_ended(&api, &headers, msg);
    }
    Ok(Json(json!({"msg": msg})).into_response())
}

/// `GET /session_cookie_experiment`
pub(super) async fn experiment(
    authorized: Authorized<CookieProof>,
    params: Params,
) -> Result<Response, ApiError> {
    params.none()?;
    let msg =
        format!("welcome, {}: token and cookie belong together", authorized.principal.username());
    Ok(Json(json!({ "msg": msg })).into_response())
}

/// `POST /password`
pub(super) async fn change_password(
    authorized: Authorized<SessionManagement>,
    State(api): State<Api>,
    params: Params,
    headers: HeaderMap,
    mut body: Body,
) -> Result<Response, ApiError> {
    params.none()?;
    let old = body.text("old", |text| Ok(text.to_owned()));
    let new = body.text("new", |text| check_password(text).map(|()| text.to_owned()));
    let reason = body.reason();
    let (old, new) = body.finish((old, new))?;
    let metadata = with_reasons(authorized.metadata(), &headers, reason)?;
    let network = Network::of(authorized.caller.ip);
    let changed =
        api.auth.change_password(&authorized.principal, old, new, network, metadata).await?;
    if !changed {
        return Err(ApiError::invalid("old", ValueError("is not the account's password")));
    }
    Ok(Json(json!({"msg": "password changed, all other sessions ended"})).into_response())
}

/// A response that removes the cookie of a session that has ended.
pub(super) fn session_ended(
    api: &Api,
    headers: &HeaderMap,
    msg: &str,
) -> Result<Response, ApiError> {
    let mut response = Json(json!({"msg": msg})).into_response();
    put_cookies(&mut response, api.auth.cookies().expire(sent_cookies(api, headers)))?;
    Ok(response)
}

fn put_cookies(response: &mut Response, cookies: Vec<String>) -> Result<(), ApiError> {
    let headers = response.headers_mut();
    for cookie in cookies {
        let cookie =
            HeaderValue::try_from(cookie).map_err(|error| ApiError::Internal(error.to_string()))?;
        headers.append(header::SET_COOKIE, cookie);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(())
}
