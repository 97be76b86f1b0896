//! PostgreSQL beyond queries, for several modules: transactions and COPY.

/// Begins transactions, which a dropped future does not leave open.
pub mod transaction;

/// Rows in the binary format of COPY, in both directions.
pub mod copy;
