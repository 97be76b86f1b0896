//! A self-hosted registry of customers that records every change as an event.
//!
//! The modules are in reading order, and each uses only those above it (`tests/architecture.rs` checks
//! that). The path of one request:
//!
//! | step | where |
//! |---|---|
//! | table of routes, limits | [`api`] |
//! | token, session, cookie, role | [`api::guard`] on [`auth`] |
//! | values, command | `api::customers` |
//! | the customer's last event, decision | [`commands`] |
//! | one transaction, the position | [`events::log`] |
//! | read table | [`projections`] |
//! | answer, once the read table shows it | `api::read_your_writes` |

/// Time and randomness; no other module reads the system's.
pub mod clock;

/// The parts of the URLs of PostgreSQL and Redis.
mod server_url;

/// The configuration, read from the environment once.
pub mod config;

/// Texts for people: without characters that act on a terminal, and errors that say each thing once.
pub mod printable;

/// Log lines, written by a thread of their own.
mod log_lines;

/// Logs and metrics.
pub mod telemetry;

/// Background tasks: supervised, and ended together at shutdown.
pub mod tasks;

/// Request coalescing: one answer for all who ask at the same time.
mod coalesce;

/// Atomic file writes: a file appears whole or not at all.
pub mod files;

/// One check of `customers doctor`.
pub mod check;

/// Text files of other programs: their encodings and line ends.
pub mod text_file;

/// PostgreSQL: transactions, COPY.
pub mod postgres;

/// Events: values, event types, the log.
pub mod events;

/// The feed: pages, the tail, event formats, copies of a whole log.
pub mod feed;

/// Commands: pure decisions and the command bus.
pub mod commands;

/// Projections: read tables that follow the log.
pub mod projections;

/// Authentication: accounts, tokens, sessions.
pub mod auth;

/// The HTTP API.
pub mod api;

/// Migrations, grants, and the checks of `customers doctor`.
pub mod schema;

/// Connection pools to PostgreSQL.
pub mod pools;

/// One process of the service: listener, pools, background tasks.
pub mod app;

/// Demo customers and account, created through commands.
pub mod demo;

/// The embedded servers, which are the default: a private PostgreSQL and a private Redis.
#[cfg(feature = "embedded")]
pub mod dev;

/// The command line.
pub mod cli;
