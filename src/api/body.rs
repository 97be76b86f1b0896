//! JSON bodies, read member by member.

use std::collections::HashSet;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::Response;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::error::{ApiError, FieldError};
use super::query::PARAMETER_NAME_MAX;
use crate::events::values::{CustomerId, ValueError, parse_reason};

/// The largest JSON body, in bytes: far more than any request needs.
pub const BODY_MAX: usize = 64 * 1024;

/// How long the whole body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(10);

/// A JSON object, read member by member; one response names all of its errors.
pub struct Body {
    members: Map<String, Value>,
    errors: Vec<FieldError>,
}

impl<S: Sync> FromRequest<S> for Body {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        if !is_json(request.headers())? {
            return Err(ApiError::UnsupportedMediaType(&["application/json"]));
        }
        let bytes = read_body(request).await?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|error| {
            let text = error.to_string();
            let problem = match text.strip_prefix("recursion limit exceeded") {
                Some(at) => format!("has arrays and objects in more than 127 levels{at}"),
                None => format!("is not JSON: {text}"),
            };
            ApiError::malformed("body", problem)
        })?;
        match value {
            Value::Object(members) => {
                // A proxy may have used the other of two members with the same name, so both are
                // refused.
                serde_json::from_slice::<UniqueMembers>(&bytes)
                    .map_err(|error| ApiError::malformed("body", error.to_string()))?;
                Ok(Self { members, errors: vec![] })
            }
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_) => {
                Err(ApiError::Invalid(vec![FieldError::new("body", "must be a JSON object")]))
            }
        }
    }
}

impl Body {
    /// A member that is a string, parsed.
    pub fn text<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, ValueError>,
    ) -> Option<T> {
        self.member(name, |value| {
            value.as_str().ok_or(ValueError("must be a string")).and_then(parse)
        })
    }

    /// A member that is a string, parsed; `None` if it is missing or null.
    pub fn optional_text<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, ValueError>,
    ) -> Option<T> {
        match self.members.get(name) {
            None | Some(Value::Null) => None,
            Some(_) => self.text(name, parse),
        }
    }

    /// A member that is a string, parsed, or null; `None` if it is missing.
    pub fn nullable_text<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, ValueError>,
    ) -> Option<Option<T>> {
        match self.members.get(name) {
            None => None,
            Some(Value::Null) => Some(None),
            Some(_) => self.text(name, parse).map(Some),
        }
    }

    /// The number of a version, a JSON integer of at least 1.
    pub fn version(&mut self, name: &str) -> Option<i64> {
        const SHAPE: ValueError = ValueError("must be an integer of at least 1");
        self.member(name, |value| value.as_i64().filter(|version| *version > 0).ok_or(SHAPE))
    }

    /// A member that is true or false; `None` if it is missing or null.
    pub fn optional_bool(&mut self, name: &str) -> Option<bool> {
        match self.members.get(name) {
            None | Some(Value::Null) => None,
            Some(_) => self
                .member(name, |value| value.as_bool().ok_or(ValueError("must be true or false"))),
        }
    }

    /// The member `reason`: the caller's reason for the change.
    pub fn reason(&mut self) -> Option<String> {
        self.optional_text("reason", parse_reason).flatten()
    }

    /// A member that is a customer's id, a JSON integer.
    pub fn customer_id(&mut self, name: &str) -> Option<CustomerId> {
        const SHAPE: ValueError = ValueError("must be an integer from 1 to 9007199254740991");
        self.member(name, |value| value.as_i64().and_then(CustomerId::new).ok_or(SHAPE))
    }

    /// The values, if all are valid; otherwise 422, which names every member that is missing, of the
    /// wrong type or refused.
    pub fn finish<V: AllPresent>(self, values: V) -> Result<V::Present, ApiError> {
        match values.all() {
            Some(present) if self.errors.is_empty() => Ok(present),
            _ => Err(ApiError::Invalid(self.errors)),
        }
    }

    fn member<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&Value) -> Result<T, ValueError>,
    ) -> Option<T> {
        let parsed = match self.members.get(name) {
            None => Err(ValueError("is required")),
            Some(value) => parse(value),
        };
        self.checked(name, parsed)
    }

    /// A value that is not a member; the response names its error together with those of the members.
    pub fn checked<T>(&mut self, name: &str, parsed: Result<T, ValueError>) -> Option<T> {
        parsed.map_err(|error| self.errors.push(FieldError::new(name, error.to_string()))).ok()
    }
}

