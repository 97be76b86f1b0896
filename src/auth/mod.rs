//! Authentication: accounts in PostgreSQL, sessions in Redis, tokens signed with EdDSA.
//!
//! Redis holds an allow-list: a token is valid only while its session is in it. All changes of accounts
//! and sessions are in the log, and the reconciler keeps Redis consistent with it.

#![deny(clippy::wildcard_enum_match_arm)]

/// User names, hashes, roles.
pub mod account;

/// Changes of several parts of an account at once.
pub mod account_changes;

/// The secrets of service keys.
pub mod key_secret;

/// Service keys: the credentials with which programs get tokens.
pub mod account_keys;

/// Passwords as text: the same on every keyboard (RFC 8265).
mod opaque_string;

/// Argon2id, outside the async threads, with a limit on parallel hashes.
pub mod password;

/// The queue for password checks, fair between networks.
pub mod fair_queue;

/// The keys that sign tokens.
pub mod keys;

/// Signed tokens.
pub mod token;

/// The session cookie: its names and its form, among the cookies of neighbours.
pub mod cookie;

/// The account and session of a request.
pub mod principal;

/// Opens a session, after a password or a key was checked.
mod opening;

/// Log-in: opens a session for a user name and its password.
mod login;

/// What becomes of log-ins, counted.
mod login_outcomes;

/// Client credentials: opens a session for a service key and its secret.
mod client_credentials;
/// Refused tokens: their causes, counted and logged.
mod token_refusal;

/// Authentication of a request: token and cookie lead to a principal.
mod authenticate;

/// Log-out and password change: an owner ends sessions.
mod logout;

/// Accounts and service keys, as the API changes them.
mod administration;

/// Revocation: a change of an account ends its sessions.
pub mod revocation;

/// Failed log-ins, counted per account and per address.
pub mod throttle;

/// [`Auth`], the service that these modules form.
mod components;

/// Sessions in trusted epochs only.
mod trusted_sessions;

/// Applies the log to Redis, and decides which epochs are trusted.
mod reconciler;

/// Sessions in Redis, each bound to a cookie.
pub mod session;

/// The check of the session of a request.
mod session_check;

/// The Redis of the sessions: one server, a cluster, or the master that Sentinels name.
pub mod redis;

/// Why a request was not admitted.
mod error;

pub use self::components::Auth;
pub use administration::WantedAccount;
pub use client_credentials::IssuedToken;
pub use error::AuthError;
pub use login::LoggedIn;
pub use principal::{Cookie, Principal, Purpose};
