//! Packs answers for clients that ask for it (RFC 9110, section 12.5.3): gzip (RFC 1952) or zstd (RFC 8878). The
//! length of a packed answer tells something of its content. So only reads of an account are packed: no answer that
//! has a token, a key or a cookie beside what its client has sent. A client without an account makes the service pack
//! nothing, but for files that are kept packed.

use std::io::{self, Write as _};
use std::sync::{Arc, OnceLock};

use axum::body::{Body, BodyDataStream, Bytes, HttpBody as _};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::{StreamExt as _, stream};
use http_body_util::BodyExt as _;

use super::error::ApiError;

/// Shorter answers gain nothing: they fit into one packet.
const PACKED_MIN: u64 = 1024;

/// Up to so many bytes are packed at once, longer answers piece by piece, in bytes.
const AT_ONCE_MAX: u64 = 32 * 1024;

/// Of 1 to 9: the rate counts more than the last percents, because every answer is packed anew.
const GZIP_LEVEL: u32 = 3;

/// Of 1 to 22, for the same reason.
const ZSTD_LEVEL: i32 = 1;

const VARY: HeaderValue = HeaderValue::from_static("accept-encoding");

/// A content coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Zstd,
    Gzip,
}

impl Coding {
    fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }

    /// The coding that `Accept-Encoding` prefers, zstd before gzip; `None` for the answer as it is. `*` stands for gzip,
    /// which every client that sends it can read.
    pub(super) fn accepted(headers: &HeaderMap) -> Option<Self> {
        let mut named = headers.get_all(header::ACCEPT_ENCODING).iter().peekable();
        named.peek()?;
        let (mut zstd, mut gzip, mut identity, mut any) = (None, None, None, None);
        let elements = named.filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','));
        for element in elements {
            let (name, quality) = weighted(element);
            match name.as_str() {
                "zstd" => zstd = Some(quality),
                "gzip" | "x-gzip" => gzip = Some(quality),
                "identity" => identity = Some(quality),
                "*" => any = Some(quality),
                _ => {}
            }
        }
        let zstd = (zstd.unwrap_or(0), Self::Zstd);
        let gzip = (gzip.or(any).unwrap_or(0), Self::Gzip);
        let (quality, best) = if zstd.0 >= gzip.0 { zstd } else { gzip };
        (quality > 0 && quality >= identity.unwrap_or(0)).then_some(best)
    }
}

/// The name of a coding, in lower case, and its quality in thousandths.
fn weighted(element: &str) -> (String, u16) {
    let mut parts = element.split(';').map(str::trim);
    let name = parts.next().unwrap_or_default().to_ascii_lowercase();
    let quality = parts.find_map(|part| {
        let (key, value) = part.split_once('=')?;
        key.trim().eq_ignore_ascii_case("q").then(|| value.trim().parse::<f32>().ok())?
    });
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1000")]
    let quality = (quality.unwrap_or(1.0).clamp(0.0, 1.0) * 1000.0) as u16;
    (name, quality)
}

/// The answer to a read, packed if its client has asked for it. It says that it differs by `Accept-Encoding` in any
/// case, and so does the 304 in its place (RFC 9110, section 15.4.5).
pub(super) async fn answer(mut answer: Response, coding: Option<Coding>) -> Response {
    let is_packable = may_be_packed(&answer);
    if is_packable || answer.status() == StatusCode::NOT_MODIFIED {
        vary(answer.headers_mut());
    }
    match coding.filter(|_| is_packable) {
        Some(coding) => packed(answer, coding).await,
        None => answer,
    }
}

/// Whether the answer to a read is worth packing and may be: it has a known length, so it is no stream that would be
/// held back; and no strong entity tag, which names these very bytes.
fn may_be_packed(answer: &Response) -> bool {
    let headers = answer.headers();
    let is_strong = headers.get(header::ETAG).is_some_and(|tag| !tag.as_bytes().starts_with(b"W/"));
    answer.status() == StatusCode::OK
        && length(answer).is_some_and(|length| length >= PACKED_MIN)
        && !is_strong
        && !headers.contains_key(header::SET_COOKIE)
        && !headers.contains_key(header::CONTENT_ENCODING)
}

