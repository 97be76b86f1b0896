//! A self-hosted registry of customers whose every change is an event.
//!
//! The modules stand in reading order, and each may use only those above it
//! (`tests/architecture.rs` checks that). One request, one way through:
//!
//! | step | where |
//! |---|---|
//! | route table, limits | [`api`] |
//! | token, session, cookie, role | [`api::guard`] on [`auth`] |
//! | values, command | [`api::customers`] |
//! | the customer's last event, decide | [`commands`] |
//! | one transaction, the position | [`events::log`] |
//! | read table | [`projections`] |
//! | answer | [`api::freshness`] |

/// Time and randomness, passed in everywhere else.
pub mod clock;

/// The environment, read once.
pub mod config;

/// Background tasks, which shutdown waits for.
pub mod tasks;

/// Files that appear whole or not at all.
pub mod files;

/// PostgreSQL: transactions, COPY.
pub mod postgres;

/// WHAT HAPPENED: values, events, the log.
pub mod events;

/// HOW THE LOG IS TOLD: pages, the tail, formats, copies.
pub mod feed;

/// WHAT MAY HAPPEN: pure decisions and the bus.
pub mod commands;

/// WHAT PEOPLE LOOK AT: read tables that follow the log.
pub mod projections;

/// WHO MAY COME IN: accounts, sessions, tokens.
pub mod auth;

/// HOW THEY ASK: the HTTP contract.
pub mod api;

/// Logs and metrics.
pub mod telemetry;

/// The database's schema, and who may do what in it.
pub mod schema;

/// Connections to PostgreSQL.
pub mod pools;

/// The rooms put together: one process of the service.
pub mod app;

/// Demo customers and account, through commands.
pub mod demo;

/// THE EMBEDDED DEFAULT: a private PostgreSQL and a private Redis.
#[cfg(feature = "embedded")]
pub mod dev;

/// The command line.
pub mod cli;
