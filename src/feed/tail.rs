//! The end of the log, read once per process and handed to everybody who follows it. What was read
//! last waits in a ring; who is behind the ring reads the log itself, page by page, until it has
//! caught up. Nobody who follows slowly costs memory or holds anybody up.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sqlx::PgPool;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, Semaphore, broadcast};

use super::page::{self, Filter};
use crate::events::log::notify::Subscription;
use crate::events::log::read::{self, ReadError};
use crate::events::log::{DecodeError, StoredEvent};
use crate::tasks::Tasks;

/// How many events the tail reads at a time.
const PAGE: i64 = 500;

/// How many events a follower who is behind reads at a time: few, for there may be many of them.
const CATCH_UP_PAGE: i64 = 50;

/// How many of them read at the same time; the others wait.
const CATCH_UP_MAX: usize = 4;

/// About how many bytes are handed on at a time: what is in the ring is shared by all.
const CHUNK: usize = 16 * 1024;

/// The same of what a follower read for itself. One who stands still holds some twenty of them.
const CATCH_UP_CHUNK: usize = 4 * 1024;

/// How many chunks the ring holds.
const RING: usize = 64;

/// How often the log is looked at when nobody said that it has grown.
const POLL: Duration = Duration::from_secs(1);

/// How long to wait after a failure.
const FAILURE_PAUSE: Duration = Duration::from_millis(250);

/// How an event is written for those who follow.
pub type Frame = fn(&StoredEvent) -> Result<String, DecodeError>;

/// The tail of this process. Clones lead to the same one.
#[derive(Clone)]
pub struct Tail(Arc<Inner>);

struct Inner {
    pool: PgPool,
    frame: Frame,
    live: Mutex<Live>,
    joined: Notify,
    catching_up: Semaphore,
}

struct Live {
    /// Everything up to here went into the ring, or was there before anybody followed.
    position: i64,
    ring: broadcast::Sender<Chunk>,
}

/// Some events in a row, written.
#[derive(Clone)]
struct Chunk {
    first: i64,
    last: i64,
    frames: Bytes,
    /// Where each event begins.
    starts: Arc<[usize]>,
}

impl Chunk {
    /// What of it stands behind `position`; positions have no gaps.
    fn after(&self, position: i64) -> Option<Bytes> {
        if position >= self.last {
            return None;
        }
        let skipped = usize::try_from(position + 1 - self.first).unwrap_or(0);
        Some(self.frames.slice(self.starts.get(skipped).copied()?..))
    }
}

impl Tail {
    /// Starts to read, whenever somebody follows; ends with `shutdown`.
    #[must_use]
    pub fn start(pool: PgPool, appends: Subscription, frame: Frame, tasks: &Tasks) -> Self {
        let live = Mutex::new(Live { position: 0, ring: broadcast::Sender::new(RING) });
        let (joined, catching_up) = (Notify::new(), Semaphore::new(CATCH_UP_MAX));
        let tail = Self(Arc::new(Inner { pool, frame, live, joined, catching_up }));
        tasks.spawn_until_shutdown(run(tail.clone(), appends));
        tail
    }

