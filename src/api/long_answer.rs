//! Long answers: read at the speed of PostgreSQL, sent at the speed of the client, and spilled to a file in
//! between if they are large.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;
use tokio::time::Instant;

use super::account_slots::AccountSlot;
use super::body::json_answer;
use super::error::ApiError;
use super::pace::Sender;
use super::session_watch::SessionWatch;
use super::spool::SpoolFile;
use super::state::Api;

/// How many bytes are kept in memory before they spill to a file.
const MEMORY_MAX: usize = 256 * 1024;

/// How many bytes are read from the file at a time.
const CHUNK: usize = 64 * 1024;

/// How long a long answer is read before it may give way.
const TURN: Duration = Duration::from_millis(4);

/// The longest pause: a turn also has the time for which PostgreSQL was waited for.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// How long it gives way after a request of another client.
const BUSY: Duration = Duration::from_millis(250);

/// What a long answer holds until it is sent.
pub(super) struct Holds {
    pub(super) slot: AccountSlot,
    pub(super) watch: SessionWatch,
}

/// A response that is streamed from PostgreSQL to the client.
pub(super) struct LongAnswer<'a> {
    api: &'a Api,
    pub(super) pending: Vec<u8>,
    file: Option<SpoolFile>,
    /// When this turn began, the number of requests at the end of the last one, and until when the service
    /// counts as busy.
    turn: Instant,
    requests: u64,
    busy_until: Instant,
}

impl<'a> LongAnswer<'a> {
    pub(super) fn new(api: &'a Api) -> Self {
        let (turn, requests) = (Instant::now(), api.requests.load(Ordering::Relaxed));
        Self { api, pending: vec![], file: None, turn, requests, busy_until: turn }
    }

    /// While other requests arrive, pauses for as long as the last turn took: half of the time is theirs.
    pub(super) async fn give_way(&mut self) {
        let now = Instant::now();
        let took = now.duration_since(self.turn);
        if took < TURN {
            return;
        }
        let requests = self.api.requests.load(Ordering::Relaxed);
        if requests != self.requests {
            self.requests = requests;
            self.busy_until = now + BUSY;
        }
        if now < self.busy_until {
            tokio::time::sleep(took.min(PAUSE_MAX)).await;
        }
        self.turn = Instant::now();
    }

    /// Spills the pending bytes to the file if they are at least [`MEMORY_MAX`].
    pub(super) async fn spill(&mut self) -> Result<(), ApiError> {
        if self.pending.len() < MEMORY_MAX {
            return Ok(());
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(self.api.spool.file()?),
        };
        file.write(&self.pending).await?;
        self.pending.clear();
        Ok(())
    }

    /// A JSON response: the head, the spilled bytes, the pending bytes. `holds` are dropped when it is sent,
    /// when the client is too slow, or when the session ends.
    pub(super) async fn into_response(
        self,
        head: String,
        holds: Option<Holds>,
    ) -> Result<Response, ApiError> {
        let (mut length, tail) = ((head.len() + self.pending.len()) as u64, self.pending);
        let body = match self.file {
            None => Body::from([head.into_bytes(), tail].concat()),
            Some(file) => {
                let (file, share) = file.into_reader().await?;
                length += share.bytes();
                let (sender, body) = match &holds {
                    Some(Holds { watch, .. }) => Sender::until(watch.ended().clone()),
                    None => Sender::new(),
                };
                self.api.tasks.spawn_until_shutdown(async move {
                    let sending = send(sender, head.into(), file, tail.into());
                    match holds {
                        Some(Holds { slot, watch }) => {
                            watch.ended().run_until_cancelled(sending).await;
                            drop(slot);
                        }
                        None => sending.await,
                    }
                    drop(share);
                });
                body
            }
        };
        let mut response = json_answer(body);
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        Ok(response)
    }
}

/// Sends head, file and tail, until the client is too slow or has gone.
async fn send(mut sender: Sender, head: Bytes, mut file: File, tail: Bytes) {
    if !sender.send(Ok(head)).await {
        return;
    }
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        match (&mut file).take(CHUNK as u64).read_to_end(&mut chunk).await {
            Ok(0) => break,
            Ok(_) if sender.send(Ok(chunk.into())).await => {}
            Ok(_) => return,
            Err(error) => {
                sender.send(Err(axum::Error::new(error))).await;
                return;
            }
        }
    }
    sender.send(Ok(tail)).await;
}
