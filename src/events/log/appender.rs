//! The appender: one task per process through which everything is appended. Commands wait in a
//! bounded queue; what waits when a batch has committed is the next batch. No timer: a batch forms
//! while the last one commits, so one command alone is appended at once.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::append::{Append, Outcome, append};
use super::append_recovery::{self, Connection};

/// How many commands may wait. At 20,000 a second the last of them waits 100 ms.
const QUEUE_MAX: usize = 2048;

/// The most commands in one batch: enough to share one commit, few enough that it takes milliseconds.
const BATCH_COMMANDS_MAX: usize = 256;

/// The most payload in one batch, in bytes.
const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// How long a batch is tried again after a lost connection before its commands are told that their
/// outcome is unknown. PostgreSQL needs a few seconds to come back from a crash.
const RECOVERY_LIMIT: Duration = Duration::from_secs(5);

/// How long a call may take: longer than PostgreSQL's own limits, which do not count while its
/// processes stand still.
const CALL_LIMIT: Duration = Duration::from_secs(7);

/// How long to wait between two attempts to connect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// The way to the appender. Clones lead to the same one.
#[derive(Clone)]
pub struct Appender {
    queue: mpsc::Sender<Job>,
    /// Says that something was appended.
    appended: watch::Sender<()>,
    /// Cancelled to take nothing in any more.
    stopping: CancellationToken,
    /// Cancelled when everything that waited has its answer.
    stopped: CancellationToken,
}

/// Why a command has no outcome.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// Too many commands wait. Nothing was appended.
    #[error("too many commands wait to be appended")]
    Full,
    /// PostgreSQL refuses one of its values. Nothing was appended.
    #[error("PostgreSQL refuses a value: {0}")]
    Refused(Arc<sqlx::Error>),
    /// PostgreSQL cannot be reached, or takes nothing in. Whether the command was appended is not
    /// known when the connection was lost and did not come back in time.
    #[error("PostgreSQL: {0}")]
    Unavailable(Arc<sqlx::Error>),
    /// The process is stopping. Nothing was appended.
    #[error("the appender has stopped")]
    Stopped,
}

/// A command on its way.
struct Job {
    append: Append,
    answer: oneshot::Sender<Result<Outcome, AppendError>>,
}

impl Job {
    fn bytes(&self) -> usize {
        self.append.events.iter().map(|event| event.payload.len()).sum()
    }
}

impl Appender {
    /// Starts the task. It connects when there is something to append, and ends when the last way
    /// to it is dropped and everything that waited has its answer.
    #[must_use]
    pub fn start(options: PgConnectOptions) -> Self {
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        let (stopping, stopped) = (CancellationToken::new(), CancellationToken::new());
        let done = stopped.clone().drop_guard();
        let appended = watch::Sender::new(());
        let run = run(Connection::new(options), queue, stopping.clone(), appended.clone());
        tokio::spawn(async move {
            run.await;
            drop(done);
        });
        Self { queue: sender, appended, stopping, stopped }
    }

    /// Takes nothing in any more and waits until everything that was taken in has its answer.
    pub async fn stop(&self) {
        self.stopping.cancel();
        self.stopped.cancelled().await;
    }

    /// Changes whenever a batch is through.
    pub(super) fn subscribe(&self) -> watch::Receiver<()> {
        self.appended.subscribe()
    }

    /// Says that this process has appended something by another way.
    pub fn notify_appended(&self) {
        self.appended.send_replace(());
    }

    /// Appends one command's events together with whatever else waits.
    pub async fn append(&self, append: Append) -> Result<Outcome, AppendError> {
        let (answer, outcome) = oneshot::channel();
        self.queue.try_send(Job { append, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => AppendError::Full,
            mpsc::error::TrySendError::Closed(_) => AppendError::Stopped,
        })?;
        outcome.await.map_err(|_| AppendError::Stopped)?
    }
}

async fn run(
    mut connection: Connection,
    mut queue: mpsc::Receiver<Job>,
    stopping: CancellationToken,
    appended: watch::Sender<()>,
) {
    // Commands that had to wait because another of their aggregate or key was in the batch.
    let mut deferred = VecDeque::new();
    loop {
        let first = match deferred.pop_front() {
            Some(job) => job,
            None => match next(&mut queue, &stopping).await {
                Some(job) => job,
                None => return,
            },
        };
        let batch = take_batch(first, &mut deferred, &mut queue);
        metrics::gauge!("customers_append_queue_depth")
            .set(as_metric(queue.len() + deferred.len()));
        metrics::histogram!("customers_append_batch_commands").record(as_metric(batch.len()));
        let began = Instant::now();
        append_batch(&mut connection, batch).await;
        appended.send_replace(());
        metrics::histogram!("customers_append_seconds").record(began.elapsed().as_secs_f64());
    }
}

