//! Embedded servers: a private PostgreSQL and a private Redis in one folder, kept between runs.
//!
//! Read `Servers::start` first. One process at a time locks the folder (`folder`), each program runs as
//! a user that PostgreSQL accepts (`run_as`), and a watchdog stops each server when this process ends,
//! also by `kill -9` (`watchdog`).

/// Starts and stops the servers.
mod servers;

/// What to start, and time limits.
mod options;

/// A running server.
mod running;

/// The private PostgreSQL.
mod postgres;

/// The database cluster of the private PostgreSQL.
mod cluster;

/// The private Redis.
mod redis;

/// Finds the programs.
mod programs;

/// The folder, its lock and its permissions.
mod folder;

/// The user that programs run as.
mod run_as;

/// The choice of that user, from the facts of this machine.
mod choose_user;

/// Stops a program when this process ends.
mod watchdog;

/// Why the servers could not be started.
mod error;

pub use error::StartError;
pub use options::{OLD_SERVER_LIMIT, Options, READY_LIMIT, STOP_LIMIT};
pub use servers::Servers;
