//! Spool files: unlinked files for lists that are sent to slow clients, and for the bodies of imports.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::{StreamExt as _, stream};
use tokio::fs::File;
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _};
use tokio_util::io::ReaderStream;

use super::error::ApiError;

/// How many bytes are kept in memory before they spill to a file.
const MEMORY_MAX: usize = 256 * 1024;

/// How many bytes are read from the file at a time.
const CHUNK: usize = 64 * 1024;

/// 503: the spool folder is full or not writable.
pub(super) fn spool_error(error: &std::io::Error) -> ApiError {
    ApiError::Unavailable(format!("spool file: {error}"))
}

/// An unlinked file in the spool folder.
pub(super) fn spool_file(folder: &Path) -> std::io::Result<File> {
    tempfile::tempfile_in(folder).map(File::from_std)
}

/// A response that is streamed from PostgreSQL to the client.
pub(super) struct Spool {
    folder: PathBuf,
    pub(super) pending: Vec<u8>,
    file: Option<File>,
    /// How many bytes are in the file.
    spilled: u64,
}

impl Spool {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, pending: vec![], file: None, spilled: 0 }
    }

    /// Spills the pending bytes to the file if they are at least [`MEMORY_MAX`].
    pub(super) async fn spill(&mut self) -> std::io::Result<()> {
        if self.pending.len() < MEMORY_MAX {
            return Ok(());
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(spool_file(&self.folder)?),
        };
        file.write_all(&self.pending).await?;
        self.spilled += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }

    /// A JSON response: the head, the spilled bytes, the pending bytes.
    pub(super) async fn answer(self, head: String) -> std::io::Result<Response> {
        let length = head.len() as u64 + self.spilled + self.pending.len() as u64;
        let body = match self.file {
            None => {
                let mut bytes = head.into_bytes();
                bytes.extend_from_slice(&self.pending);
                Body::from(bytes)
            }
            Some(mut file) => {
                file.flush().await?;
                file.seek(SeekFrom::Start(0)).await?;
                let head = stream::iter([Ok(Bytes::from(head))]);
                let tail = stream::iter([Ok(Bytes::from(self.pending))]);
                Body::from_stream(head.chain(ReaderStream::with_capacity(file, CHUNK)).chain(tail))
            }
        };
        let mut response = body.into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        Ok(response)
    }
}
