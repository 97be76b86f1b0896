//! The command bus: takes the aggregate from the cache or loads its last event, decides by
//! `Aggregate::handle`, and appends the events. Optimistic concurrency: when another process has appended
//! first, the bus loads the aggregate and decides again.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use cqrs_es::event_sink::EventSink;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::aggregate::{IdSource, LastEventAggregate};
use super::aggregate_cache::{AggregateCache, Loaded};
use super::customer::Customer;
use super::idempotency;
use super::refusal::Refusal;
use super::striped_lock::StripedLock;
use crate::clock;
use crate::events::log::id_lease::IdLease;
use crate::events::log::read::{self, ReadError};
use crate::events::log::{Append, AppendError, Appender, IdempotencyKey, NewEvent, Outcome};
use crate::events::metadata::Metadata;
use crate::postgres::Pool;

/// How many times a command is decided again after another process has appended first. In each round at
/// least one command of the aggregate succeeds, so only constant writes of many processes to one aggregate
/// exceed it.
pub(super) const ATTEMPTS_MAX: u32 = 64;

/// The longest backoff before another round. The backoff is random, half of this on average, so that two
/// processes that have conflicted do not conflict again.
const BACKOFF_MAX: Duration = Duration::from_millis(8);

/// How long a command waits for an id or for a lock. The limit keeps waits from adding up: when the
/// database fails, a command in a long queue fails at about the same time.
const LOCK_TIMEOUT: Duration = Duration::from_secs(3);

/// Executes the commands of one aggregate type. One per process; clones share it.
pub struct CommandBus<A: LastEventAggregate, I = IdLease>(Arc<Inner<A, I>>);

/// The bus of customers.
pub type Bus = CommandBus<Customer>;

impl<A: LastEventAggregate, I> Clone for CommandBus<A, I> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Inner<A: LastEventAggregate, I> {
    appender: Appender,
    pool: Pool,
    ids: I,
    cache: AggregateCache<A>,
    aggregate_locks: StripedLock,
    key_locks: StripedLock,
    /// Commands in execution: they run to their end even when the caller drops the future.
    running: TaskTracker,
}

/// The caller's metadata and `Idempotency-Key`.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    pub metadata: Metadata,
    pub key: Option<String>,
}

impl Origin {
    /// The key with the fingerprint of its request, which is computed only for a key.
    pub(super) fn idempotency_key(
        &self,
        fingerprint: impl FnOnce() -> Vec<u8>,
    ) -> Option<IdempotencyKey> {
        self.key.as_ref().map(|key| IdempotencyKey {
            account: self.metadata.actor.clone().unwrap_or_default(),
            key: key.clone(),
            fingerprint: fingerprint(),
            known_position: 0,
        })
    }
}

impl From<Metadata> for Origin {
    fn from(metadata: Metadata) -> Self {
        Self { metadata, key: None }
    }
}

/// The result of a command that was not refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written<A: LastEventAggregate = Customer> {
    pub id: A::Id,
    /// The aggregate after the command.
    pub aggregate: A,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// The position of the event, or of the aggregate's last one when nothing changed.
    pub position: i64,
    /// Whether this is the result of an earlier execution with the same idempotency key.
    pub replayed: bool,
}

impl<A: LastEventAggregate> Written<A> {
    fn new(id: A::Id, loaded: Loaded<A>) -> Self {
        Self {
            id,
            aggregate: loaded.aggregate,
            created_at: loaded.created_at,
            updated_at: loaded.last.recorded_at,
            position: loaded.last.position,
            replayed: false,
        }
    }

    /// The number of the aggregate's events after the command.
    #[must_use]
    pub fn version(&self) -> i64 {
        self.aggregate.sequence()
    }
}

/// Why a command has no result.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("idempotency key reused for another request")]
    IdempotencyKeyReused,
    #[error("too many conflicts with other processes")]
    Contended,
    #[error(transparent)]
    Log(#[from] ReadError),
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error("the command's task ended early")]
    TaskFailed(#[from] tokio::task::JoinError),
}

impl From<sqlx::Error> for BusError {
    fn from(error: sqlx::Error) -> Self {
        Self::Log(ReadError::Database(error))
    }
}

