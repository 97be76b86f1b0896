//! Conditional requests (RFC 9110, section 13). The entity tag of a customer is its version in quotes; a
//! condition is compared with it, or refused. Dates are not compared: the service sends no `Last-Modified`,
//! because one second may hold several versions.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;

use super::error::{ApiError, FieldError};
use super::request::BoxRequest;
use crate::commands::IfMatch;

/// The conditions that a change must not ignore.
const OF_CHANGES: [HeaderName; 3] =
    [header::IF_MATCH, header::IF_NONE_MATCH, header::IF_UNMODIFIED_SINCE];

/// An entity tag (section 8.8.3).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tag {
    is_weak: bool,
    opaque: Vec<u8>,
}

impl Tag {
    /// The tag of an answer.
    fn of(etag: &HeaderValue) -> Option<Self> {
        match Tags::parse(etag.as_bytes())? {
            Tags::Listed(mut tags) => tags.pop(),
            Tags::Any => None,
        }
    }

    /// The version that the tag names; `None` for a tag that is not ours.
    fn version(&self) -> Option<i64> {
        let text = std::str::from_utf8(&self.opaque).ok()?;
        let version: i64 = text.parse().ok()?;
        (version.to_string() == text).then_some(version)
    }
}

/// The value of `If-Match` or `If-None-Match`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Tags {
    /// `*`
    Any,
    Listed(Vec<Tag>),
}

impl Tags {
    /// Parses `*`, or a list of tags, which may have empty elements (section 5.6.1).
    fn parse(text: &[u8]) -> Option<Self> {
        if text.trim_ascii() == b"*" {
            return Some(Self::Any);
        }
        let mut rest = trim_start(text, b", \t");
        let mut tags = vec![];
        loop {
            let (is_weak, tag) = match rest.strip_prefix(b"W/") {
                Some(tag) => (true, tag),
                None => (false, rest),
            };
            let tag = tag.strip_prefix(b"\"")?;
            // Visible ASCII but the quote, and all bytes beyond ASCII.
            let is_inner = |byte: u8| matches!(byte, 0x21 | 0x23..=0x7e | 0x80..);
            let end = tag.iter().position(|byte| !is_inner(*byte))?;
            let (opaque, after) = tag.split_at(end);
            tags.push(Tag { is_weak, opaque: opaque.to_vec() });
            let after = trim_start(after.strip_prefix(b"\"")?, b" \t");
            if !after.is_empty() && !after.starts_with(b",") {
                return None;
            }
            rest = trim_start(after, b", \t");
            if rest.is_empty() {
                return Some(Self::Listed(tags));
            }
        }
    }

    /// Whether a tag equals this one by the strong comparison (section 8.8.3.2).
    fn has_strong(&self, tag: Option<&Tag>) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(tags) => {
                tag.is_some_and(|tag| !tag.is_weak && tags.iter().any(|named| named == tag))
            }
        }
    }

    /// The same by the weak comparison.
    fn has_weak(&self, tag: Option<&Tag>) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(tags) => {
                tag.is_some_and(|tag| tags.iter().any(|named| named.opaque == tag.opaque))
            }
        }
    }
}

fn trim_start<'a>(text: &'a [u8], skipped: &[u8]) -> &'a [u8] {
    let start = text.iter().position(|byte| !skipped.contains(byte));
    &text[start.unwrap_or(text.len())..]
}

/// The conditions of a request.
#[derive(Debug, Default)]
struct Conditions {
    if_match: Option<Tags>,
    if_none_match: Option<Tags>,
}

impl Conditions {
    /// Parses them; the errors name all headers that cannot be parsed.
    fn parse(headers: &HeaderMap) -> Result<Self, Vec<FieldError>> {
        let parsed = [header::IF_MATCH, header::IF_NONE_MATCH].map(|name| tags(headers, &name));
        match parsed {
            [Ok(if_match), Ok(if_none_match)] => Ok(Self { if_match, if_none_match }),
            parsed => Err(parsed.into_iter().filter_map(Result::err).collect()),
        }
    }

    /// The versions of a customer that the conditions allow.
    fn versions(&self) -> IfMatch {
        let excluded: Vec<i64> = match &self.if_none_match {
            None => vec![],
            Some(Tags::Any) => return IfMatch::OneOf(vec![]),
            Some(Tags::Listed(tags)) => tags.iter().filter_map(Tag::version).collect(),
        };
        match &self.if_match {
            Some(Tags::Listed(tags)) => {
                let strong = tags.iter().filter(|tag| !tag.is_weak).filter_map(Tag::version);
                IfMatch::OneOf(strong.filter(|version| !excluded.contains(version)).collect())
            }
            Some(Tags::Any) | None if excluded.is_empty() => IfMatch::Any,
            Some(Tags::Any) | None => IfMatch::NoneOf(excluded),
        }
    }

