//! Why a rebuild or rollback failed.

use std::borrow::Cow;

use crate::projections::checksum::Checksum;
use crate::projections::projection::ProjectionError;

/// Why a rebuild or rollback failed. The live table is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    #[error("a rebuild of this projection is running")]
    AlreadyRunning,
    #[error("transactions of the previous attempt are still running; retry later")]
    PreviousAttemptRunning,
    #[error("the projection has no previous table")]
    NoPreviousTable,
    #[error("checksum mismatch: the table has {found:?}, {copied:?} was copied")]
    ChecksumMismatch { copied: Checksum, found: Checksum },
    /// Names objects that other users of the database have made on the read table.
    #[error("the read table cannot be exchanged: {}; see \"Rebuild a projection\" in the operations manual", .0.join("; "))]
    Obstructed(Vec<String>),
    #[error("swap timed out: long queries hold the table")]
    SwapTimedOut,
    #[error(transparent)]
    Projection(#[from] ProjectionError),
}

impl From<sqlx::Error> for RebuildError {
    fn from(error: sqlx::Error) -> Self {
        Self::Projection(error.into())
    }
}

impl RebuildError {
    /// The whole chain of causes, in one line.
    pub(super) fn in_full(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let part = error.to_string();
            // A transparent error repeats the text of its cause.
            if !text.contains(&part) {
                text = format!("{text}: {part}");
            }
            cause = error.source();
        }
        text
    }
}

/// Whether a lock was not granted in time (SQLSTATE `lock_not_available`, `deadlock_detected`).
pub(super) fn is_lock_timeout(error: &sqlx::Error) -> bool {
    matches!(code(error).as_deref(), Some("55P03" | "40P01"))
}

/// Whether the standby table lacks an index (SQLSTATE CU004 of `serve_tables`, migration 0014).
pub(super) fn is_index_missing(error: &sqlx::Error) -> bool {
    code(error).as_deref() == Some("CU004")
}

fn code(error: &sqlx::Error) -> Option<Cow<'_, str>> {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code)
}
