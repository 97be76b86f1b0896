//! Imports many customers from one file. One transaction appends a chunk of lines and stores the progress
//! of the import: a repeat with the same import id continues exactly there, in any process, and a lost
//! connection leaves no outcome unknown. Bad lines are reported and skipped.

/// One line of a file, and its errors.
pub mod line;

/// The customers of a file, line by line.
pub mod lines;

/// How far an import is.
pub mod progress;

/// CSV files.
mod csv;

/// The header of a CSV file.
mod csv_header;

/// NDJSON files.
mod ndjson;

use std::io;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::line::RejectedLine;
use self::line::{Line, LineError};
use self::lines::{Format, Lines};
use self::progress::{Phase, Progress};
use crate::clock;
use crate::events::customer::CustomerEvent;
use crate::events::log::import::{self, ChunkError, Create, ImportKey, Progress as LogProgress};
use crate::events::log::{Appender, NewEvent, id_lease};
use crate::events::metadata::Metadata;
use crate::events::values::CustomerId;
use crate::postgres::Pool;

/// The most lines in one transaction while others append: half of the appender's largest batch.
const SHARED_CHUNK: usize = 128;

/// The most lines in one transaction while nobody else appends.
const ALONE_CHUNK: usize = 4096;

/// A chunk may grow as long as it takes less: so long at most waits who begins to append meanwhile.
const GROWS_WITHIN: Duration = Duration::from_millis(15);

/// A chunk grows after so many in a row beside which nobody has appended: one may pass between two appends of
/// others.
const ALONE_AFTER: u32 = 8;

/// The longest pause after a chunk. While other commands append, but fewer events than the import, it
/// pauses for as long as the chunk took, which leaves half of the time to the other commands.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// After this many refused lines an import stops, unless most of its lines are good: a refused line costs
/// work and nothing comes of it.
const REFUSED_MAX: i64 = 10_000;

/// How long a chunk is retried while PostgreSQL is unreachable.
const RETRY_LIMIT: Duration = Duration::from_secs(30);

/// The pause between two attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Imports files. Clones share the pool.
#[derive(Clone)]
pub struct Imports {
    pool: Pool,
    appender: Appender,
}

/// An import: account, import id, file, and the metadata of its events.
#[derive(Debug, Clone)]
pub struct ImportRequest {
    pub account: String,
    /// The client's import id. Without an id a repeat starts over.
    pub id: Option<String>,
    /// See [`Fingerprint`].
    pub fingerprint: Vec<u8>,
    pub metadata: Metadata,
}

/// The result of an import, over all its runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// The lines that are not empty, without a header.
    pub lines: i64,
    pub created: i64,
    pub refused: i64,
    /// The position of the last create; 0 without one.
    pub last_position: i64,
}

/// Why an import stopped. The customers created so far remain; a repeat with the same import id continues.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("the import id was used for another file")]
    ImportIdReused,
    #[error("cannot write to PostgreSQL: {0}")]
    Unavailable(sqlx::Error),
    #[error("most of the first lines were refused: the import has stopped")]
    TooManyRefused,
    #[error("the import was stopped")]
    Stopped,
    #[error("cannot read the file: {0}")]
    Read(#[from] io::Error),
}

impl From<ChunkError> for ImportError {
    fn from(error: ChunkError) -> Self {
        match error {
            ChunkError::FileMismatch => Self::ImportIdReused,
            ChunkError::IdTaken => Self::Unavailable(sqlx::Error::RowNotFound),
            ChunkError::Database(error) => Self::Unavailable(error),
        }
    }
}

/// SHA-256 of a file and its format, computed piece by piece.
pub struct Fingerprint(Context);

impl Fingerprint {
    #[must_use]
    pub fn new(format: Format) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(match format {
            Format::Ndjson => b"ndjson\n",
            Format::Csv => b"csv\n",
        });
        Self(context)
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.0.finish().as_ref().to_vec()
    }
}

impl ImportRequest {
    /// The key of the import. An import without an id gets a unique id for this run.
    fn key(&self) -> ImportKey {
        // A client's import id has no space, so the two never collide.
        let id = self.id.clone().unwrap_or_else(|| format!("unnamed {}", clock::new_id()));
        ImportKey { account: self.account.clone(), id, fingerprint: self.fingerprint.clone() }
    }
}

