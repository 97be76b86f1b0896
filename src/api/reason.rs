//! The reason of a change: `X-Reason`, `X-Reason*` for clients that send no UTF-8, and the member `reason` of
//! a JSON body.

use axum::http::{HeaderMap, HeaderName};
use percent_encoding::percent_decode_str;

use super::error::ApiError;
use super::headers::{header_text, one_value};
use crate::events::metadata::Metadata;
use crate::events::values::parse_reason;

const PLAIN: HeaderName = HeaderName::from_static("x-reason");

/// The percent-encoded form, named as the parameters of RFC 8187 are.
pub(super) const ENCODED: HeaderName = HeaderName::from_static("x-reason*");

const ENCODED_SHAPE: &str = "must be UTF-8''TEXT, with TEXT percent-encoded (RFC 8187)";

/// Adds the caller's reason; 400 when a header has none that can be stored. Called by the handlers and not
/// by the guard, so that a 415 comes before a 400.
pub(super) fn with_reason(metadata: Metadata, headers: &HeaderMap) -> Result<Metadata, ApiError> {
    let reason = of_headers(headers)?.map(|(_, reason)| reason);
    Ok(Metadata { reason, ..metadata })
}

/// The same, with the reason in the body; 400 if a header has another one.
pub(super) fn with_reasons(
    metadata: Metadata,
    headers: &HeaderMap,
    of_body: Option<String>,
) -> Result<Metadata, ApiError> {
    let reason = match (of_body, of_headers(headers)?) {
        (Some(reason), Some((name, other))) if reason != other => {
            let problem = format!("conflicts with the header {name}");
            return Err(ApiError::malformed("reason", problem));
        }
        (Some(reason), _) | (None, Some((_, reason))) => Some(reason),
        (None, None) => None,
    };
    Ok(Metadata { reason, ..metadata })
}

fn of_headers(headers: &HeaderMap) -> Result<Option<(HeaderName, String)>, ApiError> {
    // The plain one beside it is for servers that do not know the other (RFC 6266, section 4.3).
    let (name, text) = match one_value(headers, &ENCODED)? {
        Some(value) => {
            let text = decode(value).ok_or_else(|| ApiError::malformed("x-reason*", ENCODED_SHAPE));
            (ENCODED, Some(text?))
        }
        None => (PLAIN, plain(headers)?.map(str::to_owned)),
    };
    let Some(text) = text else { return Ok(None) };
    let reason = parse_reason(&text);
    let reason = reason.map_err(|error| ApiError::malformed(name.as_str(), error.0))?;
    Ok(reason.map(|reason| (name, reason)))
}

fn plain(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    const ADVICE: &str = "must be UTF-8; or send it percent-encoded, in X-Reason*";
    if let Some(value) = one_value(headers, &PLAIN)?
        && std::str::from_utf8(value).is_err()
    {
        return Err(ApiError::malformed(PLAIN.as_str(), ADVICE));
    }
    header_text(headers, &PLAIN)
}

/// Decodes an extended value (RFC 8187, section 3.2): `UTF-8'language'text`. `None` unless it has exactly that
/// form. What `encodeURIComponent` of JavaScript leaves as it is may stand there as it is.
fn decode(value: &[u8]) -> Option<String> {
    let mut parts = std::str::from_utf8(value).ok()?.splitn(3, '\'');
    let (charset, language, text) = (parts.next()?, parts.next()?, parts.next()?);
    let is_tag = language.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if !charset.eq_ignore_ascii_case("UTF-8") || !is_tag || !is_encoded(text) {
        return None;
    }
    percent_decode_str(text).decode_utf8().ok().map(String::from)
}

fn is_encoded(text: &str) -> bool {
    let mut parts = text.split('%');
    let is_plain = |text: &str| {
        text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&+-.^_`|~*'()".contains(&b))
    };
    let is_pair = |part: &str| part.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    parts.next().is_none_or(is_plain) && parts.all(|part| is_pair(part) && is_plain(part))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;

    use super::*;
    use crate::events::values::REASON_MAX_CHARS;

    fn with(name: HeaderName, value: &[u8]) -> Option<HeaderMap> {
        Some(HeaderMap::from_iter([(name, HeaderValue::from_bytes(value).ok()?)]))
    }

    /// More with `script/test --long`. Set here, because `PROPTEST_CASES` also counts for tests with servers.
    fn cases() -> ProptestConfig {
        let is_long = std::env::var_os("CUSTOMERS_TEST_LONG").is_some();
        let cases = if is_long { 100_000 } else { 2000 };
        ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
    }

    proptest! {
        #![proptest_config(cases())]

        #[test]
        fn every_text_is_read_as_it_was_encoded(text: String) {
            let encoded = utf8_percent_encode(&text, NON_ALPHANUMERIC);
            let value = format!("UTF-8''{encoded}");
            prop_assert_eq!(decode(value.as_bytes()), Some(text.clone()));
            let headers = with(ENCODED, value.as_bytes()).expect("it is visible ASCII");
            let read = of_headers(&headers).ok().map(|read| read.map(|(_, reason)| reason));
            prop_assert_eq!(read, parse_reason(&text).ok());
        }

        #[test]
        fn any_bytes_are_a_reason_or_an_error_of_the_client(
            value in prop::collection::vec(any::<u8>(), 0..64),
            form in "(UTF-8|utf-8|x|)('|'de'|''|)(%[0-9a-fA-F]{2}|%|[ -~]){0,24}",
        ) {
            for value in [value, form.into_bytes()] {
                for name in [PLAIN, ENCODED] {
                    let Some(headers) = with(name.clone(), &value) else { continue };
                    match of_headers(&headers) {
                        Ok(Some((of, reason))) => {
                            prop_assert_eq!(of, name);
                            prop_assert!(reason.chars().count() <= REASON_MAX_CHARS);
                            prop_assert_eq!(parse_reason(&reason), Ok(Some(reason)));
                        }
                        Ok(None) => {}
                        Err(error) => prop_assert_eq!(error.problem().status().as_u16(), 400),
                    }
                }
            }
        }
    }
}