    /// The response to a read, or 412, or 304, by the precedence of section 13.2.2.
    fn compare(&self, response: Response) -> Response {
        if self.if_match.is_none() && self.if_none_match.is_none() {
            return response;
        }
        let tag = response.headers().get(header::ETAG).and_then(Tag::of);
        if self.if_match.as_ref().is_some_and(|tags| !tags.has_strong(tag.as_ref())) {
            let current = tag.and_then(|tag| tag.version());
            let mismatch = |current| ApiError::VersionMismatch { current };
            return current.map_or(ApiError::NoVersion, mismatch).into_response();
        }
        if self.if_none_match.as_ref().is_some_and(|tags| tags.has_weak(tag.as_ref())) {
            return not_modified(response);
        }
        response
    }
}

/// The tags of a header, which may continue in another one of its name.
fn tags(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Tags>, FieldError> {
    if !headers.contains_key(name) {
        return Ok(None);
    }
    let values: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    let shape = "must be * or a list of entity tags like \"3\"";
    let tags = Tags::parse(&values.join(&b','));
    tags.map(Some).ok_or_else(|| FieldError::new(name.as_str(), shape))
}

/// 304 with the headers of the response (section 15.4.5), without those that describe the body.
pub(super) fn not_modified(response: Response) -> Response {
    let (mut head, _) = response.into_parts();
    head.status = StatusCode::NOT_MODIFIED;
    head.headers.remove(header::CONTENT_TYPE);
    head.headers.remove(header::CONTENT_LENGTH);
    // Of a length that is not told: the answer to HEAD would get a `Content-Length` of 0, which is not that of the
    // version.
    let nothing = stream::empty::<Result<Bytes, Infallible>>();
    Response::from_parts(head, Body::from_stream(nothing))
}

/// Whether the client of a read has what this tag names, so that it need not be read: the answer is
/// [`not_modified`].
pub(super) fn has(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let Ok(Conditions { if_match: None, if_none_match: Some(tags) }) = Conditions::parse(headers)
    else {
        return false;
    };
    tags.has_weak(Tag::of(etag).as_ref())
}

/// Compares the conditions of a request with the response to a read, if it has succeeded.
pub(super) async fn of_read<F>(request: BoxRequest, read: impl FnOnce(BoxRequest) -> F) -> Response
where
    F: Future<Output = Response>,
{
    let conditions = Conditions::parse(request.headers());
    let response = read(request).await;
    match conditions {
        Ok(conditions) if response.status().is_success() => conditions.compare(response),
        // The handler has refused conditions that cannot be parsed.
        Ok(_) | Err(_) => response,
    }
}

/// The versions of a customer to which the conditions of a change apply; 400 if they cannot be parsed, or
/// name a date only.
pub(super) fn of_change(headers: &HeaderMap) -> Result<IfMatch, ApiError> {
    let conditions = Conditions::parse(headers).map_err(ApiError::Malformed)?;
    if conditions.if_match.is_none() && headers.contains_key(header::IF_UNMODIFIED_SINCE) {
        let detail = "is not compared, because one second may hold several versions: \
                      send the version as If-Match";
        return Err(ApiError::malformed(header::IF_UNMODIFIED_SINCE.as_str(), detail));
    }
    Ok(conditions.versions())
}

/// 428 if a change names no version, and the installation demands one (RFC 6585, section 3).
pub(super) fn require_if_match(headers: &HeaderMap, is_required: bool) -> Result<(), ApiError> {
    if is_required && !headers.contains_key(header::IF_MATCH) {
        return Err(ApiError::PreconditionRequired);
    }
    Ok(())
}

/// The conditions that a route refuses if it does not ask for them: those of a read that cannot be parsed,
/// and all of a change but `If-Match: *`, which any version meets.
pub(super) fn refused(method: &Method, headers: &HeaderMap) -> Vec<FieldError> {
    if matches!(*method, Method::GET | Method::HEAD) {
        return Conditions::parse(headers).err().unwrap_or_default();
    }
    let is_met = |name| name == header::IF_MATCH && tags(headers, &name) == Ok(Some(Tags::Any));
    let given = OF_CHANGES.into_iter().filter(|name| headers.contains_key(name));
    let unmet = given.filter(|name| !is_met(name.clone()));
    unmet.map(|name| FieldError::new(name.as_str(), "is not a condition of this route")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Many cases in a second or two, many more with `script/test --long`.
    fn cases() -> ProptestConfig {
        let is_long = std::env::var_os("CUSTOMERS_TEST_LONG").is_some();
        let cases = if is_long { 200_000 } else { 4_000 };
        ProptestConfig { cases, failure_persistence: None, ..Default::default() }
    }

    /// A tag of ours, of others, or nearly one of ours.
    fn tag() -> impl Strategy<Value = Tag> {
        let byte = prop_oneof![Just(0x21_u8), 0x23_u8..=0x7e, 0x80_u8..=0xff];
        let opaque = prop_oneof![
            (0..5_i64).prop_map(|version| version.to_string().into_bytes()),
            "[0-9+-]{0,3}".prop_map(String::into_bytes),
            prop::collection::vec(byte, 0..6),
        ];
        (any::<bool>(), opaque).prop_map(|(is_weak, opaque)| Tag { is_weak, opaque })
    }

    fn condition() -> impl Strategy<Value = Option<Tags>> {
        let listed = prop::collection::vec(tag(), 1..5).prop_map(Tags::Listed);
        prop_oneof![Just(None), Just(Some(Tags::Any)), listed.prop_map(Some)]
    }

    fn bytes_of(tag: &Tag) -> Vec<u8> {
        let weak: &[u8] = if tag.is_weak { b"W/" } else { b"" };
        [weak, b"\"", &tag.opaque, b"\""].concat()
    }

    fn headers_of(values: &[Vec<u8>]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::IF_MATCH, HeaderValue::from_bytes(value).expect("a value"));
        }
        headers
    }

    proptest! {
        #![proptest_config(cases())]

        #[test]
        fn a_list_is_read_as_it_was_written(
            written in prop::collection::vec((tag(), "[ \t]{0,2}(,[ \t]{0,2}){1,3}", any::<bool>()), 1..6)
        ) {
            // Commas and blanks between the tags, some of which begin another header.
            let mut values = vec![vec![]];
            for (number, (tag, between, is_apart)) in written.iter().enumerate() {
                if number > 0 && *is_apart {
                    values.push(vec![]);
                } else {
                    values.last_mut().expect("one").extend_from_slice(between.as_bytes());
                }
                values.last_mut().expect("one").extend_from_slice(&bytes_of(tag));
            }
            let read = tags(&headers_of(&values), &header::IF_MATCH).expect("a list");
            let written = written.into_iter().map(|(tag, ..)| tag).collect();
            prop_assert_eq!(read, Some(Tags::Listed(written)));
        }

        #[test]
        fn any_bytes_are_read_as_one_thing_or_refused(
            values in prop::collection::vec(
                prop_oneof!["[W/\"*, 2a\t-]{0,16}", "(W?/?\"[2*, ]\"?,? ?){0,4}", "[ -~\u{80}-\u{ff}]{0,12}"],
                0..3,
            )
        ) {
            let values: Vec<Vec<u8>> = values.into_iter().map(String::into_bytes).collect();
            let read = tags(&headers_of(&values), &header::IF_MATCH);
            match read {
                Err(error) => prop_assert_eq!(error.field, "if-match"),
                Ok(None) => prop_assert!(values.is_empty()),
                Ok(Some(Tags::Any)) => prop_assert_eq!(values[0].trim_ascii(), b"*"),
                Ok(Some(Tags::Listed(tags))) => {
                    // Everything is part of a tag, or a comma, or a blank.
                    let mut left = values.join(&b',');
                    for tag in &tags {
                        let tag = bytes_of(tag);
                        let at = left.windows(tag.len()).position(|part| part == tag);
                        left.drain(..at.expect("the tag was given") + tag.len());
                    }
                    prop_assert!(!tags.is_empty() && left.iter().all(|byte| b", \t".contains(byte)));
                }
            }
        }

        #[test]
        fn a_change_and_a_read_of_a_version_compare_alike(
            if_match in condition(), if_none_match in condition(), version in 0..5_i64
        ) {
            let conditions = Conditions { if_match, if_none_match };
            let shown = ([(header::ETAG, format!("\"{version}\""))], "body").into_response();
            let is_read = conditions.compare(shown).status() == StatusCode::OK;
            prop_assert_eq!(conditions.versions().allows(version), is_read);
        }
    }
}
