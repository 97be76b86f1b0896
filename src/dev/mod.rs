//! The embedded default: a private Postgres and a private Redis in one folder, kept between runs.
//!
//! Read `Servers::start` first. A folder has one living owner at a time (`folder`), every program
//! runs as a user Postgres accepts (`run_as`), and a watchdog ends each server when we end, however
//! we end (`watchdog`).

/// Dummy data.
pub mod demo;

mod cluster;
mod facts;
mod folder;
mod postgres;
mod programs;
mod redis;
mod run_as;
mod watchdog;

use std::{
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use tokio::time::Instant;

use folder::Folder;
use watchdog::Watched;

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

/// The running servers of one folder.
///
/// Dropping the value ends them too, but without waiting: `stop` is the orderly way.
pub struct Servers {
    postgres: Option<Running>,
    redis: Option<Running>,
    /// Its lock keeps a second owner out until the servers are gone.
    _folder: Folder,
}

/// A server that has answered a connection.
struct Running {
    url: String,
    process: Watched,
}

impl Servers {
    /// Starts the wanted servers and returns when a connection to each works, in bounded time.
    ///
    /// Data of an earlier start on the same folder is there again; addresses and the Redis password
    /// are new.
    ///
    /// # Errors
    /// `StartError`, each with one line for a person. What was started is ended then.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let folder = Folder::open(&options.folder).await?;
        let (postgres_secret, redis_secret) = options.secret.split_at(16);
        let (postgres, redis) = tokio::join!(
            when(options.postgres, postgres::start(&folder, postgres_secret, &options)),
            when(options.redis, redis::start(&folder, redis_secret)),
        );
        match (postgres, redis) {
            (Ok(postgres), Ok(redis)) => Ok(Self { postgres, redis, _folder: folder }),
            (Err(error), other) | (other, Err(error)) => {
                stop_all([other.ok().flatten(), None]).await;
                Err(error)
            }
        }
    }

    /// `postgres://customers:PASSWORD@127.0.0.1:PORT/customers`, if Postgres was wanted.
    #[must_use]
    pub fn database_url(&self) -> Option<&str> {
        self.postgres.as_ref().map(|running| running.url.as_str())
    }

    /// `redis://:PASSWORD@127.0.0.1:PORT/0`, if Redis was wanted.
    #[must_use]
    pub fn redis_url(&self) -> Option<&str> {
        self.redis.as_ref().map(|running| running.url.as_str())
    }

    /// Ends both servers at the same time: orderly, then by force; returns within `STOP_LIMIT`.
    pub async fn stop(self) {
        stop_all([self.postgres, self.redis]).await;
    }
}

async fn when(
    wanted: bool,
    start: impl Future<Output = Result<Running, StartError>>,
) -> Result<Option<Running>, StartError> {
    if wanted { start.await.map(Some) } else { Ok(None) }
}

async fn stop_all(servers: [Option<Running>; 2]) {
    let deadline = Instant::now() + STOP_LIMIT;
    let [first, second] = servers.map(|running| async move {
        if let Some(running) = running {
            running.process.stop(deadline).await;
        }
    });
    tokio::join!(first, second);
}

/// Why the servers could not be started. Every `Display` is one line that says what to do or where
/// to look.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{program} is not installed: run script/bootstrap")]
    Missing { program: &'static str },

    #[error(
        "{folder} needs PostgreSQL {wanted}, installed: {found}; run script/bootstrap or install that version"
    )]
    Version { folder: String, wanted: String, found: String },

    #[error("{folder} is in use by another process ({owner})")]
    InUse { folder: String, owner: String },

    #[error(
        "{server} of an earlier run still writes to {log} after {} s: `fuser {log}` shows it",
        OLD_SERVER_LIMIT.as_secs()
    )]
    StillRunning { server: &'static str, log: String },

    #[error(
        "PostgreSQL does not run as root, and {user} cannot pass {directory}: chmod o+x {directory}, or use another folder"
    )]
    Closed { user: String, directory: String },

    #[error(
        "PostgreSQL does not run as root and there is no user postgres to run it: run script/bootstrap"
    )]
    NoUser,

    #[error("cannot use {path}: {cause}")]
    Path { path: String, cause: std::io::Error },

    #[error("cannot run {program}: {cause}")]
    Spawn { program: &'static str, cause: std::io::Error },

    #[error("{program} failed ({status}): {reason} (see {log})")]
    Failed { program: &'static str, status: ExitStatus, reason: String, log: String },

    #[error("{program} was not ready after {seconds} s (see {log})")]
    Slow { program: &'static str, seconds: u64, log: String },
}

impl StartError {
    /// For `map_err` on a file operation.
    fn at(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.display().to_string();
        move |cause| Self::Path { path, cause }
    }
}
