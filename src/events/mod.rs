//! Events: the values, the events made of them, and the log that stores them.

#![deny(clippy::wildcard_enum_match_arm)]

/// Invisible characters, and those that change the order of a text.
pub mod characters;

/// Names, dates, ids, roles; parsed at the edge.
pub mod values;

/// The values of service keys.
pub mod account_key;
/// External ids: the name that another system has for a customer.
pub mod external_id;

/// Events of customers.
pub mod customer;

/// Events of accounts and their sessions.
pub mod account;

/// Events of the installation: changes of its signing keys.
pub mod installation;

/// Metadata of an event: actor, origin, reason.
pub mod metadata;

/// Upcasting: converts older versions of events to the current one.
pub mod upcast;

/// The append-only log on PostgreSQL.
pub mod log;
