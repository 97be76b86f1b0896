//! A checksum over the rows of a table, independent of their order.

use std::ops::AddAssign;

use rapidhash::v3::rapidhash_v3;

/// The number of rows, and the sum of the 64-bit hash (rapidhash V3, whose output is stable) of each
/// row's bytes in the binary format of COPY: a row that is missing, doubled or changed in any value
/// changes it. It detects faults, not an attacker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checksum {
    pub rows: i64,
    pub sum: i128,
}

impl Checksum {
    /// Adds one row by its bytes.
    pub fn add(&mut self, row: &[u8]) {
        self.rows += 1;
        self.sum += i128::from(rapidhash_v3(row));
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
