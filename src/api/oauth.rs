//! `POST /oauth/token` (RFC 6749, section 4.4: client credentials), where a program gets a token for its service key,
//! and the metadata of the authorization server (RFC 8414), by which libraries find it.
//!
//! What is wrong with the form or the client has the body of RFC 6749, section 5.2. What concerns HTTP (a body of
//! another type, a query parameter) or has no error there (too many requests, a server behind that is away) is a
//! problem, as on every other route.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use percent_encoding::percent_decode_str;
use serde::Serialize;

use super::body::{media_type, read_body};
use super::error::ApiError;
use super::limits;
use super::query::Params;
use super::request::Caller;
use super::state::Api;
use crate::auth::{AuthError, IssuedToken};
use crate::events::metadata::Metadata;
use crate::events::values::Role;

/// The path of the metadata; below a host, the path of the issuer comes after it (RFC 8414, section 3.1).
pub(super) const METADATA_PATH: &str = "/.well-known/oauth-authorization-server";

/// The one grant type (RFC 6749, section 4.4.2).
const CLIENT_CREDENTIALS: &str = "client_credentials";

const FORM: &str = "application/x-www-form-urlencoded";

/// Why there is no token.
#[derive(Debug)]
pub(super) enum TokenError {
    /// Says what is wrong, in the characters of RFC 6749, section 5.2.
    InvalidRequest(&'static str),
    /// The id or the secret is wrong, or its key or account has ended; or there is none.
    InvalidClient {
        in_body: bool,
    },
    UnsupportedGrantType,
    InvalidScope,
    Api(ApiError),
}

impl From<ApiError> for TokenError {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl IntoResponse for TokenError {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Shown {
            error: &'static str,
            error_description: &'static str,
        }
        // A client that has tried the header is told by which scheme (RFC 9110, section 11.6.1); so is one that has
        // tried nothing.
        let (status, error, error_description) = match self {
            Self::InvalidRequest(what) => (StatusCode::BAD_REQUEST, "invalid_request", what),
            Self::InvalidClient { in_body } => (
                if in_body { StatusCode::BAD_REQUEST } else { StatusCode::UNAUTHORIZED },
                "invalid_client",
                "wrong client_id or client_secret, or the key or its account has ended",
            ),
            Self::UnsupportedGrantType => (
                StatusCode::BAD_REQUEST,
                "unsupported_grant_type",
                "the grant_type must be client_credentials",
            ),
            Self::InvalidScope => (
                StatusCode::BAD_REQUEST,
                "invalid_scope",
                "the scope must be one role that the role of the account covers",
            ),
            Self::Api(error) => return error.into_response(),
        };
        let mut response = (status, Json(Shown { error, error_description })).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::UNAUTHORIZED {
            let challenge =
                HeaderValue::from_static("Basic realm=\"customers\", charset=\"UTF-8\"");
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// The parameters of the form that are read; others are ignored, and so is one without a value (section 3.2).
#[derive(Default)]
struct Form {
    grant_type: Option<String>,
    client_id: Option<String>,
    client_secret: Option<String>,
    scope: Option<String>,
}

impl Form {
    fn parse(body: &[u8]) -> Result<Self, TokenError> {
        let mut form = Self::default();
        for (name, value) in form_urlencoded::parse(body).filter(|(_, value)| !value.is_empty()) {
            let parameter = match &*name {
                "grant_type" => &mut form.grant_type,
                "client_id" => &mut form.client_id,
                "client_secret" => &mut form.client_secret,
                "scope" => &mut form.scope,
                _ => continue,
            };
            if parameter.replace(value.into_owned()).is_some() {
                return Err(TokenError::InvalidRequest("a parameter is given more than once"));
            }
        }
        Ok(form)
    }
}

/// What a client authenticates by.
struct Credentials {
    client_id: String,
    client_secret: String,
    in_body: bool,
}

/// `POST /oauth/token`
pub(super) async fn token(
    State(api): State<Api>,
    caller: Caller,
    params: Params,
    request: Request,
) -> Result<Response, TokenError> {
    let headers = request.headers().clone();
    if media_type(&headers)?.as_deref() != Some(FORM) {
        return Err(ApiError::UnsupportedMediaType(&[FORM]).into());
    }
    let body = read_body(request).await?;
    params.none()?;
    let mut form = Form::parse(&body)?;
    match form.grant_type.as_deref() {
        Some(CLIENT_CREDENTIALS) => {}
        Some(_) => return Err(TokenError::UnsupportedGrantType),
        None => return Err(TokenError::InvalidRequest("the grant_type is missing")),
    }
    let scope = form.scope.take();
    let Credentials { client_id, client_secret, in_body } = credentials(&headers, form)?;
    let role = scope.map(|scope| Role::parse(&scope)).transpose();
    let role = role.map_err(|_| TokenError::InvalidScope)?;
    let address = limits::network(caller.ip).to_string();
    let metadata = Metadata::clone(caller.metadata());
    let issued = api.auth.issue_token(&client_id, client_secret, role, &address, metadata).await;
    let issued = issued.map_err(|error| match error {
        AuthError::Unauthenticated => TokenError::InvalidClient { in_body },
        error => TokenError::Api(error.into()),
    })?;
    Ok(answer(&issued.ok_or(TokenError::InvalidScope)?))
}

/// The token (RFC 6749, section 5.1).
fn answer(issued: &IssuedToken) -> Response {
    #[derive(Serialize)]
    struct Shown<'a> {
        access_token: &'a str,
        token_type: &'static str,
        expires_in: u64,
        scope: &'static str,
    }
    let IssuedToken { token, ttl, role } = issued;
    let shown = Shown {
        access_token: token,
        token_type: "Bearer",
        expires_in: ttl.as_secs(),
        scope: role.as_str(),
    };
    let mut response = Json(shown).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The id and the secret, from one place only (RFC 6749, section 2.3).
fn credentials(headers: &HeaderMap, form: Form) -> Result<Credentials, TokenError> {
    const ONE: TokenError =
        TokenError::InvalidRequest("the client must authenticate in one way only");
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    match (given.next(), given.next(), form.client_secret) {
        (Some(_), Some(_), _) | (Some(_), None, Some(_)) => Err(ONE),
        (Some(value), None, None) => {
            let refused = TokenError::InvalidClient { in_body: false };
            let (client_id, client_secret) = basic(value).ok_or(refused)?;
            // Some libraries repeat the id in the body.
            if form.client_id.is_some_and(|other| other != client_id) {
                return Err(ONE);
            }
            Ok(Credentials { client_id, client_secret, in_body: false })
        }
        (None, _, Some(client_secret)) => match form.client_id {
            Some(client_id) => Ok(Credentials { client_id, client_secret, in_body: true }),
            None => Err(TokenError::InvalidRequest("the client_id is missing")),
        },
        (None, _, None) => Err(TokenError::InvalidClient { in_body: false }),
    }
}

/// The id and the secret of `Authorization: Basic`, each encoded as in a form (RFC 6749, section 2.3.1). What needs no
/// encoding may come as it is.
fn basic(value: &HeaderValue) -> Option<(String, String)> {
    let (scheme, encoded) = value.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = String::from_utf8(BASE64_STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (id, secret) = pair.split_once(':')?;
    let decode = |text: &str| {
        let text = text.replace('+', " ");
        percent_decode_str(&text).decode_utf8().ok().map(String::from)
    };
    Some((decode(id)?, decode(secret)?))
}

/// `GET /.well-known/oauth-authorization-server` (RFC 8414, section 2)
pub(super) async fn metadata(State(api): State<Api>, params: Params) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct Shown<'a> {
        issuer: &'a str,
        token_endpoint: String,
        jwks_uri: String,
        scopes_supported: [&'static str; Role::ALL.len()],
        /// No flow of this service begins with a page of log-in.
        response_types_supported: [&'static str; 0],
        grant_types_supported: [&'static str; 1],
        token_endpoint_auth_methods_supported: [&'static str; 2],
        service_documentation: String,
    }
    params.none()?;
    let issuer = api.auth.issuer();
    let shown = Shown {
        issuer,
        token_endpoint: format!("{issuer}/oauth/token"),
        jwks_uri: format!("{issuer}/.well-known/jwks.json"),
        scopes_supported: Role::ALL.map(Role::as_str),
        response_types_supported: [],
        grant_types_supported: [CLIENT_CREDENTIALS],
        token_endpoint_auth_methods_supported: ["client_secret_basic", "client_secret_post"],
        service_documentation: format!("{issuer}/docs"),
    };
    Ok(Json(shown).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_credentials_are_decoded_as_a_form_is() {
        let read = |pair: &str| {
            let value = format!("Basic {}", BASE64_STANDARD.encode(pair));
            basic(&HeaderValue::from_str(&value).unwrap())
        };
        let expected = Some(("a b:c".to_owned(), "s\u{e9}%_-+".to_owned()));
        assert_eq!(read("a+b%3Ac:s%C3%A9%25%5F%2D%2B"), expected);
        assert_eq!(read("id-1:secret_2"), Some(("id-1".to_owned(), "secret_2".to_owned())));
        assert_eq!(read("id:with:colons"), Some(("id".to_owned(), "with:colons".to_owned())));
        assert_eq!(read("id"), None);
        assert_eq!(read("id:%ff"), None);
        for value in ["Basic", "Basic !", "Bearer aWQ6c2VjcmV0", "Basic /w=="] {
            assert_eq!(basic(&HeaderValue::from_static(value)), None, "{value}");
        }
        assert!(basic(&HeaderValue::from_static("bAsIc aWQ6c2VjcmV0")).is_some());
    }
}