    /// Follows the log from behind `after`; `head` is where it ended a moment ago.
    #[must_use]
    pub fn follow(&self, after: i64, head: i64) -> Follower {
        let waiting = VecDeque::new();
        Follower { tail: self.clone(), position: after, known: head, waiting, live: None }
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.0.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ring from here on, and the position behind which it begins.
    fn join(&self, head: i64) -> (broadcast::Receiver<Chunk>, i64) {
        let mut live = self.live();
        if live.ring.receiver_count() == 0 {
            // Nobody misses what lies between.
            live.position = live.position.max(head);
        }
        self.0.joined.notify_one();
        (live.ring.subscribe(), live.position)
    }

    /// The position from which to read on, if anybody follows.
    fn read_position(&self) -> Option<i64> {
        let live = self.live();
        (live.ring.receiver_count() > 0).then_some(live.position)
    }

    /// Hands on what was read behind `from`, unless the first to follow has moved the tail.
    fn publish(&self, from: i64, chunks: Vec<Chunk>) {
        let mut live = self.live();
        if live.position == from {
            for chunk in chunks {
                live.position = chunk.last;
                // Nobody may follow any more.
                let _ = live.ring.send(chunk);
            }
        }
    }

    /// The log ends before what was handed on: it was restored. Who follows has to ask again.
    fn restart(&self, head: i64) {
        *self.live() = Live { position: head, ring: broadcast::Sender::new(RING) };
    }

    /// Up to `limit` events behind `after`, in chunks of about `bytes`.
    async fn load(
        &self,
        after: i64,
        head: i64,
        limit: i64,
        bytes: usize,
    ) -> Result<Vec<Chunk>, ReadError> {
        let page = page::page(&self.0.pool, after, head, limit, &Filter::default()).await?;
        Ok(encode_chunks(&page.events, self.0.frame, bytes)?)
    }
}

fn encode_chunks(
    events: &[StoredEvent],
    frame: Frame,
    bytes: usize,
) -> Result<Vec<Chunk>, DecodeError> {
    let (mut chunks, mut frames, mut starts) = (vec![], String::new(), vec![]);
    for (number, event) in events.iter().enumerate() {
        starts.push(frames.len());
        frames.push_str(&frame(event)?);
        if frames.len() >= bytes || number + 1 == events.len() {
            let first = event.position + 1 - i64::try_from(starts.len()).unwrap_or(i64::MAX);
            chunks.push(Chunk {
                first,
                last: event.position,
                frames: Bytes::from(std::mem::take(&mut frames)),
                starts: std::mem::take(&mut starts).into(),
            });
        }
    }
    Ok(chunks)
}

async fn run(tail: Tail, mut appends: Subscription) {
    loop {
        appends.mark_seen();
        let pause = match read_page(&tail).await {
            Ok(true) => continue,
            Ok(false) => POLL,
            Err(error) => {
                tracing::error!(%error, "those who follow the log have to wait");
                tokio::time::sleep(FAILURE_PAUSE).await;
                continue;
            }
        };
        tokio::select! {
            () = appends.wait(pause) => {}
            () = tail.0.joined.notified() => {}
        }
    }
}

/// Whether there may be more.
async fn read_page(tail: &Tail) -> Result<bool, ReadError> {
    let Some(from) = tail.read_position() else { return Ok(false) };
    let chunks = tail.load(from, from.saturating_add(PAGE), PAGE, CHUNK).await?;
    if chunks.is_empty() {
        let head = read::head(&tail.0.pool).await?;
        if head < from {
            tail.restart(head);
        }
        return Ok(head > from);
    }
    tail.publish(from, chunks);
    Ok(true)
}

/// One who follows the log, in its order, without a gap and nothing twice.
pub struct Follower {
    tail: Tail,
    position: i64,
    /// Up to here the log is read; behind it the ring goes on.
    known: i64,
    /// Read and not yet taken.
    waiting: VecDeque<Chunk>,
    live: Option<broadcast::Receiver<Chunk>>,
}

impl Follower {
    /// The next events, written; waits for them. `None` when the log was restored to an earlier
    /// state. May be dropped while it waits: nothing is lost by that.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        loop {
            let Some(live) = &mut self.live else {
                let (live, known) = self.tail.join(self.known);
                (self.live, self.known) = (Some(live), known);
                continue;
            };
            if let Some(chunk) = self.waiting.pop_front() {
                self.position = chunk.last;
                return Ok(Some(chunk.frames));
            }
            if self.position < self.known {
                self.catch_up().await?;
                if self.waiting.is_empty() {
                    return Ok(None);
                }
                continue;
            }
            match live.recv().await {
                Ok(chunk) => {
                    if let Some(frames) = chunk.after(self.position) {
                        self.position = chunk.last;
                        return Ok(Some(frames));
                    }
                }
                Err(RecvError::Lagged(_)) => self.live = None,
                Err(RecvError::Closed) => return Ok(None),
            }
        }
    }

    async fn catch_up(&mut self) -> Result<(), ReadError> {
        // It is never closed; without a turn there would be nothing wrong but the load.
        let _turn = self.tail.0.catching_up.acquire().await;
        let (after, head) = (self.position, self.known);
        let chunks = self.tail.load(after, head, CATCH_UP_PAGE, CATCH_UP_CHUNK).await?;
        self.waiting = chunks.into();
        Ok(())
    }
}
