//! Authorization: a parameter of a handler, with the role in its type. A handler gets the principal from
//! this parameter only.

use std::marker::PhantomData;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};

use super::error::ApiError;
use super::read_again::KnownPrincipal;
use super::request::Caller;
use super::state::Api;
use crate::auth::{Cookie, Principal, Purpose};
use crate::events::metadata::Metadata;
use crate::events::values::Role;

/// The name of the cookie on plain http.
const COOKIE: &str = "customers_session";

/// The name of the cookie on https: browsers accept it only from this very host, with `Secure` and
/// the path `/` (RFC 6265bis, section 4.1.3.2).
const HOST_COOKIE: &str = "__Host-session";

/// The name of the cookie on https below a path: browsers accept it only with `Secure` (section 4.1.3.1).
const SECURE_COOKIE: &str = "__Secure-session";

/// The role and the purpose that a handler requires.
pub trait Requirement: Send {
    const ROLE: Role;
    const PURPOSE: Purpose = Purpose::Access;
}

/// Any account: every role covers a viewer.
pub struct Viewer;
pub struct Editor;
pub struct Auditor;
pub struct Admin;
/// Any account; the cookie is always required.
pub struct CookieProof;
/// Any account, even one over its rate limit: to list and end its sessions.
pub struct SessionManagement;
/// Any account, without a rate limit: to end this session.
pub struct Logout;

impl Requirement for Viewer {
    const ROLE: Role = Role::Viewer;
}

impl Requirement for Editor {
    const ROLE: Role = Role::Editor;
}

impl Requirement for Auditor {
    const ROLE: Role = Role::Auditor;
}

impl Requirement for Admin {
    const ROLE: Role = Role::Admin;
}

impl Requirement for CookieProof {
    const ROLE: Role = Role::Viewer;
    const PURPOSE: Purpose = Purpose::CookieProof;
}

impl Requirement for SessionManagement {
    const ROLE: Role = Role::Viewer;
    const PURPOSE: Purpose = Purpose::SessionManagement;
}

impl Requirement for Logout {
    const ROLE: Role = Role::Viewer;
    const PURPOSE: Purpose = Purpose::Logout;
}

/// An authenticated request whose role covers that of `R`.
pub struct Authorized<R> {
    pub principal: Principal,
    pub caller: Caller,
    /// The metadata of the events that the request causes, without its reason.
    pub metadata: Metadata,
    requirement: PhantomData<R>,
}

impl<R: Requirement> FromRequestParts<Api> for Authorized<R> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let caller = caller(parts)?;
        let mut metadata = caller.metadata();
        let token = bearer(&parts.headers).ok_or(ApiError::Unauthenticated)?;
        let cookie = cookie(&parts.headers, cookie_name(api.https, &api.public_path));
        let known = parts.extensions.get::<KnownPrincipal>();
        let principal = match known.and_then(|known| known.0.get()) {
            Some(principal) => principal.clone(),
            None => api.auth.authenticate(token, cookie, R::PURPOSE, &metadata).await?,
        };
        if let Some(known) = known {
            let _ = known.0.set(principal.clone());
        }
        if !principal.role.covers(R::ROLE) {
            return Err(ApiError::Forbidden(R::ROLE));
        }
        metadata.actor = Some(principal.username.to_string());
        metadata.role = Some(principal.role.to_string());
        metadata.session = Some(principal.sid.clone());
        Ok(Self { principal, caller, metadata, requirement: PhantomData })
    }
}

/// The caller of a route that needs no log-in.
impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        caller(parts)
    }
}

fn caller(parts: &Parts) -> Result<Caller, ApiError> {
    parts
        .extensions
        .get()
        .cloned()
        .ok_or_else(|| ApiError::Internal("a route without the request middleware".to_owned()))
}

/// The token of the one `Authorization: Bearer` (RFC 6750, section 2.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The session cookie, from all `Cookie` headers. Other cookies are ignored.
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Cookie<'a> {
    let mut found = Cookie::Absent;
    let pairs = headers.get_all(header::COOKIE).iter().flat_map(|value| {
        // As bytes: another application's cookie need not be ASCII.
        value.as_bytes().split(|byte| *byte == b';')
    });
    for pair in pairs {
        let at = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
        let (key, value) = pair.split_at(at);
        if key.trim_ascii() == name.as_bytes() {
            let value = value.strip_prefix(b"=").unwrap_or(value).trim_ascii();
            found = match found {
                // A value that is not UTF-8 matches no session.
                Cookie::Absent => Cookie::One(std::str::from_utf8(value).unwrap_or_default()),
                Cookie::One(_) | Cookie::Several => Cookie::Several,
            };
        }
    }
    found
}

fn cookie_name(https: bool, public_path: &str) -> &'static str {
    match (https, public_path) {
        (false, _) => COOKIE,
        (true, "") => HOST_COOKIE,
        (true, _) => SECURE_COOKIE,
    }
}

/// The `Set-Cookie` header of a log-in, for a value and its lifetime in seconds; without a value, that
/// of a log-out (RFC 6265, section 4.1).
pub(super) fn set_cookie(https: bool, public_path: &str, value: Option<(&str, u64)>) -> String {
    let name = cookie_name(https, public_path);
    let path = if public_path.is_empty() { "/" } else { public_path };
    let secure = if https { "; Secure" } else { "" };
    let (value, seconds) = value.unwrap_or(("", 0));
    format!("{name}={value}{secure}; HttpOnly; SameSite=Strict; Path={path}; Max-Age={seconds}")
}
