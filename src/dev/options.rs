//! What to start, and how long that may take.

use std::path::PathBuf;
use std::time::Duration;

/// How long `Servers::stop` may take in all: the command ends within 10 s of a signal, and needs the
/// other 2 s itself.
pub const STOP_LIMIT: Duration = Duration::from_secs(8);

/// How long a start waits for the servers of an earlier run to end. After a `kill -9` of a postmaster,
/// its lock file was observed to stop the next one for up to 25 s.
pub const OLD_SERVER_LIMIT: Duration = Duration::from_secs(30);

/// How long a server may take from its start to its first connection, crash recovery included.
pub const READY_LIMIT: Duration = Duration::from_mins(1);

/// What to start, and where.
pub struct Options {
    /// Holds everything that the servers write; created with mode 0700 if it is missing.
    pub folder: PathBuf,
    pub postgres: bool,
    pub redis: bool,
    /// Fresh random bytes for the passwords: the first half for PostgreSQL, the second for Redis.
    pub secret: [u8; 32],
    /// Additional settings of PostgreSQL, as `name=value`.
    pub settings: Vec<String>,
    /// Throw-away servers for tests: more connections, and no sync of the files of the new cluster (the
    /// server runs with fsync on).
    pub throw_away: bool,
}