impl<A: LastEventAggregate, I: IdSource<A::Id>> CommandBus<A, I> {
    /// As [`Bus::new`], for any aggregate and source of ids.
    #[must_use]
    pub fn with_ids(appender: Appender, pool: Pool, ids: I) -> Self {
        Self(Arc::new(Inner {
            appender,
            pool,
            ids,
            cache: AggregateCache::default(),
            aggregate_locks: StripedLock::default(),
            key_locks: StripedLock::default(),
            running: TaskTracker::new(),
        }))
    }

    /// The pool over which aggregates are loaded.
    pub(super) fn pool(&self) -> &Pool {
        &self.0.pool
    }

    /// Waits until all commands in execution have ended.
    pub async fn drain(&self) {
        self.0.running.close();
        self.0.running.wait().await;
    }

    /// Executes a command of the aggregate with that id, or without an id, of a new aggregate with a new
    /// id. The command runs to its end even when the caller drops the future.
    pub async fn execute(
        &self,
        id: Option<A::Id>,
        command: A::Command,
        origin: impl Into<Origin>,
    ) -> Result<Written<A>, BusError> {
        let origin: Origin = origin.into();
        let key = origin.idempotency_key(|| A::fingerprint(&command, id));
        self.run(id, command, origin.metadata, key).await
    }

    /// As [`CommandBus::execute`], with the key of the request.
    pub(super) async fn run(
        &self,
        id: Option<A::Id>,
        command: A::Command,
        metadata: Metadata,
        key: Option<IdempotencyKey>,
    ) -> Result<Written<A>, BusError> {
        let bus = Arc::clone(&self.0);
        let executed = async move {
            let pending = PendingCommand { id, command, metadata, key };
            match &pending.key {
                None => bus.execute(&pending).await,
                Some(key) => bus.execute_once(key, &pending).await,
            }
        };
        let span = tracing::debug_span!("command", aggregate = A::TYPE).or_current();
        self.0.running.spawn(executed.instrument(span)).await?
    }
}

/// A command in execution; a create has no id yet.
struct PendingCommand<A: LastEventAggregate> {
    id: Option<A::Id>,
    command: A::Command,
    metadata: Metadata,
    key: Option<IdempotencyKey>,
}

/// The events of a command, and the aggregate after them.
struct Decision<A: LastEventAggregate> {
    events: Vec<A::Event>,
    aggregate: A,
}

impl<A: LastEventAggregate, I: IdSource<A::Id>> Inner<A, I> {
    /// Executes a command with an idempotency key, or replays its answer if it was executed before.
    async fn execute_once(
        &self,
        key: &IdempotencyKey,
        pending: &PendingCommand<A>,
    ) -> Result<Written<A>, BusError> {
        let _guard = with_timeout(self.key_locks.lock((&key.account, &key.key))).await?;
        if let Some(stored) = idempotency::find(&self.pool, key).await? {
            return self.replay(key, &stored.fingerprint, stored.position).await;
        }
        let executed = self.execute(pending).await;
        if let Err(BusError::Refused(_)) = executed
            && let Some(stored) = idempotency::find(&self.pool, key).await?
        {
            // Another process has executed the command in between, and its effect caused the refusal.
            return self.replay(key, &stored.fingerprint, stored.position).await;
        }
        executed
    }

    /// Replays the answer of the execution; fails if the key belongs to another request.
    async fn replay(
        &self,
        key: &IdempotencyKey,
        fingerprint: &[u8],
        position: i64,
    ) -> Result<Written<A>, BusError> {
        if fingerprint != key.fingerprint {
            return Err(BusError::IdempotencyKeyReused);
        }
        let (id, then) = read::event_at(&self.pool, A::TYPE, position).await?;
        let id = id.parse().map_err(|_| sqlx::Error::RowNotFound)?;
        Ok(Written { replayed: true, ..Written::new(id, Loaded::from(then)) })
    }

    async fn execute(&self, pending: &PendingCommand<A>) -> Result<Written<A>, BusError> {
        match pending.id {
            None => self.create(pending).await,
            Some(id) => self.change(id, pending).await,
        }
    }

