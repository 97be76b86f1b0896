//! From a command to its place in the log: load the customer's last event, decide, append; when
//! another process was first, load and decide again.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use tokio::sync::{Mutex, MutexGuard};

use super::command::CustomerCommand;
use super::customer::{Customer, State};
use super::refusal::Refusal;
use crate::clock;
use crate::events::customer::CUSTOMER;
use crate::events::log::append::{Append, Appended, Outcome};
use crate::events::log::appender::{AppendError, Appender};
use crate::events::log::ids::IdLease;
use crate::events::log::payload::NewEvent;
use crate::events::log::read::{self, LastEvent, ReadError};
use crate::events::metadata::Metadata;
use crate::events::values::{CustomerId, DateOfBirth, Name};

/// How often a command is decided again after another process appended first. Each round lets at
/// least one command of the customer through, so only a customer under constant fire from many
/// processes meets it.
const ROUNDS: u32 = 64;

/// The longest pause before another round; half of it on average, so that two processes that met
/// once do not meet again.
const PAUSE_MAX: Duration = Duration::from_millis(8);

/// How long a command waits for an id or for its turn on its customer.
const WAIT_IN_LINE: Duration = Duration::from_secs(3);

/// How many commands of different customers can be between load and append at once in this process.
/// Two customers may share a turn; that costs them a wait and nothing else.
const TURNS: usize = 1024;

/// Takes commands to the log. One per process.
#[derive(Clone)]
pub struct Bus(Arc<Inner>);

struct Inner {
    appender: Appender,
    read: PgPool,
    ids: IdLease,
    turns: Vec<Mutex<()>>,
    hasher: RandomState,
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
    pub changed: bool,
}

/// Why a command has no outcome.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    #[error(transparent)]
    Refused(#[from] Refusal),
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
        let turns = std::iter::repeat_with(Mutex::default).take(TURNS).collect();
        let ids = IdLease::new(read.clone());
        Self(Arc::new(Inner { appender, read, ids, turns, hasher: RandomState::new() }))
    }

    /// Creates a customer under an id of its own. The command runs to its end even when the caller
    /// stops waiting.
    ///
    /// # Errors
    /// When the log cannot be reached.
    pub async fn create(
        &self,
        name: Name,
        dob: DateOfBirth,
        metadata: Metadata,
    ) -> Result<Written, BusError> {
        let bus = Arc::clone(&self.0);
        tokio::spawn(async move {
            let command = CustomerCommand::Create { name, dob };
            for _ in 0..ROUNDS {
                let id = in_time(bus.ids.next()).await??;
                match bus.attempt(id, None, &command, &metadata).await? {
                    Some(written) => return Ok(written),
                    None => bus.ids.drop_block().await,
                }
            }
            Err(BusError::Contended)
        })
        .await?
    }

    /// Updates or deletes a customer. The command runs to its end even when the caller stops waiting.
    ///
    /// # Errors
    /// The refusal, or that the log cannot be reached.
    pub async fn change(
        &self,
        id: CustomerId,
        command: CustomerCommand,
        metadata: Metadata,
    ) -> Result<Written, BusError> {
        let bus = Arc::clone(&self.0);
        tokio::spawn(async move {
            let _turn = in_time(bus.turn(id)).await?;
            for _ in 0..ROUNDS {
                let last = read::last_event(&bus.read, id).await?;
                if let Some(written) = bus.attempt(id, last, &command, &metadata).await? {
                    return Ok(written);
                }
                tokio::time::sleep(jitter()).await;
            }
            Err(BusError::Contended)
        })
        .await?
    }
}

impl Inner {
    /// One mutex per customer, so that commands of this process never conflict with each other.
    async fn turn(&self, id: CustomerId) -> MutexGuard<'_, ()> {
        let hash = self.hasher.hash_one(id);
        let index = usize::try_from(hash % TURNS as u64).unwrap_or(0);
        self.turns[index].lock().await
    }

    /// Decides on what `last` left and appends. `None` when another process appended first.
    async fn attempt(
        &self,
        id: CustomerId,
        last: Option<LastEvent>,
        command: &CustomerCommand,
        metadata: &Metadata,
    ) -> Result<Option<Written>, BusError> {
        let created_at = last.as_ref().map(|last| last.created_at);
        let last_recorded = last.as_ref().map(|last| Appended {
            position: last.position,
            sequence: last.sequence,
            recorded_at: last.recorded_at,
        });
        let mut customer =
            last.map(|last| Customer::from_last(last.sequence, last.event)).unwrap_or_default();
        let expected = customer.version;
        let events = customer.decide(command)?;
        let changed = !events.is_empty();
        let recorded = if changed {
            let append = Append {
                command_id: clock::new_id(),
                aggregate_type: CUSTOMER,
                aggregate_id: id.to_string(),
                expected: Some(expected),
                events: events.iter().map(NewEvent::from).collect(),
                metadata: metadata.clone(),
                key: None,
            };
            match self.appender.append(append).await? {
                Outcome::Appended(recorded) => recorded,
                Outcome::Conflict { .. } | Outcome::Remembered | Outcome::Known { .. } => {
                    return Ok(None);
                }
            }
        } else {
            last_recorded.ok_or(Refusal::NotFound)?
        };
        for event in events {
            customer.apply(event);
        }
        Ok(Some(Written {
            id,
            current: match customer.state {
                State::Present { name, dob } => Some((name, dob)),
                State::Deleted | State::Unknown => None,
            },
            version: customer.version,
            created_at: created_at.unwrap_or(recorded.recorded_at),
            updated_at: recorded.recorded_at,
            position: recorded.position,
            changed,
        }))
    }
}

/// Waiting in line must not add up: whoever comes behind many that wait for a database that is away
/// is told so as soon as they are.
async fn in_time<T>(waiting: impl Future<Output = T>) -> Result<T, BusError> {
    tokio::time::timeout(WAIT_IN_LINE, waiting).await.map_err(|_| BusError::Contended)
}

fn jitter() -> Duration {
    PAUSE_MAX * u32::from(clock::random_bytes::<1>()[0]) / 255
}
