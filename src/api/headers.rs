//! Parsers of request headers. An error names its header.

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::error::ApiError;

/// The longest `Idempotency-Key` and `Import-Id`, in bytes.
const KEY_MAX: usize = 255;

/// The bytes of a header, `None` without it; 400 if it is repeated.
pub(super) fn one_value<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'a [u8]>, ApiError> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value.map(HeaderValue::as_bytes)),
        (_, Some(_)) => Err(ApiError::malformed(name.as_str(), "must be given only once")),
    }
}

/// The value of a header as text, `None` without it; 400 if it is repeated or not UTF-8.
pub(super) fn header_text<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'a str>, ApiError> {
    let text = one_value(headers, name)?.map(std::str::from_utf8).transpose();
    text.map_err(|_| ApiError::malformed(name.as_str(), "must be UTF-8"))
}

/// `Idempotency-Key`: the client's name for a request that is executed once.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    visible_ascii(headers, &HeaderName::from_static("idempotency-key"))
}

/// A key that the client chooses: 1 to 255 visible ASCII characters, otherwise 400.
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

/// Whether the request has `Prefer: respond-async` (RFC 7240). Other preferences are ignored.
pub(super) fn prefers_async(headers: &HeaderMap) -> bool {
    headers
        .get_all("prefer")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        // A preference may have parameters; `respond-async` defines none.
        .filter_map(|preference| preference.split(';').next())
        .any(|preference| preference.trim().eq_ignore_ascii_case("respond-async"))
}
