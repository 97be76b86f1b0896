//! The tail of the log: its end, read once per process and shared by all followers. The last events are
//! in a ring; a follower that lags behind the ring reads the log itself, page by page, until it has
//! caught up. A slow follower costs no memory and delays no other follower.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, Semaphore, broadcast};
use uuid::Uuid;

use super::chunk::{Chunk, Frame, Frames, Selection, encode_chunks};
use super::page::{self, Stretch};
use crate::events::log::end::{LogEnd, log_end};
use crate::events::log::filter::Filter;
use crate::events::log::notify::Subscription;
use crate::events::log::read::ReadError;
use crate::postgres::Pool;
use crate::tasks::Tasks;

/// How many events the tail reads at a time.
const PAGE: i64 = 500;

/// How many events a lagging follower reads at a time: few, since there may be many such followers.
const CATCH_UP_PAGE: i64 = 50;

/// How many followers catch up at the same time.
const CATCH_UP_MAX: usize = 4;

/// The approximate size of a chunk in the ring, in bytes. All followers share the chunk.
const CHUNK: usize = 16 * 1024;

/// The same of a chunk that a follower reads for itself; a stalled follower holds about twenty chunks.
const CATCH_UP_CHUNK: usize = 4 * 1024;

/// How many chunks the ring holds.
const RING: usize = 64;

/// How often the log is read without a notification.
const POLL: Duration = Duration::from_secs(1);

/// The pause after a failure.
const FAILURE_PAUSE: Duration = Duration::from_millis(250);

/// The tail of this process. Clones share it.
#[derive(Clone)]
pub struct Tail(Arc<Inner>);

struct Inner {
    pool: Pool,
    frame: Frame,
    live: Mutex<Live>,
    joined: Notify,
    catching_up: Semaphore,
}

struct Live {
    /// The position up to which events were published, or existed before the first follower.
    position: i64,
    /// The log that those events belong to.
    log: Uuid,
    ring: broadcast::Sender<Chunk>,
}

impl Live {
    fn at(LogEnd { log, head }: LogEnd) -> Self {
        Self { position: head, log, ring: broadcast::Sender::new(RING) }
    }
}

impl Tail {
    /// Starts the task that reads the log while there are followers, until shutdown.
    #[must_use]
    pub fn start(pool: Pool, appends: Subscription, frame: Frame, tasks: &Tasks) -> Self {
        let live = Mutex::new(Live::at(LogEnd { log: Uuid::nil(), head: 0 }));
        let (joined, catching_up) = (Notify::new(), Semaphore::new(CATCH_UP_MAX));
        let tail = Self(Arc::new(Inner { pool, frame, live, joined, catching_up }));
        let of_task = tail.clone();
        tasks.supervise("log tail", move || run(of_task.clone(), appends.clone()));
        tail
    }

