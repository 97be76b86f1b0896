//! Parsers of query parameters and path segments. An error names its parameter.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;

use super::conditions;
use super::error::{ApiError, FieldError};
use crate::commands::IfMatch;
use crate::events::values::CustomerId;

/// How many wrong parameters an error names, and how many bytes of each name, so that a response is not
/// larger than its request.
const PARAMETER_ERRORS_MAX: usize = 8;
pub(super) const PARAMETER_NAME_MAX: usize = 64;

/// The query parameters as text, and the conditions of the request. Each route names the parameters that it
/// accepts, and says whether it compares conditions.
pub struct Params {
    query: Vec<(String, String)>,
    /// The conditions that the route does not compare.
    refused: Vec<FieldError>,
    /// `Accept` excludes what the route answers with.
    not_acceptable: Option<NotAcceptable>,
}

/// The media types that a route answers with, if the request accepts none of them. The frame of the route gives it to
/// the request.
#[derive(Clone)]
pub(super) struct NotAcceptable(pub(super) Arc<str>);

impl<S: Sync> FromRequestParts<S> for Params {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let query = parts.uri.query().unwrap_or_default();
        let query = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let refused = conditions::refused(&parts.method, &parts.headers);
        let not_acceptable = parts.extensions.get().cloned();
        Ok(Self { query, refused, not_acceptable })
    }
}

impl Params {
    /// The versions of a customer that the conditions of a change allow. Called before [`Params::only`],
    /// which refuses conditions that the route does not compare.
    pub fn compared(&mut self, headers: &HeaderMap) -> Result<IfMatch, ApiError> {
        self.refused.clear();
        conditions::of_change(headers)
    }

    /// The values of the known parameters; 400, which names them, if parameters are unknown or repeated, or
    /// if the request has conditions that the route does not compare. 406 if it accepts no answer of the route.
    pub fn only<const N: usize>(self, known: [&str; N]) -> Result<[Option<String>; N], ApiError> {
        let mut values = [const { None }; N];
        let mut errors = self.refused;
        for (name, value) in self.query {
            let problem = match known.iter().position(|known| *known == name) {
                None => "is not a parameter of this route",
                Some(index) if values[index].replace(value).is_some() => "must be given only once",
                Some(_) => continue,
            };
            let field = &name[..name.floor_char_boundary(PARAMETER_NAME_MAX)];
            if errors.len() < PARAMETER_ERRORS_MAX && errors.iter().all(|e| e.field != field) {
                errors.push(FieldError::new(field, problem));
            }
        }
        match self.not_acceptable {
            _ if !errors.is_empty() => Err(ApiError::Malformed(errors)),
            Some(NotAcceptable(types)) => Err(ApiError::NotAcceptable(types)),
            None => Ok(values),
        }
    }

    /// 400, which names them, if there are parameters: the route accepts none.
    pub fn none(self) -> Result<(), ApiError> {
        self.only([]).map(|_: [Option<String>; 0]| ())
    }
}

/// A non-negative decimal integer, saturated at `i64::MAX`; 400 otherwise.
pub(super) fn plain_number(name: &str, text: &str) -> Result<i64, ApiError> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(ApiError::malformed(name, "must be a plain non-negative integer"));
    }
    Ok(text.parse().unwrap_or(i64::MAX))
}

/// The number of items of a page: 1 to 1000, by default 100; 400 otherwise.
pub(super) fn page_limit(text: Option<&str>) -> Result<usize, ApiError> {
    let Some(text) = text else { return Ok(100) };
    match usize::try_from(plain_number("limit", text)?) {
        Ok(limit @ 1..=1000) => Ok(limit),
        Ok(_) | Err(_) => Err(ApiError::malformed("limit", "must be from 1 to 1000")),
    }
}

/// A name in a path, decoded; `None` if it is not UTF-8. The table of routes gives it to the request.
#[derive(Clone)]
pub struct PathName(pub Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for PathName {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().cloned().unwrap_or(Self(None)))
    }
}

/// The second name in a path, decoded; `None` if it is not UTF-8.
#[derive(Clone)]
pub struct SecondPathName(pub Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for SecondPathName {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().cloned().unwrap_or(Self(None)))
    }
}

/// The customer id in a path. A segment that is not an id is treated like an unknown customer.
pub struct CustomerPath(Option<CustomerId>);

impl<S: Send + Sync> FromRequestParts<S> for CustomerPath {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let name = parts.extensions.get().and_then(|PathName(name)| name.as_deref());
        Ok(Self(name.and_then(|name| CustomerId::parse(name).ok())))
    }
}

impl CustomerPath {
    /// 404 if the segment is not an id. Called after the checks of the body, so that a 404 comes after a
    /// 400.
    pub fn id(&self) -> Result<CustomerId, ApiError> {
        self.0.ok_or(ApiError::NoCustomer)
    }
}