/// A tuple of optional values, all of which are required.
pub trait AllPresent {
    type Present;

    fn all(self) -> Option<Self::Present>;
}

impl<A> AllPresent for (Option<A>,) {
    type Present = A;

    fn all(self) -> Option<A> {
        self.0
    }
}

/// No value is required.
impl AllPresent for () {
    type Present = ();

    fn all(self) -> Option<()> {
        Some(())
    }
}

impl<A, B> AllPresent for (Option<A>, Option<B>) {
    type Present = (A, B);

    fn all(self) -> Option<(A, B)> {
        self.0.zip(self.1)
    }
}

impl<A, B, C> AllPresent for (Option<A>, Option<B>, Option<C>) {
    type Present = (A, B, C);

    fn all(self) -> Option<(A, B, C)> {
        let ((a, b), c) = self.0.zip(self.1).zip(self.2)?;
        Some((a, b, c))
    }
}

/// A JSON object in which no member is repeated.
struct UniqueMembers;

impl<'de> Deserialize<'de> for UniqueMembers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Self)
    }
}

impl<'de> Visitor<'de> for UniqueMembers {
    type Value = Self;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut seen = HashSet::new();
        while let Some((name, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
            let short = name[..name.floor_char_boundary(PARAMETER_NAME_MAX)].to_owned();
            if !seen.insert(name) {
                let problem = format!("the member {short:?} must be given only once");
                return Err(serde::de::Error::custom(problem));
            }
        }
        Ok(self)
    }
}

/// An answer of JSON that is finished.
pub(super) fn json_answer(json: impl Into<axum::body::Body>) -> Response {
    let mut answer = Response::new(json.into());
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// `application/json`, or a type with the suffix `+json` (RFC 6839).
fn is_json(headers: &HeaderMap) -> Result<bool, ApiError> {
    Ok(media_type(headers)?.is_some_and(|essence| {
        essence == "application/json"
            || (essence.starts_with("application/") && essence.ends_with("+json"))
    }))
}

/// The media type of the body, in lower case and without parameters; `None` unless it is given exactly
/// once. 415 if the body is packed.
pub(super) fn media_type(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    if !codings(headers, &header::CONTENT_ENCODING).all(|coding| is(coding, b"identity")) {
        return Err(ApiError::ContentCoding);
    }
    unpacked_type(headers)
}

/// The same of what a packed body contains. 415 if the body has a transfer coding that the HTTP library leaves in it.
pub(super) fn unpacked_type(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    if !codings(headers, &header::TRANSFER_ENCODING).all(|coding| is(coding, b"chunked")) {
        return Err(ApiError::TransferCoding);
    }
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(Ok(text)), None) = (types.next().map(|value| value.to_str()), types.next()) else {
        return Ok(None);
    };
    Ok(Some(text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()))
}

/// The codings that a header lists. Lists may have empty elements (RFC 9110, section 5.6.1).
pub(super) fn codings<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(name).iter();
    let codings = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    codings.map(<[u8]>::trim_ascii).filter(|coding| !coding.is_empty())
}

/// Codings are case-insensitive (RFC 9110, section 8.4.1).
fn is(coding: &[u8], known: &[u8]) -> bool {
    coding.eq_ignore_ascii_case(known)
}

/// The whole body; 413 if it is too large.
pub(super) async fn read_body(request: Request) -> Result<Bytes, ApiError> {
    let body = Limited::new(request.into_body(), BODY_MAX).collect();
    match tokio::time::timeout(BODY_TIME, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(ApiError::TooLarge(BODY_MAX)),
        Ok(Err(_)) => Err(ApiError::malformed("body", "ended too early")),
        Err(_) => Err(ApiError::malformed("body", "did not arrive in time")),
    }
}
