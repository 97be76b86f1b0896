//! THE EMBEDDED DEFAULT: a private PostgreSQL and a private Redis in one folder, kept between runs.
//!
//! Read `Servers::start` first. A folder has one owner process at a time (`folder`), each program runs as
//! a user that PostgreSQL accepts (`run_as`), and a watchdog ends each server when this process ends,
//! however it ends (`watchdog`).

/// Start and stop.
mod servers;

/// What to start.
mod options;

/// A server that runs.
mod running;

/// The private PostgreSQL.
mod postgres;

/// The files of the private PostgreSQL.
mod cluster;

/// The private Redis.
mod redis;

/// The programs of this machine.
mod programs;

/// The folder and its owner.
mod folder;

/// The user that programs run as.
mod run_as;

/// What this machine allows.
mod facts;

/// Ends a server when its parent ends.
mod watchdog;

/// Why the servers could not be started.
mod error;

pub use error::StartError;
pub use options::{OLD_SERVER_LIMIT, Options, READY_LIMIT, STOP_LIMIT};
pub use servers::Servers;
