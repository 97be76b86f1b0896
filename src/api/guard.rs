//! Authorization: a parameter of a handler, with the role in its type. A handler gets the principal from
//! this parameter only.

use std::marker::PhantomData;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};

use super::error::ApiError;
use super::read_again::KnownPrincipal;
use super::request::Caller;
use super::state::Api;
use crate::auth::cookie::Sent;
use crate::auth::{Principal, Purpose};
use crate::events::metadata::Metadata;
use crate::events::values::Role;

/// The role and the purpose that a handler requires.
pub trait Requirement: Send {
    const ROLE: Role;
    const PURPOSE: Purpose = Purpose::Access;
}

/// Any account: every role covers a viewer.
pub struct Viewer;
pub struct Editor;
/// A program that keeps a copy, and those who may see all of the log.
pub struct Subscriber;
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

impl Requirement for Subscriber {
    const ROLE: Role = Role::Subscriber;
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
    requirement: PhantomData<R>,
}

impl<R> Authorized<R> {
    /// The metadata of the events that the request causes, without its reason.
    #[must_use]
    pub fn metadata(&self) -> Metadata {
        let principal = &self.principal;
        Metadata {
            actor: Some(principal.username().to_string()),
            role: Some(principal.role.to_string()),
            session: Some(principal.sid().to_owned()),
            ..Metadata::clone(self.caller.metadata())
        }
    }
}

impl<R: Requirement> FromRequestParts<Api> for Authorized<R> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let caller = caller(parts)?;
        let token = bearer(&parts.headers).ok_or(ApiError::Unauthenticated)?;
        let cookie = sent_cookies(api, &parts.headers).cookie;
        let known = parts.extensions.get::<KnownPrincipal>();
        let principal = match known.and_then(|known| known.0.get()) {
            Some(principal) => principal.clone(),
            None => api.auth.authenticate(token, cookie, R::PURPOSE, caller.metadata()).await?,
        };
        if let Some(known) = known {
            let _ = known.0.set(principal.clone());
        }
        if !principal.role.covers(R::ROLE) {
            return Err(ApiError::Forbidden(R::ROLE));
        }
        Ok(Self { principal, caller, requirement: PhantomData })
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

/// The session cookie, from all `Cookie` headers.
pub(super) fn sent_cookies<'a>(api: &Api, headers: &'a HeaderMap) -> Sent<'a> {
    let headers = headers.get_all(header::COOKIE).iter();
    api.auth.cookies().read(headers.map(HeaderValue::as_bytes))
}
