//! The appender: group append by one task per process. Commands wait in a bounded queue; those that
//! wait when a batch has committed are the next batch. There is no timer: a batch forms while the last
//! batch commits, so a single command is appended at once.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

use super::append::{Append, Outcome, append};
use super::append_metrics::{self, AppendMetrics, FULL, REFUSED, STOPPED, UNAVAILABLE};
use super::append_recovery::{self, AppendConnection};
use crate::postgres::Server;
use crate::postgres::settings::Settings;
use crate::tasks::{Ended, Supervised};

/// How many commands may be queued. At 20,000 a second the last of them waits 100 ms.
const QUEUE_MAX: usize = 2048;

/// The most commands in one batch: enough to share one commit, few enough that it takes milliseconds.
const BATCH_COMMANDS_MAX: usize = 256;

/// The most payload in one batch, in bytes.
const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// How long append recovery is retried, after the first attempt, before the outcome of a batch is reported as
/// unknown. PostgreSQL needs a few seconds to restart after a crash.
const RECOVERY_LIMIT: Duration = Duration::from_secs(5);

/// The pause between two attempts to connect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// A handle of the appender. Clones share it.
#[derive(Clone)]
pub struct Appender {
    queue: mpsc::Sender<Job>,
    /// Changes after each batch, and after an append that did not go through this appender.
    appended: watch::Sender<()>,
    /// Cancelled to accept no more commands.
    stopping: CancellationToken,
    /// Cancelled when every accepted command has its outcome.
    stopped: CancellationToken,
    supervised: Supervised,
}

/// Why a command has no outcome.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// The queue is full. Nothing was appended.
    #[error("too many commands are queued")]
    Full,
    /// PostgreSQL rejected a value of the command. Nothing was appended.
    #[error("PostgreSQL rejected a value: {0}")]
    Refused(Arc<sqlx::Error>),
    /// PostgreSQL is unreachable or read-only. After a lost connection that append recovery could not resolve
    /// in time, the outcome is unknown.
    #[error("cannot append to PostgreSQL: {0}")]
    Unavailable(Arc<sqlx::Error>),
    /// The process is stopping. Nothing was appended.
    #[error("the appender has stopped")]
    Stopped,
}

impl AppendError {
    /// The cause, for the metric.
    fn cause(&self) -> &'static str {
        match self {
            Self::Full => FULL,
            Self::Refused(_) => REFUSED,
            Self::Unavailable(_) => UNAVAILABLE,
            Self::Stopped => STOPPED,
        }
    }
}

/// A queued command.
struct Job {
    append: Append,
    /// Since when it waits.
    since: Instant,
    /// In which it waits.
    span: Span,
    answer: oneshot::Sender<Result<Outcome, AppendError>>,
}

impl Job {
    fn bytes(&self) -> usize {
        self.append.events.iter().map(|event| event.payload.len()).sum()
    }
}

impl Appender {
    /// Starts the task. It connects when there is something to append, and ends when the last handle is
    /// dropped and every accepted command has its outcome.
    #[must_use]
    pub fn start(server: Server, settings: Settings) -> Self {
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        let (stopping, stopped) = (CancellationToken::new(), CancellationToken::new());
        let done = stopped.clone().drop_guard();
        let appended = watch::Sender::new(());
        let supervised = Supervised::new("appender");
        let task = {
            let (queue, stopping) = (Arc::new(Mutex::new(queue)), stopping.clone());
            let appended = appended.clone();
            move || {
                let connection = AppendConnection::new(server.clone(), settings);
                let queue = Arc::clone(&queue);
                let (stopping, appended) = (stopping.clone(), appended.clone());
                async move {
                    run(connection, &mut *queue.lock().await, stopping, appended).await;
                    Ended::Done
                }
            }
        };
        let running = supervised.clone();
        tokio::spawn(async move {
            running.run(task).await;
            drop(done);
        });
        Self { queue: sender, appended, stopping, stopped, supervised }
    }

    /// The task: if it panics, the commands at work fail, and the queued ones wait for the next start.
    #[must_use]
    pub fn task(&self) -> &Supervised {
        &self.supervised
    }

    /// Accepts no more commands, and waits until every accepted one has its outcome.
    pub async fn stop(&self) {
        self.stopping.cancel();
        self.stopped.cancelled().await;
    }

