//! Lists of customers, youngest first. The rows are taken from PostgreSQL as fast as it sends them
//! and given to the client as fast as it takes them: in between they wait in memory, or in an
//! unlinked file when they are many. So a slow client holds no snapshot, and memory stays flat.

use std::io::SeekFrom;
use std::pin::pin;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::fs::File;
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _};
use tokio_util::io::ReaderStream;

use super::Api;
use super::customers::Customer;
use super::error::ApiError;
use super::extract::{Params, plain_number};
use super::freshness;
use super::guard::{Allowed, Viewer};
use crate::projections::customers;

/// How many bytes wait in memory before a file takes them.
const MEMORY_MAX: usize = 256 * 1024;

/// How many bytes a client is sent at a time.
const CHUNK: usize = 64 * 1024;

/// Lists of up to so many customers are answered over the connections for short queries.
const SHORT: i64 = 1000;

/// `GET /customers`, `GET /customers?numbers=n`
pub(super) async fn list(
    allowed: Allowed<Viewer>,
    State(api): State<Api>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Allowed { .. } = allowed;
    let number = match params.only(["numbers", "number"])? {
        [Some(_), Some(_)] => {
            return Err(ApiError::malformed("number", "conflicts with numbers"));
        }
        [Some(text), None] => Some(plain_number("numbers", &text)?),
        [None, Some(text)] => Some(plain_number("number", &text)?),
        [None, None] => None,
    };
    freshness::wait(&api, &headers).await?;
    let pool = if number.is_some_and(|number| number <= SHORT) { api.read() } else { api.bulk() };
    let mut rows = pin!(customers::youngest(pool, number));
    let mut spool = Spool::default();
    let mut count: u64 = 0;
    while let Some(row) = rows.try_next().await? {
        if count > 0 {
            spool.waiting.push(b',');
        }
        serde_json::to_writer(&mut spool.waiting, &Customer::from(&row))
            .map_err(|error| ApiError::Internal(error.to_string()))?;
        count += 1;
        spool.relieve().await.map_err(|error| full(&error))?;
    }
    spool.waiting.extend_from_slice(b"]}");
    spool
        .answer(format!("{{\"number\":{count},\"customers\":["))
        .await
        .map_err(|error| full(&error))
}

/// The disk does not take what is spooled.
pub(super) fn full(error: &std::io::Error) -> ApiError {
    ApiError::Unavailable(format!("spool file: {error}"))
}

/// Bytes on their way from PostgreSQL to the client.
#[derive(Default)]
struct Spool {
    waiting: Vec<u8>,
    file: Option<File>,
    filed: u64,
}

impl Spool {
    /// Moves what waits into the file when it is much.
    async fn relieve(&mut self) -> std::io::Result<()> {
        if self.waiting.len() < MEMORY_MAX {
            return Ok(());
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(File::from_std(tempfile::tempfile()?)),
        };
        file.write_all(&self.waiting).await?;
        self.filed += self.waiting.len() as u64;
        self.waiting.clear();
        Ok(())
    }

    /// The head, what was filed, what still waits.
    async fn answer(self, head: String) -> std::io::Result<Response> {
        let length = head.len() as u64 + self.filed + self.waiting.len() as u64;
        let body = match self.file {
            None => {
                let mut bytes = head.into_bytes();
                bytes.extend_from_slice(&self.waiting);
                Body::from(bytes)
            }
            Some(mut file) => {
                file.flush().await?;
                file.seek(SeekFrom::Start(0)).await?;
                let head = stream::iter([Ok(Bytes::from(head))]);
                let tail = stream::iter([Ok(Bytes::from(self.waiting))]);
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
