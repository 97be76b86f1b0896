//! The Redis of the sessions: one server, a cluster, or the master that Sentinels name.

/// The configured Redis: addresses, user, certificates.
mod server;

/// Asks the Sentinels for the master.
mod sentinels;

/// A circuit breaker: calls fail at once while Redis does not answer.
mod circuit_breaker;

/// The failures of Redis in the log: each cause once.
mod causes;

/// What the client measures.
mod call_metrics;

/// The client of a Redis or a Redis Cluster, with a time limit on every call.
pub mod client;

/// Calls to one node, or to each master of a cluster.
mod nodes;

/// The Lua scripts that Redis runs.
pub(in crate::auth) mod scripts;

/// The Redis epoch: a replication id that changes with every start and promotion.
pub mod epoch;

/// What the user of Redis must be allowed.
pub mod permissions;

/// What `customers doctor` checks in Redis.
pub mod doctor;

/// Deletes every key of the installation, for `customers redis empty`.
pub mod empty;