    /// Follows the log after the position `after`; `end` is a recent end of the log.
    #[must_use]
    pub fn follow(&self, after: i64, end: LogEnd, selection: Selection) -> Follower {
        let (tail, waiting) = (self.clone(), VecDeque::new());
        Follower { tail, selection, position: after, known: end, waiting, live: None }
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.0.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A subscription to the ring, and the position after which it begins; `None` if the followers of the
    /// ring follow another log.
    fn join(&self, end: LogEnd) -> Option<(broadcast::Receiver<Chunk>, i64)> {
        let mut live = self.live();
        if live.ring.receiver_count() == 0 {
            // There is no follower that could miss the events in between.
            if live.log == end.log {
                live.position = live.position.max(end.head);
            } else {
                *live = Live::at(end);
            }
        }
        self.0.joined.notify_one();
        (live.log == end.log).then(|| (live.ring.subscribe(), live.position))
    }

    /// The log, and the position in it after which to read, if there are followers.
    fn read_position(&self) -> Option<LogEnd> {
        let live = self.live();
        let end = LogEnd { log: live.log, head: live.position };
        (live.ring.receiver_count() > 0).then_some(end)
    }

    /// Publishes the events after `from`, unless a new first follower has moved the tail.
    fn publish(&self, from: LogEnd, chunks: Vec<Chunk>) {
        let mut live = self.live();
        if (live.log, live.position) == (from.log, from.head) {
            for chunk in chunks {
                live.position = chunk.last;
                // The last follower may have been dropped.
                let _ = live.ring.send(chunk);
            }
        }
    }

    /// Restarts at the end of another log, or of one that ends before the published events, because it was
    /// restored to an earlier state. The streams of the followers end.
    fn restart(&self, end: LogEnd) {
        *self.live() = Live::at(end);
    }

    /// Up to `limit` events after `after`, in chunks of about `bytes`; and the end of the log, read after
    /// the events, so that they belong to that log or an earlier one.
    async fn load(
        &self,
        after: i64,
        last: i64,
        limit: i64,
        bytes: usize,
    ) -> Result<(Vec<Chunk>, LogEnd), ReadError> {
        let stretch = Stretch { after, head: last, until: None };
        let page = page::page(&self.0.pool, stretch, limit, &Filter::default()).await?;
        let end = log_end(&self.0.pool).await?;
        Ok((encode_chunks(page.events, self.0.frame, bytes)?, end))
    }

    /// What a selection has of the events after `after`, and the position up to which that is all; `None` if the log
    /// is another one now, or ends before `last`.
    async fn load_selected(
        &self,
        after: i64,
        last: LogEnd,
        selection: &Selection,
    ) -> Result<Option<(i64, Bytes)>, ReadError> {
        let stretch = Stretch { after, head: last.head, until: None };
        let page = page::page(&self.0.pool, stretch, CATCH_UP_PAGE, &selection.filter).await?;
        let end = log_end(&self.0.pool).await?;
        let frames = Frames::of(&page.events, self.0.frame, selection)?;
        let is_known = end.log == last.log && end.head >= last.head;
        Ok(is_known.then_some((page.next, frames.bytes)))
    }
}

async fn run(tail: Tail, mut appends: Subscription) {
    loop {
        appends.mark_seen();
        match read_page(&tail).await {
            Ok(true) => {}
            Ok(false) => tokio::select! {
                () = appends.wait(POLL) => {}
                () = tail.0.joined.notified() => {}
            },
            Err(error) => {
                tracing::error!(%error, "log tail: read failed, retrying");
                tokio::time::sleep(FAILURE_PAUSE).await;
            }
        }
    }
}

/// Reads one page; returns whether more events may follow.
async fn read_page(tail: &Tail) -> Result<bool, ReadError> {
    let Some(from) = tail.read_position() else { return Ok(false) };
    let last = from.head.saturating_add(PAGE);
    let (chunks, end) = tail.load(from.head, last, PAGE, CHUNK).await?;
    if end.log != from.log || end.head < from.head {
        tail.restart(end);
        return Ok(false);
    }
    if chunks.is_empty() {
        return Ok(end.head > from.head);
    }
    tail.publish(from, chunks);
    Ok(true)
}

/// Follows the log: each event of its selection once, in the order of the log, without a gap.
pub struct Follower {
    tail: Tail,
    selection: Selection,
    position: i64,
    /// The log, and the position in it up to which the follower reads it itself; the ring continues after
    /// it.
    known: LogEnd,
    /// What is read and not yet returned, each with its last position.
    waiting: VecDeque<(i64, Bytes)>,
    live: Option<broadcast::Receiver<Chunk>>,
}

impl Follower {
    /// The position up to which events were returned, or passed over because they are not selected.
    #[must_use]
    pub fn position(&self) -> i64 {
        self.position
    }

    /// Whether it returns every event.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.selection.is_whole()
    }

    /// Waits for the next events, encoded; `None` when the log was restarted, or restored to an earlier
    /// state. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        loop {
            let Some(live) = &mut self.live else {
                let Some((live, head)) = self.tail.join(self.known) else { return Ok(None) };
                (self.live, self.known.head) = (Some(live), head);
                continue;
            };
            if let Some((position, frames)) = self.waiting.pop_front() {
                self.position = position;
                if frames.is_empty() {
                    continue;
                }
                return Ok(Some(frames));
            }
            if self.position < self.known.head {
                self.catch_up().await?;
                if self.waiting.is_empty() {
                    return Ok(None);
                }
                continue;
            }
            match live.recv().await {
                Ok(chunk) => {
                    let frame = self.tail.0.frame;
                    if let Some(frames) = chunk.after(self.position, &self.selection, frame)? {
                        self.position = chunk.last;
                        if !frames.is_empty() {
                            return Ok(Some(frames));
                        }
                    }
                }
                Err(RecvError::Lagged(_)) => self.live = None,
                Err(RecvError::Closed) => return Ok(None),
            }
        }
    }

    async fn catch_up(&mut self) -> Result<(), ReadError> {
        // Never fails, because the semaphore is never closed; it only limits the load.
        let _permit = self.tail.0.catching_up.acquire().await;
        let (after, last) = (self.position, self.known);
        if !self.selection.is_whole() {
            let selected = self.tail.load_selected(after, last, &self.selection).await?;
            self.waiting.extend(selected);
            return Ok(());
        }
        let (chunks, end) = self.tail.load(after, last.head, CATCH_UP_PAGE, CATCH_UP_CHUNK).await?;
        if end.log == last.log {
            let read = chunks.into_iter().map(|chunk| (chunk.last, chunk.whole.bytes));
            self.waiting = read.collect();
        }
        Ok(())
    }
}