impl Imports {
    /// Appends over `pool`, and notifies the subscribers of `appender`.
    #[must_use]
    pub fn new(pool: Pool, appender: Appender) -> Self {
        Self { pool, appender }
    }

    /// Checks that the import may begin or continue: its id was not used for another file.
    pub async fn check(&self, request: &ImportRequest) -> Result<(), ImportError> {
        import::progress(&self.pool, &request.key()).await?;
        Ok(())
    }

    /// Appends all lines to the log. `rejected` receives each rejected line in the order of the file,
    /// including those of an earlier run of the same import. Its receiver may be dropped. `progress` is kept
    /// up to date.
    pub async fn run(
        &self,
        lines: Lines,
        request: &ImportRequest,
        stop: &CancellationToken,
        rejected: mpsc::Sender<RejectedLine>,
        progress: &watch::Sender<Progress>,
    ) -> Result<Summary, ImportError> {
        progress.send_modify(|at| *at = Progress::new(Phase::Importing, at.total_bytes));
        let key = request.key();
        let mut run = Run {
            imports: self,
            progress: import::progress(&self.pool, &key).await?,
            key,
            metadata: &request.metadata,
            ids: vec![],
            is_behind: false,
            chunk: SHARED_CHUNK,
            alone: 0,
        };
        let mut summary = Summary::default();
        let mut reading = read(lines, run.chunk);
        loop {
            if stop.is_cancelled() {
                return Err(ImportError::Stopped);
            }
            let (lines, page) = reading.await.map_err(io::Error::other)?;
            let (page, bytes_read) = (page?, lines.bytes_read());
            if page.lines.is_empty() {
                break;
            }
            // The next page is read while this one is appended.
            reading = read(lines, run.chunk);
            if summary.refused > REFUSED_MAX && summary.refused > summary.lines / 2 {
                return Err(ImportError::TooManyRefused);
            }
            summary.lines += i64::try_from(page.lines.len()).unwrap_or(i64::MAX);
            let (mut good, mut bad) = (vec![], vec![]);
            let last = page.lines.last().map_or(0, |(number, _)| *number);
            for (number, event) in page.lines {
                match event {
                    Ok(event) => good.push((number, event)),
                    Err(errors) => bad.push(RejectedLine { line: number, errors }),
                }
            }
            // Only the append tells whose external id is taken; without one, the others are told at once.
            let first = good.first().map(|(number, _)| *number).filter(|_| page.has_external_ids);
            if first.is_none() {
                summary.refused += send(&rejected, std::mem::take(&mut bad)).await;
            }
            let is_repeated = !run.append(&good).await? && !good.is_empty();
            if let Some(first) = first {
                bad.extend(run.taken(first, last).await?);
                bad.sort_by_key(|line| line.line);
                summary.refused += send(&rejected, bad).await;
            }
            progress.send_modify(|at| {
                (at.bytes, at.lines, at.refused) = (bytes_read, summary.lines, summary.refused);
                if is_repeated {
                    at.begin();
                }
            });
        }
        if request.id.is_none() {
            let deleted = import::delete_progress(&self.pool, &run.key).await;
            if let Err(error) = deleted {
                tracing::warn!(%error, "import: progress not deleted, the purge retries");
            }
        }
        let LogProgress { created, last_position, .. } = run.progress;
        Ok(Summary { created, last_position, ..summary })
    }
}

/// Sends rejected lines; returns their number.
async fn send(rejected: &mpsc::Sender<RejectedLine>, lines: Vec<RejectedLine>) -> i64 {
    let number = i64::try_from(lines.len()).unwrap_or(i64::MAX);
    for line in lines {
        let _ = rejected.send(line).await;
    }
    number
}

/// The lines of a page, by their numbers, as the events that they become.
struct Page {
    lines: Vec<(i64, Result<NewEvent, Vec<LineError>>)>,
    has_external_ids: bool,
}

impl Page {
    fn of(lines: Vec<Line>) -> Self {
        let has_external_ids = lines
            .iter()
            .any(|line| line.customer.as_ref().is_ok_and(|values| values.external_id.is_some()));
        let event = |line: Line| {
            let event = line.customer.map(|values| NewEvent::from(&CustomerEvent::created(values)));
            (line.number, event)
        };
        Self { lines: lines.into_iter().map(event).collect(), has_external_ids }
    }
}