/// The next command that waits; `None` when none will come any more.
async fn next(queue: &mut mpsc::Receiver<Job>, stopping: &CancellationToken) -> Option<Job> {
    if let Some(job) = stopping.run_until_cancelled(queue.recv()).await {
        return job;
    }
    // What waits already still comes out.
    queue.close();
    queue.recv().await
}

/// What waits, in its order, up to the caps; no aggregate and no key twice.
fn take_batch(
    first: Job,
    deferred: &mut VecDeque<Job>,
    queue: &mut mpsc::Receiver<Job>,
) -> Vec<Job> {
    let mut seen = HashSet::new();
    let mut bytes = 0;
    let mut batch: Vec<Job> = vec![];
    let mut waiting = std::mem::take(deferred);
    waiting.push_front(first);
    while batch.len() < BATCH_COMMANDS_MAX && bytes < BATCH_BYTES_MAX {
        let Some(job) = waiting.pop_front().or_else(|| queue.try_recv().ok()) else { break };
        let command = &job.append;
        let aggregate = (command.aggregate_type.to_owned(), command.aggregate_id.clone());
        let key = command.key.as_ref().map(|key| (key.account.clone(), key.key.clone()));
        let is_new = !seen.contains(&aggregate) && !key.as_ref().is_some_and(|k| seen.contains(k));
        seen.insert(aggregate);
        seen.extend(key);
        if is_new {
            bytes += job.bytes();
            batch.push(job);
        } else {
            // Behind it nothing of the same aggregate may pass it: `seen` keeps that too.
            deferred.push_back(job);
            if deferred.len() >= BATCH_COMMANDS_MAX {
                break;
            }
        }
    }
    deferred.append(&mut waiting);
    batch
}

/// Appends the batch and answers each of its commands.
async fn append_batch(connection: &mut Connection, batch: Vec<Job>) {
    let deadline = Instant::now() + RECOVERY_LIMIT;
    // Halves of a batch that holds a value that PostgreSQL refuses.
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
            Err(Failure::Unknown(error)) => {
                if let Some(rest) = recover(connection, jobs, error, deadline).await {
                    pending.push(rest);
                }
            }
        }
    }
}

/// What went wrong with one call.
enum Failure {
    /// A value is refused (SQLSTATE 22, 23): whose, is found by halving.
    Data(sqlx::Error),
    /// PostgreSQL said no; nothing was appended.
    Rejected(sqlx::Error),
    /// The connection was lost: the call may have committed.
    Unknown(sqlx::Error),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
        match code.as_deref() {
            Some(code) if code.starts_with("22") || code.starts_with("23") => Self::Data(error),
            // The server is ending the connection, perhaps behind the commit.
            Some(code) if code.starts_with("57P") || code.starts_with("08") => Self::Unknown(error),
            Some(_) => Self::Rejected(error),
            None => Self::Unknown(error),
        }
    }
}

async fn call_append(connection: &mut Connection, jobs: &[Job]) -> Result<Vec<Outcome>, Failure> {
    // Nothing was sent before there is a connection.
    let open = connection.open().await.map_err(Failure::Rejected)?;
    let call = append(open, jobs.iter().map(|job| &job.append));
    let answered = tokio::time::timeout(CALL_LIMIT, call).await;
    answered.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map_err(|error| {
        let failure = Failure::from(error);
        if matches!(failure, Failure::Unknown(_)) {
            connection.discard();
        }
        failure
    })
}

/// Finds out on a new connection what became of each command. Those that were appended get their
/// answer; the rest is to be tried again. `None` when the time is over.
async fn recover(
    connection: &mut Connection,
    jobs: Vec<Job>,
    mut error: sqlx::Error,
    deadline: Instant,
) -> Option<Vec<Job>> {
    while Instant::now() < deadline {
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
            Err(again) => {
                tracing::warn!(error = %again, "the appender cannot reach PostgreSQL");
                error = again;
                tokio::time::sleep(RECONNECT_PAUSE).await;
            }
        }
    }
    fail(jobs, &AppendError::Unavailable(Arc::new(error)));
    None
}

fn answer(jobs: Vec<Job>, outcomes: Vec<Outcome>) {
    for (job, outcome) in jobs.into_iter().zip(outcomes) {
        // Nobody may wait any more: the command ran to its end all the same.
        let _ = job.answer.send(Ok(outcome));
    }
}

fn fail(jobs: Vec<Job>, error: &AppendError) {
    for job in jobs {
        let _ = job.answer.send(Err(error.clone()));
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of waiting commands are small")]
fn as_metric(count: usize) -> f64 {
    count as f64
}
