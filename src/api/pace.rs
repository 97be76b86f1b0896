//! The least rate at which a client must read a long answer or send a long body. A client that is slower is
//! cut off, so that it holds neither memory, nor disk, nor a slot for long.

use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes, HttpBody as _};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures_util::{StreamExt as _, stream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::tasks::Tasks;

/// How long the next chunk may take to be read by the client, or to arrive from it.
pub(super) const CHUNK_LIMIT: Duration = Duration::from_secs(30);

/// In bytes per second, on average after the first [`CHUNK_LIMIT`].
const LEAST_RATE: u64 = 8 * 1024;

/// Answers of more bytes are timed; the kernel takes smaller ones at once.
const SMALL: u64 = 32 * 1024;

/// How many bytes are passed on at a time.
const CHUNK: usize = 64 * 1024;

/// What a timed answer is made of.
pub(super) type Chunk = Result<Bytes, axum::Error>;

/// Waits until the next chunk has passed; `None` if the client is slower than it may be. `bytes` have
/// passed since `began`.
pub(super) async fn in_time<T>(
    began: Instant,
    bytes: u64,
    chunk: impl Future<Output = T>,
) -> Option<T> {
    let average = began + CHUNK_LIMIT + Duration::from_millis(bytes * 1000 / LEAST_RATE);
    let deadline = average.min(Instant::now() + CHUNK_LIMIT);
    let passed = tokio::time::timeout_at(deadline, chunk).await.ok();
    if passed.is_none() {
        metrics::counter!("customers_slow_clients_total").increment(1);
    }
    passed
}

/// Sends chunks to a client, in time.
pub(super) struct Sender {
    chunks: mpsc::Sender<Chunk>,
    began: Instant,
    sent: u64,
}

impl Sender {
    /// A sender, and the body that it fills. A body that ends before its `Content-Length` is an error for
    /// its client.
    pub(super) fn new() -> (Self, Body) {
        Self::until(CancellationToken::new())
    }

    /// The same of a body that ends when the token is cancelled, whatever still waits for the client.
    pub(super) fn until(ended: CancellationToken) -> (Self, Body) {
        // One chunk waits in the channel, one for the client.
        let (sender, chunks) = mpsc::channel(1);
        let body =
            Body::from_stream(stream::unfold((chunks, ended), async |(mut chunks, ended)| {
                let chunk: Option<Chunk> = ended.run_until_cancelled(chunks.recv()).await.flatten();
                chunk.map(|chunk| (chunk, (chunks, ended)))
            }));
        (Self { chunks: sender, began: Instant::now(), sent: 0 }, body)
    }

    /// Sends a chunk; `false` if the client has gone or is too slow.
    pub(super) async fn send(&mut self, chunk: Chunk) -> bool {
        let length = chunk.as_ref().map_or(0, Bytes::len) as u64;
        let passed = in_time(self.began, self.sent, self.chunks.send(chunk)).await;
        self.sent += length;
        matches!(passed, Some(Ok(())))
    }

    /// The same for a stream without an end, whose client need not take it at a least rate on average.
    pub(super) async fn send_live(&self, chunk: Chunk) -> bool {
        let passed = in_time(Instant::now(), 0, self.chunks.send(chunk)).await;
        matches!(passed, Some(Ok(())))
    }

    /// Waits until the client has gone.
    pub(super) async fn closed(&self) {
        self.chunks.closed().await;
    }
}

/// The response with a timed body, if its body is in memory and not small.
pub(super) fn timed(tasks: &Tasks, mut response: Response) -> Response {
    let Some(bytes) = response.body().size_hint().exact().filter(|bytes| *bytes > SMALL) else {
        return response;
    };
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
    response.map(|body| {
        let (sender, timed) = Sender::new();
        tasks.spawn_until_shutdown(pass_on(body.into_data_stream(), sender));
        timed
    })
}

async fn pass_on(mut body: BodyDataStream, mut sender: Sender) {
    while let Some(frame) = body.next().await {
        match frame {
            Ok(mut bytes) => {
                while !bytes.is_empty() {
                    let chunk = bytes.split_to(bytes.len().min(CHUNK));
                    if !sender.send(Ok(chunk)).await {
                        return;
                    }
                }
            }
            Err(error) => {
                sender.send(Err(error)).await;
                return;
            }
        }
    }
}
