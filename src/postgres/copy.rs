//! Encodes and decodes rows in the binary format of COPY (PostgreSQL 15, "COPY", File Formats, Binary
//! Format): several times as fast as INSERT, and the same bytes in both directions.

use bytes::{Buf as _, Bytes, BytesMut};
use sqlx::Postgres;
use sqlx::encode::{Encode, IsNull};
use sqlx::postgres::PgArgumentBuffer;

use super::connection::{Connection, Wait};

/// The signature, no flags, no extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// A field count of -1 ends the rows.
const TRAILER: &[u8] = &(-1_i16).to_be_bytes();

/// Encodes rows for `COPY ... FROM STDIN (FORMAT binary)`.
pub struct CopyEncoder(PgArgumentBuffer);

impl Default for CopyEncoder {
    fn default() -> Self {
        let mut buffer = PgArgumentBuffer::default();
        buffer.extend_from_slice(HEADER);
        Self(buffer)
    }
}

impl CopyEncoder {
    /// Begins a row of `fields` fields.
    pub fn row(&mut self, fields: usize) {
        let fields = i16::try_from(fields).expect("a table has at most 1600 columns");
        self.0.extend_from_slice(&fields.to_be_bytes());
    }

    /// Encodes the next field of the row.
    pub fn field<'q>(&mut self, value: impl Encode<'q, Postgres>) -> Result<(), sqlx::Error> {
        let at = self.0.len();
        self.0.extend_from_slice(&(-1_i32).to_be_bytes());
        let is_null = value.encode(&mut self.0).map_err(sqlx::Error::Encode)?;
        if let IsNull::No = is_null {
            let length = i32::try_from(self.0.len() - at - 4)
                .map_err(|error| sqlx::Error::Encode(error.into()))?;
            self.0[at..at + 4].copy_from_slice(&length.to_be_bytes());
        }
        Ok(())
    }

    /// The number of bytes that are encoded and not yet taken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes from `offset` on.
    #[must_use]
    pub fn since(&self, offset: usize) -> &[u8] {
        &self.0[offset..]
    }

    /// Takes the bytes that are encoded so far, for a copy that is sent in pieces.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut *self.0)
    }

    /// The bytes that are not yet taken, with the trailer.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.0.extend_from_slice(TRAILER);
        self.take()
    }
}

/// Sends all rows at once; `statement` is a `COPY ... FROM STDIN (FORMAT binary)`.
pub async fn copy_in(
    db: &mut Connection,
    statement: &str,
    rows: CopyEncoder,
) -> Result<(), sqlx::Error> {
    let (raw, mut wait) = db.parts();
    let copy = async |wait: &mut Wait<'_>| {
        let mut into = wait.of(raw.copy_in_raw(statement)).await?;
        wait.of(into.send(rows.finish())).await?;
        wait.of(into.finish()).await?;
        Ok(())
    };
    wait.copy(copy).await
}

/// Calls `row` with the bytes of each row of `statement`, a `COPY ... TO STDOUT (FORMAT binary)`: the same
/// bytes that [`CopyEncoder`] makes of the same values.
pub async fn copy_out(
    db: &mut Connection,
    statement: &str,
    mut row: impl FnMut(&[u8]),
) -> Result<(), sqlx::Error> {
    let (raw, mut wait) = db.parts();
    let copy = async |wait: &mut Wait<'_>| {
        let mut messages = wait.of(raw.copy_out_raw(statement)).await?;
        let mut decoder = CopyDecoder::default();
        while let Some(message) = wait.next(&mut messages).await? {
            decoder.push(&message);
            while let Some(bytes) = decoder.next_row()? {
                row(&bytes);
            }
        }
        if decoder.is_complete { Ok(()) } else { Err(malformed("ends without its trailer")) }
    };
    wait.copy(copy).await
}

/// Splits the stream of a binary COPY into rows, independently of the boundaries of its messages.
#[derive(Default)]
struct CopyDecoder {
    buffer: BytesMut,
    has_header: bool,
    is_complete: bool,
}

impl CopyDecoder {
    fn push(&mut self, message: &[u8]) {
        self.buffer.extend_from_slice(message);
    }

    /// The next whole row; `None` when more bytes are needed, or after the last row.
    fn next_row(&mut self) -> Result<Option<Bytes>, sqlx::Error> {
        if !self.has_header {
            if self.buffer.len() < HEADER.len() {
                return Ok(None);
            }
            if !self.buffer.starts_with(HEADER) {
                return Err(malformed("has an unknown header"));
            }
            self.buffer.advance(HEADER.len());
            self.has_header = true;
        }
        let Some(fields) = self.buffer.first_chunk().map(|bytes| i16::from_be_bytes(*bytes)) else {
            return Ok(None);
        };
        if fields == -1 {
            self.is_complete = true;
            return Ok(None);
        }
        let mut end = 2;
        for _ in 0..fields {
            let Some(length) = self.buffer.get(end..).and_then(<[u8]>::first_chunk) else {
                return Ok(None);
            };
            // -1 is null and has no bytes.
            end += 4 + usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        }
        if self.buffer.len() < end {
            return Ok(None);
        }
        Ok(Some(self.buffer.split_to(end).freeze()))
    }
}

fn malformed(problem: &str) -> sqlx::Error {
    sqlx::Error::Protocol(format!("binary COPY {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_wherever_the_messages_are_cut() {
        let mut encoder = CopyEncoder::default();
        let mut rows = vec![];
        for (number, text) in [(1_i64, Some("Ada")), (2, None), (3, Some(""))] {
            let start = encoder.len();
            encoder.row(2);
            encoder.field(number).unwrap();
            encoder.field(text).unwrap();
            rows.push(encoder.since(start).to_vec());
        }
        let stream = encoder.finish();
        for size in 1..stream.len() {
            let mut decoder = CopyDecoder::default();
            let mut found = vec![];
            for message in stream.chunks(size) {
                decoder.push(message);
                while let Some(row) = decoder.next_row().unwrap() {
                    found.push(row.to_vec());
                }
            }
            assert_eq!((&found, decoder.is_complete), (&rows, true), "{size}");
        }
    }
}
