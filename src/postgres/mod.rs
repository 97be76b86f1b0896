//! What several rooms need of PostgreSQL beside queries.

/// Transactions that a dropped future does not leave open.
pub mod transaction;

/// Rows in the binary format of COPY, in both directions.
pub mod copy;
