//! Packed bodies of imports: gzip (RFC 1952) and zstd (RFC 8878), unpacked piece by piece. Whatever a body unpacks
//! to, no more than a piece of it is in memory.

use std::io::{self, Write as _};

use axum::body::Bytes;
use axum::http::{HeaderMap, header};
use flate2::write::MultiGzDecoder;
use zstd::stream::raw::{DParameter, Decoder, Operation as _};

use super::body::codings;
use super::error::ApiError;

/// The size of a piece, in bytes.
const PIECE: usize = 64 * 1024;

/// How many bytes of gzip are unpacked at a time: they unpack to a thousand times as many at most.
const GZIP_STEP: usize = 512;

/// The largest window of zstd, as a power of 2: 8 MiB, the most that a client may use (RFC 9659, section 3). A decoder
/// keeps so much in memory.
const ZSTD_WINDOW_LOG: u32 = 23;

/// Unpacks a body.
pub(super) enum Unpacker {
    /// It is not packed.
    Plain(Bytes),
    Gzip {
        decoder: Box<MultiGzDecoder<Vec<u8>>>,
        packed: Bytes,
    },
    Zstd {
        decoder: Box<Decoder<'static>>,
        packed: Bytes,
        /// The decoder may have more than it has written.
        has_more: bool,
        is_at_end: bool,
    },
}

impl Unpacker {
    /// The unpacker of the body's content coding; 415 for another coding, or several.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let named = codings(headers, &header::CONTENT_ENCODING);
        let mut named = named.filter(|coding| !coding.eq_ignore_ascii_case(b"identity"));
        let (coding, None) = (named.next(), named.next()) else {
            return Err(ApiError::UnknownCoding);
        };
        let packed = Bytes::new();
        match coding.map(<[u8]>::to_ascii_lowercase).as_deref() {
            None => Ok(Self::Plain(packed)),
            Some(b"gzip" | b"x-gzip") => {
                Ok(Self::Gzip { decoder: Box::new(MultiGzDecoder::new(vec![])), packed })
            }
            Some(b"zstd") => {
                let decoder =
                    zstd_decoder().map_err(|error| ApiError::Internal(error.to_string()))?;
                let decoder = Box::new(decoder);
                Ok(Self::Zstd { decoder, packed, has_more: false, is_at_end: false })
            }
            Some(_) => Err(ApiError::UnknownCoding),
        }
    }

    /// Takes the next bytes of the body, of which all before are unpacked.
    pub(super) fn push(&mut self, bytes: Bytes) {
        match self {
            Self::Plain(packed) | Self::Gzip { packed, .. } | Self::Zstd { packed, .. } => {
                *packed = bytes;
            }
        }
    }

    /// The next piece; `None` when more of the body is needed.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        let piece = match self {
            Self::Plain(bytes) => Ok(std::mem::take(bytes)),
            Self::Gzip { decoder, packed } => gzip_piece(decoder, packed).map(Bytes::from),
            Self::Zstd { decoder, packed, has_more, is_at_end } => {
                zstd_piece(decoder, packed, (has_more, is_at_end)).map(Bytes::from)
            }
        };
        let piece = piece.map_err(|error| broken(&error))?;
        Ok(Some(piece).filter(|piece| !piece.is_empty()))
    }

    /// The rest, after the end of the body; 400 if it has ended too early.
    pub(super) fn finish(self) -> Result<Bytes, ApiError> {
        match self {
            Self::Plain(_) | Self::Zstd { is_at_end: true, .. } => Ok(Bytes::new()),
            Self::Gzip { decoder, .. } => {
                Ok(decoder.finish().map_err(|error| broken(&error))?.into())
            }
            Self::Zstd { .. } => Err(broken(&io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

fn zstd_decoder() -> io::Result<Decoder<'static>> {
    let mut decoder = Decoder::new()?;
    decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG))?;
    Ok(decoder)
}

fn gzip_piece(decoder: &mut MultiGzDecoder<Vec<u8>>, packed: &mut Bytes) -> io::Result<Vec<u8>> {
    while !packed.is_empty() && decoder.get_ref().len() < PIECE {
        let step = packed.split_to(packed.len().min(GZIP_STEP));
        decoder.write_all(&step)?;
    }
    Ok(std::mem::take(decoder.get_mut()))
}

fn zstd_piece(
    decoder: &mut Decoder<'static>,
    packed: &mut Bytes,
    (has_more, is_at_end): (&mut bool, &mut bool),
) -> io::Result<Vec<u8>> {
    let mut piece = vec![0; PIECE];
    let mut length = 0;
    while length == 0 && (*has_more || !packed.is_empty()) {
        let status = decoder.run_on_buffers(packed, &mut piece)?;
        length = status.bytes_written;
        if status.bytes_read == 0 && length == 0 && !*has_more {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let _ = packed.split_to(status.bytes_read);
        *is_at_end = status.remaining == 0;
        *has_more = length == PIECE && !*is_at_end;
    }
    piece.truncate(length);
    Ok(piece)
}

/// 400: the body is not what its coding says.
fn broken(error: &io::Error) -> ApiError {
    ApiError::malformed("body", format!("cannot be unpacked: {error}"))
}
