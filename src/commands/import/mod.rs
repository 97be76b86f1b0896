//! Many customers from one file. Each chunk of lines is one transaction, together with how far the
//! import has come: a repeat under the same name goes on exactly there, on whichever process, and
//! a connection that is lost leaves nothing open. Bad lines are named and left out.

/// The customers of a file, line by line.
pub mod lines;

use std::io;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use sqlx::PgPool;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::lines::{Format, Line, LineError, Lines};
use crate::clock;
use crate::events::customer::CustomerEvent;
use crate::events::log::import::{self, ChunkError, ImportKey, Progress};
use crate::events::log::{Appender, NewEvent, id_lease};
use crate::events::metadata::Metadata;
use crate::events::values::CustomerId;

/// How many lines one transaction takes: half of what the appender takes at a time.
const CHUNK: usize = 128;

/// The longest pause behind a chunk. While others write, but less than the import does, it pauses as
/// long as the chunk took: the half of the time is theirs, whoever has less to write.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// How long a chunk is tried again while PostgreSQL is away.
const RETRY_LIMIT: Duration = Duration::from_secs(30);

/// How long to wait between two attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// The way into the log for whole files. Clones share it.
#[derive(Clone)]
pub struct Imports {
    pool: PgPool,
    appender: Appender,
}

/// Whose import it is and what its events say of it.
#[derive(Debug, Clone)]
pub struct ImportRequest {
    pub account: String,
    /// The caller's name for it. Without one a repeat begins anew.
    pub id: Option<String>,
    /// See [`Fingerprint`].
    pub fingerprint: Vec<u8>,
    pub metadata: Metadata,
}

/// What an import led to, over all its runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// All that are not empty, without a header.
    pub lines: i64,
    pub created: i64,
    pub refused: i64,
    /// Of the last customer that it created; 0 when there is none.
    pub last_position: i64,
}

/// A bad line.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RejectedLine {
    pub line: i64,
    pub errors: Vec<LineError>,
}

/// Why an import stopped. What it did up to there stays; a repeat under the same name goes on.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("the name was used for another file")]
    ImportIdReused,
    #[error("PostgreSQL: {0}")]
    Unavailable(sqlx::Error),
    #[error("the process is stopping")]
    Stopped,
    #[error("the file cannot be read: {0}")]
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

/// SHA-256 of a file and of how it is read, taken up piece by piece.
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
    /// An import without a name has one of its own while it runs.
    fn key(&self) -> ImportKey {
        // No name of a caller has a space.
        let id = self.id.clone().unwrap_or_else(|| format!("unnamed {}", clock::new_id()));
        ImportKey { account: self.account.clone(), id, fingerprint: self.fingerprint.clone() }
    }
}

impl Imports {
    /// Appends over `pool`; whoever follows `appender` sees that the log has grown.
    #[must_use]
    pub fn new(pool: PgPool, appender: Appender) -> Self {
        Self { pool, appender }
    }

    /// Whether the import may begin or go on.
    ///
    /// # Errors
    /// [`ImportError::ImportIdReused`], or when PostgreSQL cannot be asked.
    pub async fn check(&self, request: &ImportRequest) -> Result<(), ImportError> {
        import::progress(&self.pool, &request.key()).await?;
        Ok(())
    }

    /// Takes all lines to the log. `refused` gets each bad line, in their request, also those that an
    /// earlier run has told of; nobody needs to take them.
    pub async fn run(
        &self,
        mut lines: Lines,
        request: &ImportRequest,
        stop: &CancellationToken,
        refused: mpsc::Sender<RejectedLine>,
    ) -> Result<Summary, ImportError> {
        let key = request.key();
        let mut run = Run {
            imports: self,
            progress: import::progress(&self.pool, &key).await?,
            key,
            metadata: &request.metadata,
            ids: vec![],
        };
        let mut summary = Summary::default();
        loop {
            if stop.is_cancelled() {
                return Err(ImportError::Stopped);
            }
            let read = tokio::task::spawn_blocking(move || {
                let page = lines.take(CHUNK);
                (lines, page)
            });
            let (rest, page) = read.await.map_err(io::Error::other)?;
            lines = rest;
            let page = page?;
            if page.is_empty() {
                break;
            }
            summary.lines += i64::try_from(page.len()).unwrap_or(i64::MAX);
            let mut good = vec![];
            for Line { number, customer } in page {
                match customer {
                    Ok((name, dob)) => {
                        let event = CustomerEvent::CustomerCreated { name, dob };
                        good.push((number, NewEvent::from(&event)));
                    }
                    Err(errors) => {
                        summary.refused += 1;
                        let _ = refused.send(RejectedLine { line: number, errors }).await;
                    }
                }
            }
            run.append(&good).await?;
        }
        if request.id.is_none() {
            let forgotten = import::forget(&self.pool, &run.key).await;
            if let Err(error) = forgotten {
                tracing::warn!(%error, "an import that is done is not forgotten yet");
            }
        }
        let Progress { created, last_position, .. } = run.progress;
        Ok(Summary { created, last_position, ..summary })
    }
}

/// One run of an import.
struct Run<'a> {
    imports: &'a Imports,
    key: ImportKey,
    metadata: &'a Metadata,
    progress: Progress,
    /// Leased and not used yet.
    ids: Vec<CustomerId>,
}

impl Run<'_> {
    /// Appends what is not in the log yet of the good lines of a page.
    async fn append(&mut self, good: &[(i64, NewEvent)]) -> Result<(), ImportError> {
        let deadline = Instant::now() + RETRY_LIMIT;
        loop {
            let done = self.progress.lines_done;
            let rest: Vec<_> = good.iter().filter(|(number, _)| *number > done).collect();
            let Some((last, _)) = rest.last() else { return Ok(()) };
            let began = Instant::now();
            match self.append_once((done, *last), &rest).await {
                // Another run under the same name may have come further: then there is a rest.
                Ok(progress) => {
                    self.progress = progress;
                    self.imports.appender.notify_appended();
                    let share = i64::try_from(rest.len()).unwrap_or(i64::MAX);
                    if (1..share).contains(&progress.concurrent) {
                        tokio::time::sleep(began.elapsed().min(PAUSE_MAX)).await;
                    }
                }
                // Others than those: an import of a log may have moved them all.
                Err(ChunkError::IdTaken) if Instant::now() < deadline => self.ids.clear(),
                Err(ChunkError::Database(error)) if Instant::now() < deadline => {
                    tracing::warn!(%error, "an import has to wait for PostgreSQL");
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn append_once(
        &mut self,
        lines: (i64, i64),
        rest: &[&(i64, NewEvent)],
    ) -> Result<Progress, ChunkError> {
        let missing = rest.len().saturating_sub(self.ids.len());
        if missing > 0 {
            // Handed out from the end, the smallest first.
            let mut leased = id_lease::lease(&self.imports.pool, missing).await?;
            leased.reverse();
            leased.append(&mut self.ids);
            self.ids = leased;
        }
        // Taken off whatever becomes of them: no chunk is sent twice with other customers' ids.
        let ids = self.ids.split_off(self.ids.len() - rest.len());
        let creates: Vec<_> =
            ids.into_iter().rev().zip(rest).map(|(id, (_, event))| (id, event)).collect();
        let (pool, metadata) = (&self.imports.pool, self.metadata);
        import::append_chunk(pool, &self.key, lines, &creates, metadata).await
    }
}
