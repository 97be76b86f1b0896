//! Spool files: unlinked files for lists that are sent to slow clients, and for the bodies of imports. They
//! share a budget, so that no client can fill the disk.

use std::io::ErrorKind;
use std::io::SeekFrom;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::fs::File;
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _};

use super::error::ApiError;
use crate::telemetry::as_f64;

/// The folder of the spool files and their budget.
pub struct SpoolSpace {
    folder: PathBuf,
    /// How many bytes all files of the process may have.
    limit: u64,
    used: Arc<AtomicU64>,
}

impl SpoolSpace {
    #[must_use]
    pub fn new(folder: PathBuf, limit: u64) -> Self {
        Self { folder, limit, used: Arc::default() }
    }

    /// An unlinked file.
    pub(super) fn file(&self) -> Result<SpoolFile, ApiError> {
        let file = tempfile::tempfile_in(&self.folder).map_err(|error| unavailable(&error))?;
        let share = SpoolShare { bytes: 0, limit: self.limit, used: Arc::clone(&self.used) };
        Ok(SpoolFile { file: File::from_std(file), share })
    }
}

/// 503: the spool folder is full or not writable.
pub(super) fn unavailable(error: &std::io::Error) -> ApiError {
    if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
        tracing::error!(%error, "spool: the disk is full");
        return ApiError::SpoolFull;
    }
    ApiError::Unavailable(format!("spool file: {error}"))
}

/// The bytes of one file, returned to the budget on drop.
pub(super) struct SpoolShare {
    bytes: u64,
    limit: u64,
    used: Arc<AtomicU64>,
}

impl SpoolShare {
    /// The size of the file.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn grow(&mut self, bytes: u64) -> Result<(), ApiError> {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if used > self.limit {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            metrics::counter!("customers_spool_refused_total").increment(1);
            return Err(ApiError::SpoolFull);
        }
        self.bytes += bytes;
        self.report();
        Ok(())
    }

    fn report(&self) {
        let used = i64::try_from(self.used.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
        metrics::gauge!("customers_spool_bytes").set(as_f64(used));
    }
}

impl Drop for SpoolShare {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::Relaxed);
        self.report();
    }
}

/// A file and its share of the budget.
pub(super) struct SpoolFile {
    file: File,
    share: SpoolShare,
}

impl SpoolFile {
    /// Appends; 503 if the budget is used up.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), ApiError> {
        self.share.grow(bytes.len() as u64)?;
        self.file.write_all(bytes).await.map_err(|error| unavailable(&error))
    }

    /// The file from its beginning. The share must be held for as long as the file.
    pub(super) async fn into_reader(mut self) -> Result<(File, SpoolShare), ApiError> {
        let rewound = async {
            self.file.flush().await?;
            self.file.seek(SeekFrom::Start(0)).await
        };
        rewound.await.map_err(|error| unavailable(&error))?;
        Ok((self.file, self.share))
    }
}
