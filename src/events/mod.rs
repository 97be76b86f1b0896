//! WHAT HAPPENED. The values, the events made of them, and the log that keeps them.

#![deny(clippy::wildcard_enum_match_arm)]

/// What customers and accounts are made of; parsed at the edge.
pub mod values;

/// Created, updated, deleted.
pub mod customer;

/// Who came in, who was kept out.
pub mod account;

/// Who, from where, why.
pub mod metadata;

/// Older versions of events.
pub mod upcast;

/// The append-only log on PostgreSQL.
pub mod log;
