//! From a command to its place in the log: take the customer as this process knows it, or load its
//! last event; decide; append. When another process was first, load and decide again.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use super::command::CustomerCommand;
use super::customer::State;
use super::customer_cache::{self, CustomerCache, LoadedCustomer};
use super::idempotency;
use super::refusal::Refusal;
use super::striped_lock::StripedLock;
use crate::clock;
use crate::events::customer::CUSTOMER;
use crate::events::log::id_lease::IdLease;
use crate::events::log::read::{self, ReadError};
use crate::events::log::{Append, AppendError, Appender, IdempotencyKey, NewEvent, Outcome};
use crate::events::metadata::Metadata;
use crate::events::values::{CustomerId, DateOfBirth, Name};

/// How often a command is decided again after another process appended first. Each round lets at
/// least one command of the customer through, so only a customer under constant fire from many
/// processes meets it.
const ATTEMPTS_MAX: u32 = 64;

/// The longest pause before another round; half of it on average, so that two processes that met
/// once do not meet again.
const BACKOFF_MAX: Duration = Duration::from_millis(8);

/// How long a command waits for an id or for its turn.
const LOCK_TIMEOUT: Duration = Duration::from_secs(3);

/// Takes commands to the log. One per process.
#[derive(Clone)]
pub struct Bus(Arc<Inner>);

struct Inner {
    appender: Appender,
    read: PgPool,
    ids: IdLease,
    customers: CustomerCache,
    customer_locks: StripedLock,
    key_locks: StripedLock,
}

/// Who asks, and under which `Idempotency-Key` of theirs.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    pub metadata: Metadata,
    pub key: Option<String>,
}

impl From<Metadata> for Origin {
    fn from(metadata: Metadata) -> Self {
        Self { metadata, key: None }
    }
}

/// The outcome of a command that was not refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub id: CustomerId,
    /// What the customer is now; `None` after a deletion.
    pub current: Option<(Name, DateOfBirth)>,
    pub version: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// The position of the event, or of the customer's last one when nothing changed.
    pub position: i64,
    /// The command was done before, under the same key: this is what it led to then.
    pub replayed: bool,
}

/// Why a command has no outcome.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the key was used for another request")]
    IdempotencyKeyReused,
    #[error("other processes kept changing the customer")]
    Contended,
    #[error(transparent)]
    Log(#[from] ReadError),
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error("the command's task ended early")]
    Lost(#[from] tokio::task::JoinError),
}

impl From<sqlx::Error> for BusError {
    fn from(error: sqlx::Error) -> Self {
        Self::Log(ReadError::Database(error))
    }
}

impl Bus {
    /// Appends through `appender`, loads over `read`: both of one primary.
    #[must_use]
    pub fn new(appender: Appender, read: PgPool) -> Self {
        let ids = IdLease::new(read.clone());
        Self(Arc::new(Inner {
            appender,
            read,
            ids,
            customers: CustomerCache::default(),
            customer_locks: StripedLock::default(),
            key_locks: StripedLock::default(),
        }))
    }

    /// Creates a customer under an id of its own. The command runs to its end even when the caller
    /// stops waiting.
    ///
    /// # Errors
    /// When the log cannot be reached, or the key was used for another request.
    pub async fn create(
        &self,
        name: Name,
        dob: DateOfBirth,
        origin: impl Into<Origin>,
    ) -> Result<Written, BusError> {
        self.run(None, CustomerCommand::Create { name, dob }, origin.into()).await
    }

    /// Updates or deletes a customer. The command runs to its end even when the caller stops waiting.
    ///
    /// # Errors
    /// The refusal, or that the log cannot be reached, or that the key was used for another request.
    pub async fn change(
        &self,
        id: CustomerId,
        command: CustomerCommand,
        origin: impl Into<Origin>,
    ) -> Result<Written, BusError> {
        self.run(Some(id), command, origin.into()).await
    }

    async fn run(
        &self,
        id: Option<CustomerId>,
        command: CustomerCommand,
        origin: Origin,
    ) -> Result<Written, BusError> {
        let bus = Arc::clone(&self.0);
        tokio::spawn(async move {
            let Origin { metadata, key } = origin;
            let account = metadata.actor.clone().unwrap_or_default();
            let key = key.map(|key| idempotency::keyed(account, key, id, &command));
            let pending = PendingCommand { id, command, metadata, key };
            match &pending.key {
                None => bus.execute(&pending).await,
                Some(key) => bus.execute_once(key, &pending).await,
            }
        })
        .await?
    }
}

/// A command on its way; a create has no id yet.
struct PendingCommand {
    id: Option<CustomerId>,
    command: CustomerCommand,
    metadata: Metadata,
    key: Option<IdempotencyKey>,
}