/// Reads the next lines, on a thread that may wait for the disk.
fn read(mut lines: Lines, number: usize) -> JoinHandle<(Lines, io::Result<Page>)> {
    tokio::task::spawn_blocking(move || {
        let page = lines.take(number).map(Page::of);
        (lines, page)
    })
}

/// One run of an import.
struct Run<'a> {
    imports: &'a Imports,
    key: ImportKey,
    metadata: &'a Metadata,
    progress: LogProgress,
    /// Ids that are leased and unused.
    ids: Vec<CustomerId>,
    /// Whether one was taken, which means that the sequence of ids is before ids of the log.
    is_behind: bool,
    /// How many lines the next chunk has.
    chunk: usize,
    /// How many chunks in a row nobody has appended beside.
    alone: u32,
}

impl Run<'_> {
    /// Appends the good lines of a page that are not appended yet; returns whether there were some.
    async fn append(&mut self, good: &[(i64, NewEvent)]) -> Result<bool, ImportError> {
        let mut is_new = false;
        let deadline = Instant::now() + RETRY_LIMIT;
        loop {
            let done = self.progress.lines_done;
            let rest: Vec<_> = good.iter().filter(|(number, _)| *number > done).collect();
            let Some((last, _)) = rest.last() else { return Ok(is_new) };
            is_new = true;
            let began = Instant::now();
            match self.append_once((done, *last), &rest).await {
                // When another run with the same import id is ahead, the next iteration appends the rest.
                Ok(progress) => {
                    self.progress = progress;
                    self.imports.appender.notify_appended();
                    self.size_next_chunk(progress.concurrent, began.elapsed());
                    let share = i64::try_from(rest.len()).unwrap_or(i64::MAX);
                    if (1..share).contains(&progress.concurrent) {
                        tokio::time::sleep(began.elapsed().min(PAUSE_MAX)).await;
                    }
                }
                // A restored log may contain these ids: lease new ids.
                Err(ChunkError::IdTaken) if Instant::now() < deadline => {
                    self.ids.clear();
                    self.is_behind = true;
                }
                Err(ChunkError::Database(error)) if Instant::now() < deadline => {
                    tracing::warn!(%error, "import: append failed, retrying");
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The lines from `first` to `last` whose external ids were taken when they were appended.
    async fn taken(&self, first: i64, last: i64) -> Result<Vec<RejectedLine>, ImportError> {
        let taken = import::taken(&self.imports.pool, &self.key, first, last).await?;
        let rejected = taken.into_iter().map(|(line, customer)| RejectedLine {
            line,
            errors: vec![LineError::external_id_taken(customer)],
        });
        Ok(rejected.collect())
    }

    /// After a chunk beside which others have appended `concurrent` events.
    fn size_next_chunk(&mut self, concurrent: i64, took: Duration) {
        if concurrent > 0 {
            (self.chunk, self.alone) = (SHARED_CHUNK, 0);
            return;
        }
        self.alone += 1;
        if took > 2 * GROWS_WITHIN {
            self.chunk = (self.chunk / 2).max(SHARED_CHUNK);
        } else if took < GROWS_WITHIN && self.alone >= ALONE_AFTER {
            self.chunk = (self.chunk * 2).min(ALONE_CHUNK);
        }
    }

    async fn append_once(
        &mut self,
        lines: (i64, i64),
        rest: &[&(i64, NewEvent)],
    ) -> Result<LogProgress, ChunkError> {
        if self.is_behind {
            id_lease::skip_taken(&self.imports.pool).await?;
            self.is_behind = false;
        }
        let missing = rest.len().saturating_sub(self.ids.len());
        if missing > 0 {
            // Ids are taken from the end, so the smallest is the last.
            let mut leased = id_lease::lease(&self.imports.pool, missing).await?;
            leased.reverse();
            leased.append(&mut self.ids);
            self.ids = leased;
        }
        // The ids count as used even if the append fails, so that no chunk is sent again with the same ids
        // for other customers.
        let ids = self.ids.split_off(self.ids.len() - rest.len());
        let creates: Vec<_> = ids
            .into_iter()
            .rev()
            .zip(rest)
            .map(|(id, (line, event))| Create { line: *line, id, event })
            .collect();
        let (pool, metadata) = (&self.imports.pool, self.metadata);
        import::append_chunk(pool, &self.key, lines, &creates, metadata).await
    }
}
