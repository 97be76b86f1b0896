//! From bytes to values: query parameters, JSON bodies and headers, each refused with its name.

use std::collections::HashSet;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::error::{ApiError, FieldError};
use crate::commands::IfMatch;
use crate::events::metadata::Metadata;
use crate::events::values::{CustomerId, ValueError};

/// The largest JSON body, in bytes: far more than any request needs.
pub const BODY_MAX: usize = 64 * 1024;

/// How long a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(10);

/// The longest `X-Reason`, in Unicode scalar values.
const REASON_MAX_CHARS: usize = 500;

/// The longest `Idempotency-Key` and `Import-Id`, in bytes.
const KEY_MAX: usize = 255;

/// How many parameters are named that are wrong, and how much of each name, in bytes: nobody is sent
/// more than they sent.
const PARAMETER_ERRORS_MAX: usize = 8;
const PARAMETER_NAME_MAX: usize = 64;

/// The query parameters, still as text. Each route names those that it knows.
pub struct Params(Vec<(String, String)>);

impl<S: Sync> FromRequestParts<S> for Params {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let query = parts.uri.query().unwrap_or_default();
        Ok(Self(form_urlencoded::parse(query.as_bytes()).into_owned().collect()))
    }
}

impl Params {
    /// # Errors
    /// Names every parameter that is not known or stands there twice.
    pub fn only<const N: usize>(self, known: [&str; N]) -> Result<[Option<String>; N], ApiError> {
        let mut values = [const { None }; N];
        let mut errors: Vec<FieldError> = vec![];
        for (name, value) in self.0 {
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
        if errors.is_empty() { Ok(values) } else { Err(ApiError::Malformed(errors)) }
    }

    /// # Errors
    /// Names every parameter: the route has none.
    pub fn none(self) -> Result<(), ApiError> {
        self.only([]).map(|_: [Option<String>; 0]| ())
    }
}

/// A plain non-negative integer; one that no i64 holds is as good as the largest.
///
/// # Errors
/// Names the parameter.
pub(super) fn plain_number(name: &str, text: &str) -> Result<i64, ApiError> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(ApiError::malformed(name, "must be a plain non-negative integer"));
    }
    Ok(text.parse().unwrap_or(i64::MAX))
}

/// How many items a page holds: 1 to 1000, 100 if not said.
///
/// # Errors
/// Names the parameter.
pub(super) fn page_limit(text: Option<&str>) -> Result<usize, ApiError> {
    let Some(text) = text else { return Ok(100) };
    match usize::try_from(plain_number("limit", text)?) {
        Ok(limit @ 1..=1000) => Ok(limit),
        Ok(_) | Err(_) => Err(ApiError::malformed("limit", "must be from 1 to 1000")),
    }
}

/// What stands in a path in the place of a name; `None` names nothing: it is no UTF-8.
pub struct PathName(pub Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for PathName {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        let name = Path::<String>::from_request_parts(parts, state).await;
        Ok(Self(name.ok().map(|Path(name)| name)))
    }
}

/// The id in a path; whatever is none names no customer.
pub struct CustomerPath(Option<CustomerId>);

impl<S: Send + Sync> FromRequestParts<S> for CustomerPath {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        let PathName(name) = PathName::from_request_parts(parts, state).await?;
        Ok(Self(name.and_then(|name| CustomerId::parse(&name).ok())))
    }
}

impl CustomerPath {
    /// Asked behind the checks of the body: a 404 comes after a 400.
    ///
    /// # Errors
    /// When the path's id is no positive integer.
    pub fn id(&self) -> Result<CustomerId, ApiError> {
        self.0.ok_or(ApiError::NoCustomer)
    }
}

/// A JSON object, member by member. All that is wrong with it is named at once.
pub struct Body {
    members: Map<String, Value>,
    errors: Vec<FieldError>,
}

