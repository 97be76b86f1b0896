//! Rows in the binary format of COPY (PostgreSQL, "COPY", File Formats): several times as fast as
//! INSERT.

use sqlx::encode::{Encode, IsNull};
use sqlx::postgres::PgArgumentBuffer;
use sqlx::{PgConnection, Postgres};

/// The signature, no flags, no extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// What stands in the place of another row.
const TRAILER: &[u8] = &(-1_i16).to_be_bytes();

/// Rows on their way into a table.
pub(super) struct CopyRows(PgArgumentBuffer);

impl CopyRows {
    pub(super) fn new() -> Self {
        let mut buffer = PgArgumentBuffer::default();
        buffer.extend_from_slice(HEADER);
        Self(buffer)
    }

    /// Begins a row of so many fields.
    pub(super) fn row(&mut self, fields: i16) {
        self.0.extend_from_slice(&fields.to_be_bytes());
    }

    /// The next field of the row.
    pub(super) fn field<'q>(
        &mut self,
        value: impl Encode<'q, Postgres>,
    ) -> Result<(), sqlx::Error> {
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

    /// Sends them; `copy` is a `COPY ... FROM STDIN (FORMAT binary)`.
    pub(super) async fn send(
        mut self,
        db: &mut PgConnection,
        copy: &str,
    ) -> Result<(), sqlx::Error> {
        self.0.extend_from_slice(TRAILER);
        let mut into = db.copy_in_raw(copy).await?;
        into.send(&self.0[..]).await?;
        into.finish().await?;
        Ok(())
    }
}
