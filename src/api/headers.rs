//! Parsers of request headers. An error names its header.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

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

/// The longest `traceparent` of a version that is not known yet, in bytes.
const TRACEPARENT_MAX: usize = 256;

/// The caller's trace (W3C Trace Context, section 3.2). A header that is repeated or invalid is ignored, as the
/// standard demands; of later versions only the part is checked that all of them have.
pub(super) fn traceparent(headers: &HeaderMap) -> Option<String> {
    let name = HeaderName::from_static("traceparent");
    let text = std::str::from_utf8(one_value(headers, &name).ok()??).ok()?;
    let mut parts = text.splitn(5, '-');
    let mut hex = |length: usize| {
        let is_hex = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        parts.next().filter(|part| part.len() == length && part.bytes().all(is_hex))
    };
    let is_id = |id: &str| id.bytes().any(|byte| byte != b'0');
    let (version, trace, parent) = (hex(2)?, hex(32)?, hex(16)?);
    let _flags = hex(2)?;
    let rest_is_right = match parts.next() {
        None => true,
        Some(rest) => version != "00" && rest.bytes().all(|byte| byte.is_ascii_graphic()),
    };
    let is_valid = version != "ff" && is_id(trace) && is_id(parent) && rest_is_right;
    (is_valid && text.len() <= TRACEPARENT_MAX).then(|| text.to_owned())
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

/// The media ranges of `Accept` (RFC 9110, section 12.5.1).
pub(super) fn accept(headers: &HeaderMap) -> Vec<&str> {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let ranges = values.flat_map(|value| value.split(',')).map(str::trim);
    ranges.filter(|range| !range.is_empty()).collect()
}

/// The quality of a media type, in thousandths: that of the most specific range that covers it. Parameters of a range
/// are passed over.
pub(super) fn quality(accept: &[&str], media_type: &str) -> u16 {
    let group = media_type.split('/').next().unwrap_or_default();
    let mut found = (0, 0);
    for range in accept {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let specific = match name.as_str() {
            name if name == media_type => 3,
            "*/*" => 1,
            name if name.strip_suffix("/*") == Some(group) => 2,
            _ => continue,
        };
        let quality = parts.find_map(|part| {
            let (key, value) = part.split_once('=')?;
            key.trim().eq_ignore_ascii_case("q").then(|| value.trim().parse::<f32>().ok())?
        });
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1000")]
        let quality = (quality.unwrap_or(1.0).clamp(0.0, 1.0) * 1000.0) as u16;
        if specific > found.0 {
            found = (specific, quality);
        }
    }
    found.1
}

/// Whether `Accept` excludes all of these media types: it names at least one range, and none that covers one of them.
pub(super) fn excludes(headers: &HeaderMap, media_types: &[String]) -> bool {
    // What most libraries send.
    if headers.get(header::ACCEPT).is_none_or(|value| value == "*/*") || media_types.is_empty() {
        return false;
    }
    let accept = accept(headers);
    !accept.is_empty() && media_types.iter().all(|media_type| quality(&accept, media_type) == 0)
}

/// Whether a page is wanted, as by a browser, and not JSON.
pub(super) fn prefers_html(headers: &HeaderMap) -> bool {
    let accept = accept(headers);
    quality(&accept, "text/html") > quality(&accept, "application/json")
}
