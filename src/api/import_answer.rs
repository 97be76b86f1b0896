//! The answer of an import: NDJSON that is sent while the import is at work, with its progress.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::pace::in_time;
use crate::commands::import::progress::{Progress, Report};
use crate::commands::import::{RejectedLine, Summary};

/// How often the progress is told: at least every 5 s is promised, on a busy machine too.
pub(super) const PROGRESS_INTERVAL: Duration = Duration::from_secs(4);

/// The approximate size of a chunk, in bytes.
const CHUNK: usize = 16 * 1024;

/// How long the client may take to read on when the import has to end: it holds its places meanwhile.
const LAST_LIMIT: Duration = Duration::from_secs(1);

/// The answer, sent in chunks; none any more once the client has gone or is too slow.
pub(super) struct ImportAnswer {
    sender: Option<mpsc::Sender<Bytes>>,
    /// Cancelled when the import has to end.
    stop: CancellationToken,
    /// How long the import has waited for the client, and how many bytes it has sent.
    waited: Duration,
    sent: u64,
    pending: Vec<u8>,
}

impl ImportAnswer {
    /// An answer, and the response that carries it.
    pub(super) fn new(stop: CancellationToken) -> (Self, Response) {
        let (sender, answer) = mpsc::channel(4);
        let body = stream::unfold(answer, async |mut answer: mpsc::Receiver<Bytes>| {
            answer.recv().await.map(|chunk| (Ok::<_, std::convert::Infallible>(chunk), answer))
        });
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson")),
            // nginx would keep the progress to itself.
            (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
        ];
        let response = (headers, Body::from_stream(body)).into_response();
        let sender = Some(sender);
        (Self { sender, stop, waited: Duration::ZERO, sent: 0, pending: vec![] }, response)
    }

    /// Sends each refused line, and from `first` on the progress, until no more lines can come.
    pub(super) async fn report(
        &mut self,
        mut refused: mpsc::Receiver<RejectedLine>,
        progress: &watch::Sender<Progress>,
        first: Instant,
    ) {
        #[derive(Serialize)]
        struct Beat {
            progress: Report,
        }
        let mut beat = tokio::time::interval_at(first, PROGRESS_INTERVAL);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                line = refused.recv() => match line {
                    Some(line) => self.line(&line).await,
                    None => return,
                },
                _ = beat.tick() => {
                    let progress = progress.borrow().report();
                    self.line(&Beat { progress }).await;
                    self.send().await;
                }
            }
        }
    }

    /// Sends the last line: the summary, or the problem object of the error that ended the import.
    pub(super) async fn end(mut self, outcome: Result<Summary, String>) {
        #[derive(Serialize)]
        struct Last {
            summary: Summary,
        }
        match outcome {
            Ok(summary) => self.line(&Last { summary }).await,
            Err(problem) => {
                let line = format!("{{\"error\":{problem}}}\n");
                self.pending.extend_from_slice(line.as_bytes());
            }
        }
        self.send().await;
    }

    async fn line(&mut self, line: &impl Serialize) {
        // Serializing plain structs into memory cannot fail.
        let _ = serde_json::to_writer(&mut self.pending, line);
        self.pending.push(b'\n');
        if self.pending.len() >= CHUNK {
            self.send().await;
        }
    }

    async fn send(&mut self) {
        let chunk = Bytes::from(std::mem::take(&mut self.pending));
        let Some(sender) = &self.sender else { return };
        // Only the time for which the client keeps the import waiting counts.
        let (began, length) = (Instant::now(), chunk.len() as u64);
        let sending = in_time(began - self.waited, self.sent, sender.send(chunk.clone()));
        let sent = match self.stop.run_until_cancelled(sending).await {
            Some(sent) => sent,
            None => tokio::time::timeout(LAST_LIMIT, sender.send(chunk)).await.ok(),
        };
        (self.waited, self.sent) = (self.waited + began.elapsed(), self.sent + length);
        if !matches!(sent, Some(Ok(()))) {
            self.sender = None;
        }
    }
}
