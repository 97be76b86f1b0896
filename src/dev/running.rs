//! A server that runs.

use super::watchdog::Watched;

/// A server that has answered a connection.
pub(super) struct Running {
    pub(super) url: String,
    pub(super) process: Watched,
}
