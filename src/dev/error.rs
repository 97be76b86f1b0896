//! Why the servers could not be started.

use std::path::Path;
use std::process::ExitStatus;

use super::options::OLD_SERVER_LIMIT;

/// Why the servers could not be started. Every message is one line that names a remedy or the place to
/// look.
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
        "PostgreSQL does not run as root, and {user} cannot enter {directory}: chmod o+x {directory}, or use another folder"
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
    /// Turns an I/O error on `path` into this error, for `map_err`.
    pub(super) fn at(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.display().to_string();
        move |cause| Self::Path { path, cause }
    }
}
