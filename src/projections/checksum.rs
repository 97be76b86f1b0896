//! A checksum over the rows of a table, whatever their order.

use std::ops::AddAssign;

use aws_lc_rs::digest::{SHA256, digest};

/// The number of rows, and the sum of the first 64 bits of the SHA-256 of each row's bytes in the
/// binary format of COPY: a row that is missing, doubled or changed in any value changes it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checksum {
    pub rows: i64,
    pub sum: i128,
}

impl Checksum {
    /// Adds one row by its bytes.
    pub fn add(&mut self, row: &[u8]) {
        let hash = digest(&SHA256, row);
        let first = hash.as_ref().first_chunk().copied().unwrap_or_default();
        self.rows += 1;
        self.sum += i128::from(u64::from_be_bytes(first));
    }

    /// As the database keeps it: the sum as text, since `numeric` has no bound.
    pub(super) fn stored(rows: i64, sum: &str) -> Result<Self, sqlx::Error> {
        let sum = sum.parse().map_err(|error| sqlx::Error::Decode(Box::new(error) as _))?;
        Ok(Self { rows, sum })
    }
}

impl AddAssign for Checksum {
    fn add_assign(&mut self, more: Self) {
        self.rows += more.rows;
        self.sum += more.sum;
    }
}