fn vary(headers: &mut HeaderMap) {
    headers.append(header::VARY, VARY);
}

fn length(answer: &Response) -> Option<u64> {
    answer
        .body()
        .size_hint()
        .exact()
        .or_else(|| answer.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok())
}

async fn packed(answer: Response, coding: Coding) -> Response {
    let length = length(&answer).unwrap_or_default();
    let (mut head, body) = answer.into_parts();
    let body = if length <= AT_ONCE_MAX && body.size_hint().exact().is_some() {
        match at_once(body, coding).await {
            Ok(packed) => Body::from(packed),
            Err(error) => Body::from_stream(stream::once(async move { Err::<Bytes, _>(error) })),
        }
    } else {
        piecewise(body.into_data_stream(), coding, length)
    };
    head.headers.remove(header::CONTENT_LENGTH);
    head.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
    Response::from_parts(head, body)
}

async fn at_once(body: Body, coding: Coding) -> io::Result<Vec<u8>> {
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let mut packer = Packer::new(coding)?;
    let mut packed = packer.push(&body)?;
    packed.extend(packer.finish()?);
    Ok(packed)
}

/// A body that packs another one while it is sent. One that ends before its length is an error, as it would be for
/// its client without the coding.
fn piecewise(body: BodyDataStream, coding: Coding, length: u64) -> Body {
    let packing = Some((body, None, length));
    Body::from_stream(stream::try_unfold(packing, move |packing| async move {
        let Some((mut body, packer, mut left)) = packing else { return Ok(None) };
        let mut packer = match packer {
            Some(packer) => packer,
            None => Packer::new(coding)?,
        };
        loop {
            let Some(piece) = body.next().await else {
                if left > 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
                }
                return Ok(Some((Bytes::from(packer.finish()?), None)));
            };
            let piece = piece.map_err(io::Error::other)?;
            left = left.saturating_sub(piece.len() as u64);
            let packed = packer.push(&piece)?;
            if !packed.is_empty() {
                return Ok(Some((packed.into(), Some((body, Some(packer), left)))));
            }
        }
    }))
}

/// A coding at work.
enum Packer {
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Gzip(GzEncoder<Vec<u8>>),
}

impl Packer {
    fn new(coding: Coding) -> io::Result<Self> {
        Ok(match coding {
            Coding::Zstd => Self::Zstd(zstd::stream::write::Encoder::new(vec![], ZSTD_LEVEL)?),
            Coding::Gzip => Self::Gzip(GzEncoder::new(vec![], Compression::new(GZIP_LEVEL))),
        })
    }

    /// Packs a piece; returns what is finished.
    fn push(&mut self, piece: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Zstd(encoder) => {
                encoder.write_all(piece)?;
                Ok(std::mem::take(encoder.get_mut()))
            }
            Self::Gzip(encoder) => {
                encoder.write_all(piece)?;
                Ok(std::mem::take(encoder.get_mut()))
            }
        }
    }

    /// The rest.
    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Zstd(encoder) => encoder.finish(),
            Self::Gzip(encoder) => encoder.finish(),
        }
    }
}

/// Bytes that never change, and the same packed, once a client has asked for it. Clones share them.
#[derive(Clone)]
pub struct Kept(Arc<KeptForms>);

struct KeptForms {
    plain: Bytes,
    zstd: OnceLock<Bytes>,
    gzip: OnceLock<Bytes>,
}

impl From<String> for Kept {
    fn from(plain: String) -> Self {
        Self::new(plain)
    }
}

impl Kept {
    #[must_use]
    pub fn new(plain: impl Into<Bytes>) -> Self {
        let (zstd, gzip) = (OnceLock::new(), OnceLock::new());
        Self(Arc::new(KeptForms { plain: plain.into(), zstd, gzip }))
    }

    /// An answer with these bytes.
    pub(super) async fn answer(
        &self,
        headers: &HeaderMap,
        media_type: &'static str,
    ) -> Result<Response, ApiError> {
        let coding = Coding::accepted(headers);
        let bytes = match coding {
            None => self.0.plain.clone(),
            Some(coding) => self.packed(coding).await?,
        };
        let mut answer = Response::new(Body::from(bytes));
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
        if let Some(coding) = coding {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
        }
        vary(headers);
        Ok(answer)
    }