    /// Changes after each batch.
    pub(super) fn subscribe(&self) -> watch::Receiver<()> {
        self.appended.subscribe()
    }

    /// Notifies the subscribers of an append that did not go through this appender.
    pub fn notify_appended(&self) {
        self.appended.send_replace(());
    }

    /// Appends one command's events, in a batch with other queued commands; fails at once when the
    /// queue is full.
    pub async fn append(&self, append: Append) -> Result<Outcome, AppendError> {
        let (answer, outcome) = oneshot::channel();
        let span = tracing::debug_span!("append").or_current();
        let job = Job { append, since: Instant::now(), span: span.clone(), answer };
        let sent = self.queue.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => AppendError::Full,
            mpsc::error::TrySendError::Closed(_) => AppendError::Stopped,
        });
        let outcome = match sent {
            Ok(()) => outcome.instrument(span).await.unwrap_or(Err(AppendError::Stopped)),
            Err(error) => Err(error),
        };
        if let Err(error) = &outcome {
            append_metrics::failed(error.cause());
        }
        outcome
    }
}

async fn run(
    mut connection: AppendConnection,
    queue: &mut mpsc::Receiver<Job>,
    stopping: CancellationToken,
    appended: watch::Sender<()>,
) {
    // Commands that wait because their aggregate or key was in the batch already.
    let mut deferred = VecDeque::new();
    let metrics = AppendMetrics::new(QUEUE_MAX);
    loop {
        let first = match deferred.pop_front() {
            Some(job) => job,
            None => match next(queue, &stopping).await {
                Some(job) => job,
                None => return,
            },
        };
        let batch = take_batch(first, &mut deferred, queue);
        let began = Instant::now();
        metrics.begun(queue.len() + deferred.len(), batch.len());
        for job in &batch {
            metrics.waited(began.saturating_duration_since(job.since));
        }
        let span = span_of(&batch);
        append_batch(&mut connection, batch).instrument(span).await;
        appended.send_replace(());
        metrics.ended(began.elapsed());
    }
}

/// The span of a batch: that of its first command is its parent, and the others are linked.
fn span_of(batch: &[Job]) -> Span {
    let Some((first, others)) = batch.split_first() else { return Span::none() };
    let span = tracing::debug_span!(parent: &first.span, "append_batch", commands = batch.len());
    for job in others {
        span.follows_from(&job.span);
    }
    span
}

/// The next queued command; `None` when the queue is closed and empty.
async fn next(queue: &mut mpsc::Receiver<Job>, stopping: &CancellationToken) -> Option<Job> {
    if let Some(job) = stopping.run_until_cancelled(queue.recv()).await {
        return job;
    }
    // A closed queue still returns the commands in it.
    queue.close();
    queue.recv().await
}

/// Queued commands in their order, up to the limits of a batch; no aggregate, key or external id twice.
fn take_batch(
    first: Job,
    deferred: &mut VecDeque<Job>,
    queue: &mut mpsc::Receiver<Job>,
) -> Vec<Job> {
    let (mut seen, mut external_ids) = (HashSet::new(), HashSet::new());
    let mut bytes = 0;
    let mut batch: Vec<Job> = vec![];
    let mut waiting = std::mem::take(deferred);
    waiting.push_front(first);
    while batch.len() < BATCH_COMMANDS_MAX && bytes < BATCH_BYTES_MAX {
        let Some(job) = waiting.pop_front().or_else(|| queue.try_recv().ok()) else { break };
        let command = &job.append;
        let aggregate = (command.aggregate_type.to_owned(), command.aggregate_id.clone());
        let key = command.key.as_ref().map(|key| (key.account.clone(), key.key.clone()));
        let is_new = !seen.contains(&aggregate)
            && !key.as_ref().is_some_and(|key| seen.contains(key))
            && !command.external_id.as_ref().is_some_and(|id| external_ids.contains(id));
        seen.insert(aggregate);
        seen.extend(key);
        external_ids.extend(command.external_id.clone());
        if is_new {
            bytes += job.bytes();
            batch.push(job);
        } else {
            // `seen` has its aggregate and key, so that no later command of them overtakes it.
            deferred.push_back(job);
            if deferred.len() >= BATCH_COMMANDS_MAX {
                break;
            }
        }
    }
    deferred.append(&mut waiting);
    batch
}