impl Inner {
    /// A command with a key: done if it was not done before, answered again if it was.
    async fn execute_once(
        &self,
        key: &IdempotencyKey,
        pending: &PendingCommand,
    ) -> Result<Written, BusError> {
        let _guard = with_timeout(self.key_locks.lock((&key.account, &key.key))).await?;
        if let Some(known) = idempotency::find(&self.read, key).await? {
            return self.replay(key, &known.fingerprint, known.position).await;
        }
        let executed = self.execute(pending).await;
        if let Err(BusError::Refused(_)) = executed
            && let Some(known) = idempotency::find(&self.read, key).await?
        {
            // Another process did it in between: the refusal was about its own effect.
            return self.replay(key, &known.fingerprint, known.position).await;
        }
        executed
    }

    /// The answer that the command had when it was done.
    async fn replay(
        &self,
        key: &IdempotencyKey,
        fingerprint: &[u8],
        position: i64,
    ) -> Result<Written, BusError> {
        if fingerprint != key.fingerprint {
            return Err(BusError::IdempotencyKeyReused);
        }
        let (id, then) = read::customer_at(&self.read, position).await?;
        Ok(Written { replayed: true, ..written(id, &LoadedCustomer::from(then)) })
    }

    async fn execute(&self, pending: &PendingCommand) -> Result<Written, BusError> {
        match pending.id {
            None => self.create(pending).await,
            Some(id) => self.change(id, pending).await,
        }
    }

    async fn create(&self, pending: &PendingCommand) -> Result<Written, BusError> {
        for _ in 0..ATTEMPTS_MAX {
            let id = with_timeout(self.ids.next()).await??;
            match self.decide_and_append(id, None, pending).await? {
                Some(written) => return Ok(written),
                // The id exists: it came with an import of a log, say.
                None => self.ids.drop_block().await,
            }
        }
        Err(BusError::Contended)
    }

    async fn change(&self, id: CustomerId, pending: &PendingCommand) -> Result<Written, BusError> {
        let _guard = with_timeout(self.customer_locks.lock(id)).await?;
        if let Some(cached) = self.customers.get(id)
            && !cached.customer.decide(&pending.command).unwrap_or_default().is_empty()
            && let Some(written) = self.decide_and_append(id, Some(cached), pending).await?
        {
            return Ok(written);
        }
        for _ in 0..ATTEMPTS_MAX {
            let last = customer_cache::load(&self.read, id).await?;
            if let Some(written) = self.decide_and_append(id, last, pending).await? {
                return Ok(written);
            }
            tokio::time::sleep(jitter()).await;
        }
        Err(BusError::Contended)
    }

    /// Decides on what is known and appends. `None` when that was not the customer's last event.
    async fn decide_and_append(
        &self,
        id: CustomerId,
        known: Option<LoadedCustomer>,
        pending: &PendingCommand,
    ) -> Result<Option<Written>, BusError> {
        let mut customer = known.as_ref().map(|known| known.customer.clone()).unwrap_or_default();
        let events = customer.decide(&pending.command)?;
        let mut key = pending.key.clone();
        match (&mut key, &known) {
            (None, Some(known)) if events.is_empty() => return Ok(Some(written(id, known))),
            (Some(key), Some(known)) => key.known_position = known.last.position,
            (_, _) => {}
        }
        let append = Append {
            command_id: clock::new_id(),
            aggregate_type: CUSTOMER,
            aggregate_id: id.to_string(),
            expected: Some(customer.version),
            events: events.iter().map(NewEvent::from).collect(),
            metadata: pending.metadata.clone(),
            key,
        };
        match self.appender.append(append).await? {
            Outcome::Appended(last) => {
                for event in events {
                    customer.apply(event);
                }
                let created_at = known.map_or(last.recorded_at, |known| known.created_at);
                let known = LoadedCustomer { customer, last, created_at };
                let written = written(id, &known);
                self.customers.insert(id, known);
                Ok(Some(written))
            }
            Outcome::Unchanged => Ok(known.map(|known| written(id, &known))),
            Outcome::Conflict { .. } => {
                self.customers.remove(id);
                Ok(None)
            }
            Outcome::Duplicate { fingerprint, position } => match &pending.key {
                Some(key) => self.replay(key, &fingerprint, position).await.map(Some),
                None => Ok(None),
            },
        }
    }
}

fn written(id: CustomerId, known: &LoadedCustomer) -> Written {
    Written {
        id,
        current: match &known.customer.state {
            State::Present { name, dob } => Some((name.clone(), *dob)),
            State::Deleted | State::Unknown => None,
        },
        version: known.customer.version,
        created_at: known.created_at,
        updated_at: known.last.recorded_at,
        position: known.last.position,
        replayed: false,
    }
}

/// Waiting in line must not add up: whoever comes behind many that wait for a database that is away
/// is told so as soon as they are.
async fn with_timeout<T>(waiting: impl Future<Output = T>) -> Result<T, BusError> {
    tokio::time::timeout(LOCK_TIMEOUT, waiting).await.map_err(|_| BusError::Contended)
}

fn jitter() -> Duration {
    BACKOFF_MAX * u32::from(clock::random_bytes::<1>()[0]) / 255
}
