//! Parsers of request headers. An error names its header.

use axum::http::{HeaderMap, HeaderName, header};

use super::error::ApiError;
use crate::commands::IfMatch;
use crate::events::metadata::Metadata;
use crate::events::values::parse_reason;

/// The longest `Idempotency-Key` and `Import-Id`, in bytes.
const KEY_MAX: usize = 255;

/// The value of a header as text, `None` without it; 400 if it is repeated or not UTF-8.
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

/// Adds `X-Reason`, the caller's reason for a change; 400 when it is too long. Called by the handlers and
/// not by the guard, so that a 415 comes before a 400.
pub(super) fn with_reason(metadata: Metadata, headers: &HeaderMap) -> Result<Metadata, ApiError> {
    Ok(Metadata { reason: reason(headers)?, ..metadata })
}

fn reason(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    const NAME: HeaderName = HeaderName::from_static("x-reason");
    let Some(text) = header_text(headers, &NAME)? else { return Ok(None) };
    parse_reason(text).map_err(|error| ApiError::malformed("x-reason", error.0))
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

/// `If-Match` (RFC 9110, section 13.1.1): `*`, or a list of entity tags, which may continue in another
/// header and have empty elements (section 5.6.1). Our tags are versions in quotes; weak and foreign tags
/// never match.
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
        let (tag, after) =
            tag.strip_prefix('"').and_then(|tag| tag.split_once('"')).ok_or_else(malformed)?;
        if !weak
            && let Ok(version) = tag.parse::<i64>()
            && version.to_string() == tag
        {
            versions.push(version);
        }
        let after = after.trim_start();
        if !after.is_empty() && !after.starts_with(',') {
            return Err(malformed());
        }
        rest = after.trim_start_matches(BETWEEN);
        if rest.is_empty() {
            return Ok(IfMatch::OneOf(versions));
        }
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
