//! What to start, and how long that may take.

use std::path::PathBuf;
use std::time::Duration;

/// How long `Servers::stop` may take in all; the command ends within 10 s of a signal and needs the
/// rest itself.
pub const STOP_LIMIT: Duration = Duration::from_secs(8);

/// How long a start waits for the servers of an earlier run to be gone.
///
/// After a `kill -9` of a postmaster its lock file was seen to be refused for up to 25 s.
pub const OLD_SERVER_LIMIT: Duration = Duration::from_secs(30);

/// How long a server may take from its start to its first connection: replaying the log of a crash
/// is part of it.
pub const READY_LIMIT: Duration = Duration::from_mins(1);

/// What to start, and where.
pub struct Options {
    /// Holds everything the servers write; made with mode 0700 if it is not there.
    pub folder: PathBuf,
    pub postgres: bool,
    pub redis: bool,
    /// Fresh randomness for passwords: the first half for Postgres, the second for Redis.
    pub secret: [u8; 32],
    /// Settings of Postgres beside ours, as `name=value`.
    pub settings: Vec<String>,
    /// Throw-away servers of a test run: more connections, no sync of the new cluster's files
    /// (fsync stays on).
    pub quick: bool,
}