/// Appends the batch, and sends each command its outcome.
async fn append_batch(connection: &mut AppendConnection, batch: Vec<Job>) {
    let deadline = Instant::now() + RECOVERY_LIMIT;
    // Bisection: the halves of a batch with a value that PostgreSQL rejects.
    let mut pending = vec![batch];
    while let Some(mut jobs) = pending.pop() {
        match call_append(connection, &jobs).await {
            Ok(outcomes) => answer(jobs, outcomes),
            Err(Failure::Data(error)) if jobs.len() == 1 => {
                fail(jobs, &AppendError::Refused(Arc::new(error)));
            }
            Err(Failure::Data(_)) => {
                let second = jobs.split_off(jobs.len() / 2);
                pending.push(second);
                pending.push(jobs);
            }
            Err(Failure::Rejected(error)) => {
                fail(jobs, &AppendError::Unavailable(Arc::new(error)));
            }
            Err(Failure::Unknown) => {
                if let Some(rest) = recover(connection, jobs, deadline).await {
                    pending.push(rest);
                }
            }
        }
    }
}

/// Why a call failed.
enum Failure {
    /// PostgreSQL rejected a value (SQLSTATE classes 22 and 23); bisection finds its command.
    Data(sqlx::Error),
    /// PostgreSQL rejected the call; nothing was appended.
    Rejected(sqlx::Error),
    /// The connection was lost: the call may have committed.
    Unknown,
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
        match code.as_deref() {
            Some(code) if code.starts_with("22") || code.starts_with("23") => Self::Data(error),
            // The server ended the connection, possibly after the commit.
            Some(code) if code.starts_with("57P") || code.starts_with("08") => Self::Unknown,
            Some(_) => Self::Rejected(error),
            None => Self::Unknown,
        }
    }
}

async fn call_append(
    connection: &mut AppendConnection,
    jobs: &[Job],
) -> Result<Vec<Outcome>, Failure> {
    // Without a connection nothing was sent, so nothing was appended.
    let open = connection.open().await.map_err(Failure::Rejected)?;
    let span = tracing::debug_span!("sql", otel.kind = "client", db.system.name = "postgresql");
    let called = append(open, jobs.iter().map(|job| &job.append)).instrument(span).await;
    called.map_err(|error| {
        // A read-only server rejects the call; the next one goes to the server that took its place.
        let is_lost = connection.report(&error);
        let failure = Failure::from(error);
        if is_lost || matches!(failure, Failure::Unknown) {
            connection.discard();
        }
        failure
    })
}

/// Looks up on a new connection which commands were appended, and sends them their outcomes; returns the
/// other commands, to be appended again. `None` when none is left, or after the deadline.
async fn recover(
    connection: &mut AppendConnection,
    jobs: Vec<Job>,
    deadline: Instant,
) -> Option<Vec<Job>> {
    let error = loop {
        match append_recovery::find_outcomes(connection, jobs.iter().map(|job| &job.append)).await {
            Ok(found) => {
                let mut rest = vec![];
                for (job, outcome) in jobs.into_iter().zip(found) {
                    match outcome {
                        Some(outcome) => drop(job.answer.send(Ok(outcome))),
                        None => rest.push(job),
                    }
                }
                return (!rest.is_empty()).then_some(rest);
            }
            Err(error) if Instant::now() > deadline => break error,
            Err(error) => {
                tracing::warn!(%error, "append recovery: PostgreSQL unreachable, retrying");
                tokio::time::sleep(RECONNECT_PAUSE).await;
            }
        }
    };
    fail(jobs, &AppendError::Unavailable(Arc::new(error)));
    None
}

fn answer(jobs: Vec<Job>, outcomes: Vec<Outcome>) {
    for (job, outcome) in jobs.into_iter().zip(outcomes) {
        // The caller may have dropped its future; the command ran to its end.
        let _ = job.answer.send(Ok(outcome));
    }
}

fn fail(jobs: Vec<Job>, error: &AppendError) {
    for job in jobs {
        let _ = job.answer.send(Err(error.clone()));
    }
}