    async fn create(&self, pending: &PendingCommand<A>) -> Result<Written<A>, BusError> {
        for _ in 0..ATTEMPTS_MAX {
            let id = with_timeout(self.ids.next()).await??;
            let decision = decide(A::default(), &pending.command).await?;
            match self.append(id, None, decision, pending).await? {
                Some(written) => return Ok(written),
                // The id is taken, for example by a restored log.
                None => self.ids.discard(id).await,
            }
        }
        Err(BusError::Contended)
    }

    async fn change(&self, id: A::Id, pending: &PendingCommand<A>) -> Result<Written<A>, BusError> {
        let _guard = with_timeout(self.aggregate_locks.lock(id)).await?;
        if let Some(cached) = self.cache.get(id)
            && let Ok(decision) = decide(cached.aggregate.clone(), &pending.command).await
            && !decision.events.is_empty()
            && let Some(written) = self.append(id, Some(cached), decision, pending).await?
        {
            return Ok(written);
        }
        for _ in 0..ATTEMPTS_MAX {
            let last = read::last_event(&self.pool, A::TYPE, &id.to_string()).await?;
            let loaded: Option<Loaded<A>> = last.map(Loaded::from);
            let before = loaded.as_ref().map(|loaded| loaded.aggregate.clone());
            let decision = decide(before.unwrap_or_default(), &pending.command).await?;
            if let Some(written) = self.append(id, loaded, decision, pending).await? {
                return Ok(written);
            }
            tokio::time::sleep(jitter()).await;
        }
        Err(BusError::Contended)
    }

    /// Appends the events of a decision on `loaded`; `None` when that was not the aggregate's current
    /// state.
    async fn append(
        &self,
        id: A::Id,
        loaded: Option<Loaded<A>>,
        decision: Decision<A>,
        pending: &PendingCommand<A>,
    ) -> Result<Option<Written<A>>, BusError> {
        let Decision { events, aggregate } = decision;
        let mut key = pending.key.clone();
        if let Some(loaded) = &loaded {
            match &mut key {
                None if events.is_empty() => return Ok(Some(Written::new(id, loaded.clone()))),
                None => {}
                Some(key) => key.known_position = loaded.last.position,
            }
        }
        let append = Append {
            command_id: clock::new_id(),
            aggregate_type: A::TYPE,
            aggregate_id: id.to_string(),
            expected: Some(loaded.as_ref().map_or(0, |loaded| loaded.aggregate.sequence())),
            events: events.iter().map(NewEvent::from).collect(),
            metadata: (&pending.metadata).into(),
            key,
            external_id: aggregate.external_id().map(|id| id.as_str().to_owned()),
        };
        match self.appender.append(append).await? {
            Outcome::Appended(last) => {
                let created_at = loaded.map_or(last.recorded_at, |loaded| loaded.created_at);
                let loaded = Loaded { aggregate, last, created_at };
                self.cache.insert(id, loaded.clone());
                Ok(Some(Written::new(id, loaded)))
            }
            Outcome::Unchanged => Ok(loaded.map(|loaded| Written::new(id, loaded))),
            Outcome::Conflict { .. } => {
                self.cache.remove(id);
                Ok(None)
            }
            Outcome::ExternalIdTaken { customer } => {
                Err(Refusal::ExternalIdTaken { customer }.into())
            }
            Outcome::Duplicate { fingerprint, position } => match &pending.key {
                Some(key) => self.replay(key, &fingerprint, position).await.map(Some),
                None => Ok(None),
            },
        }
    }
}

/// Decides by the aggregate's `handle`; the event sink applies each event to the aggregate.
async fn decide<A: LastEventAggregate>(
    mut aggregate: A,
    command: &A::Command,
) -> Result<Decision<A>, Refusal> {
    let sink = EventSink::default();
    aggregate.handle(command.clone(), &(), &sink).await?;
    Ok(Decision { events: sink.collect().await, aggregate })
}

async fn with_timeout<T>(waiting: impl Future<Output = T>) -> Result<T, BusError> {
    tokio::time::timeout(LOCK_TIMEOUT, waiting).await.map_err(|_| BusError::Contended)
}

/// A random pause between two rounds.
pub(super) fn jitter() -> Duration {
    BACKOFF_MAX * u32::from(clock::random_bytes::<1>()[0]) / 255
}
