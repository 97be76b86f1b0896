//! A running server.

use super::watchdog::WatchedProgram;

/// A server that has accepted a connection.
pub(super) struct Running {
    pub(super) url: String,
    pub(super) process: WatchedProgram,
}