impl<S: Sync> FromRequest<S> for Body {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        if !is_json(request.headers()) {
            return Err(ApiError::UnsupportedMediaType("application/json"));
        }
        let bytes = read_body(request).await?;
        let value: Value = serde_json::from_slice(&bytes)
            .map_err(|error| ApiError::malformed("body", format!("is not JSON: {error}")))?;
        match value {
            Value::Object(members) => {
                // A reader before us may have taken the first of two; which is meant is anyone's guess.
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

    /// A member that is a string, parsed, if it is there and not null.
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

    /// A member that is a customer's id, a JSON integer.
    pub fn customer_id(&mut self, name: &str) -> Option<CustomerId> {
        const SHAPE: ValueError = ValueError("must be an integer from 1 to 9007199254740991");
        self.member(name, |value| value.as_i64().and_then(CustomerId::new).ok_or(SHAPE))
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// Names every member that is missing, of the wrong type or refused.
    pub fn finish(self) -> Result<(), ApiError> {
        if self.errors.is_empty() { Ok(()) } else { Err(ApiError::Invalid(self.errors)) }
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
        parsed.map_err(|error| self.errors.push(FieldError::new(name, error.to_string()))).ok()
    }
}

/// A JSON object in which no member stands twice.
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

/// `application/json`, or a type with the suffix `+json` (RFC 6839).
fn is_json(headers: &HeaderMap) -> bool {
    media_type(headers).is_some_and(|essence| {
        essence == "application/json"
            || (essence.starts_with("application/") && essence.ends_with("+json"))
    })
}

/// The type of the body, in lower case and without parameters; `None` when it is not said once, or
/// the body is packed: that cannot be read here.
pub(super) fn media_type(headers: &HeaderMap) -> Option<String> {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(Ok(text)), None) = (types.next().map(|value| value.to_str()), types.next()) else {
        return None;
    };
    if headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
        return None;
    }
    Some(text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

async fn read_body(request: Request) -> Result<Bytes, ApiError> {
    let body = Limited::new(request.into_body(), BODY_MAX).collect();
    match tokio::time::timeout(BODY_TIME, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(ApiError::TooLarge(BODY_MAX)),
        Ok(Err(_)) => Err(ApiError::malformed("body", "ended too early")),
        Err(_) => Err(ApiError::malformed("body", "did not arrive in time")),
    }
}

/// The one value of a header as text, if it is there.
///
/// # Errors
/// When it is there twice or is not UTF-8.
pub(super) fn header_text<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'a str>, ApiError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(ApiError::malformed(name.as_str(), "must be given only once"));
    }
    std::str::from_utf8(value.as_bytes())
        .map(Some)
        .map_err(|_| ApiError::malformed(name.as_str(), "must be UTF-8"))
}

/// Adds `X-Reason`: why the caller changes something. Asked by the handlers, not by the guard: a 415
/// comes before a 400.
///
/// # Errors
/// When it is too long.
pub(super) fn with_reason(metadata: Metadata, headers: &HeaderMap) -> Result<Metadata, ApiError> {
    Ok(Metadata { reason: reason(headers)?, ..metadata })
}

fn reason(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    const NAME: HeaderName = HeaderName::from_static("x-reason");
    let reason = header_text(headers, &NAME)?.map(str::trim).filter(|reason| !reason.is_empty());
    match reason {
        Some(text) if text.chars().count() > REASON_MAX_CHARS => {
            Err(ApiError::malformed("x-reason", "must have at most 500 characters"))
        }
        Some(text) => Ok(Some(text.to_owned())),
        None => Ok(None),
    }
}

/// `Idempotency-Key`: the client's own name for a request that is to be done once.
///
/// # Errors
/// When it is not 1 to 255 visible ASCII characters.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    visible_ascii(headers, &HeaderName::from_static("idempotency-key"))
}

/// A client's own name for something, if there is one.
///
/// # Errors
/// When it is not 1 to 255 visible ASCII characters.
pub(super) fn visible_ascii(
    headers: &HeaderMap,
    name: &HeaderName,
) -> Result<Option<String>, ApiError> {
    let key = header_text(headers, name)?;
    let plain = |key: &str| key.bytes().all(|b| b.is_ascii_graphic());
    match key {
        Some(key) if key.is_empty() || key.len() > KEY_MAX || !plain(key) => {
            let shape = "must be 1 to 255 visible ASCII characters";
            Err(ApiError::malformed(name.as_str(), shape))
        }
        key => Ok(key.map(str::to_owned)),
    }
}

/// `If-Match` (RFC 9110, section 13.1.1): `*`, or a list of entity tags, which may go on in another
/// header and have empty elements (section 5.6.1). Ours are the versions in quotes; weak tags never
/// match, and neither do tags that are not ours.
///
/// # Errors
/// When it is neither.
pub(super) fn if_match(headers: &HeaderMap) -> Result<IfMatch, ApiError> {
    const BETWEEN: [char; 3] = [',', ' ', '\t'];
    let malformed =
        || ApiError::malformed("if-match", "must be * or a list of entity tags like \"3\"");
    let values = headers.get_all(header::IF_MATCH).iter().map(|value| value.to_str());
    let values: Vec<&str> = values.collect::<Result<_, _>>().map_err(|_| malformed())?;
    if values.is_empty() {
        return Ok(IfMatch::Any);
    }
    let text = values.join(",");
    if text.trim() == "*" {
        return Ok(IfMatch::Any);
    }
    let mut rest = text.trim_start_matches(BETWEEN);
    let mut versions = vec![];
    loop {
        let (weak, tag) = match rest.strip_prefix("W/") {
            Some(tag) => (true, tag),
            None => (false, rest),
        };
        let (tag, behind) =
            tag.strip_prefix('"').and_then(|tag| tag.split_once('"')).ok_or_else(malformed)?;
        if !weak
            && let Ok(version) = tag.parse::<i64>()
            && version.to_string() == tag
        {
            versions.push(version);
        }
        let behind = behind.trim_start();
        if !behind.is_empty() && !behind.starts_with(',') {
            return Err(malformed());
        }
        rest = behind.trim_start_matches(BETWEEN);
        if rest.is_empty() {
            return Ok(IfMatch::OneOf(versions));
        }
    }
}

/// Whether `Prefer: respond-async` is there (RFC 7240). Other preferences are ignored.
pub(super) fn prefers_async(headers: &HeaderMap) -> bool {
    headers
        .get_all("prefer")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        // A preference may have parameters, which this one does not know.
        .filter_map(|preference| preference.split(';').next())
        .any(|preference| preference.trim().eq_ignore_ascii_case("respond-async"))
}