    async fn packed(&self, coding: Coding) -> Result<Bytes, ApiError> {
        let forms = Arc::clone(&self.0);
        let slot = move |forms: &KeptForms| match coding {
            Coding::Zstd => forms.zstd.get().cloned(),
            Coding::Gzip => forms.gzip.get().cloned(),
        };
        if let Some(packed) = slot(&forms) {
            return Ok(packed);
        }
        let packing = tokio::task::spawn_blocking(move || {
            let mut packer = Packer::new(coding)?;
            let mut packed = packer.push(&forms.plain)?;
            packed.extend(packer.finish()?);
            let slot = match coding {
                Coding::Zstd => &forms.zstd,
                Coding::Gzip => &forms.gzip,
            };
            Ok::<_, io::Error>(slot.get_or_init(|| packed.into()).clone())
        });
        let internal = |error: &dyn std::error::Error| ApiError::Internal(error.to_string());
        packing.await.map_err(|error| internal(&error))?.map_err(|error| internal(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(values: &[&'static str]) -> Option<Coding> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::ACCEPT_ENCODING, HeaderValue::from_static(value));
        }
        Coding::accepted(&headers)
    }

    #[test]
    fn the_coding_is_the_one_that_the_client_prefers() {
        let (zstd, gzip) = (Some(Coding::Zstd), Some(Coding::Gzip));
        for (values, expected) in [
            (&[][..], None),
            (&[""], None),
            (&["gzip"], gzip),
            (&["x-gzip"], gzip),
            (&["GZIP;Q=0.1"], gzip),
            (&["gzip, deflate, br, zstd"], zstd),
            (&["gzip", "zstd"], zstd),
            (&["gzip;q=1.0, zstd;q=0.9"], gzip),
            (&["gzip ; q = 0.2 , zstd ; q=0.3"], zstd),
            (&["br"], None),
            (&["*"], gzip),
            (&["*;q=0"], None),
            (&["gzip;q=0, *"], None),
            (&["zstd;q=0, *"], gzip),
            (&["gzip;q=0"], None),
            (&["identity"], None),
            (&["identity, gzip;q=0.5"], None),
            (&["identity;q=0.5, gzip"], gzip),
            (&["identity;q=0"], None),
            (&["gzip;q=nonsense"], gzip),
        ] {
            assert_eq!(accepted(values), expected, "{values:?}");
        }
    }

    /// The answer to a client that accepts this coding, of a body in pieces whose length was told.
    async fn sent(
        coding: Coding,
        pieces: Vec<Vec<u8>>,
        told: usize,
    ) -> Result<Vec<u8>, axum::Error> {
        let pieces = pieces.into_iter().map(Ok::<_, io::Error>);
        let mut answer = Response::new(Body::from_stream(stream::iter(pieces)));
        answer.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(told));
        assert!(may_be_packed(&answer));
        let answer = packed(answer, coding).await;
        assert_eq!(answer.headers()[header::CONTENT_ENCODING], coding.name());
        assert!(!answer.headers().contains_key(header::CONTENT_LENGTH));
        answer.into_body().collect().await.map(|body| body.to_bytes().to_vec())
    }

    #[tokio::test]
    async fn an_answer_that_is_cut_off_has_no_valid_end() {
        let pieces = vec![vec![b'x'; 70_000], vec![b'y'; 30_000]];
        for coding in [Coding::Zstd, Coding::Gzip] {
            let whole = sent(coding, pieces.clone(), 100_000).await.unwrap();
            let mut unpacked = vec![];
            match coding {
                Coding::Zstd => zstd::stream::copy_decode(&whole[..], &mut unpacked).unwrap(),
                Coding::Gzip => {
                    io::copy(&mut flate2::read::GzDecoder::new(&whole[..]), &mut unpacked).unwrap();
                }
            }
            assert_eq!(unpacked, pieces.concat());
            assert!(sent(coding, pieces.clone(), 100_001).await.is_err(), "{coding:?}");
        }
    }
}
