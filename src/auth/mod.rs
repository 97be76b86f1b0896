//! WHO MAY COME IN. Accounts in PostgreSQL, sessions in Redis, tokens signed with EdDSA.
//!
//! Redis holds an allow-list: a token is valid only while its session is there. What happened to accounts
//! and sessions is in the log, and the reconciler keeps Redis true to it.

#![deny(clippy::wildcard_enum_match_arm)]

/// User names, hashes, roles.
pub mod account;

/// Argon2id, off the async threads, a few at a time.
pub mod password;

/// The keys that sign tokens.
pub mod keys;

/// Signed tokens.
pub mod token;

/// Whom a request acts for.
pub mod principal;

/// A log-in, from user name and password to a session.
mod login;

/// A request, from token and cookie to a principal.
mod authenticate;

/// The end of sessions, by their owner.
mod logout;

/// The end of sessions, by a change of their account.
pub mod revocation;

/// Failed log-ins, counted per account and per address.
pub mod throttle;

/// The parts put together.
mod core;

/// Sessions in trusted epochs only.
mod trusted_sessions;

/// Applies the log to Redis, and decides which epochs are trusted.
mod reconciler;

/// Sessions in Redis, each bound to a cookie.
pub mod session;

/// The replication id, by which a restarted or promoted Redis is noticed.
pub mod redis_epoch;

/// Redis or a cluster, with a time limit on every call.
pub mod redis_client;

/// Fails fast while Redis does not answer.
mod circuit_breaker;

/// What Redis runs.
mod scripts;

/// Why a request was not admitted.
mod error;

pub use self::core::Auth;
pub use error::AuthError;
pub use login::LoggedIn;
pub use principal::{Cookie, Principal, Purpose};
