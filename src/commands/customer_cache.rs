//! Recent customers, so that a command need not load what this process wrote last. Other processes
//! write too: what is kept may be old. So only an append may trust it, because the log checks its
//! sequence; a refusal or a "nothing to change" is decided on the log.

use chrono::{DateTime, Utc};
use moka::sync::Cache;
use sqlx::PgPool;

use super::customer::Customer;
use crate::events::log::Appended;
use crate::events::log::read::{self, LastEvent, ReadError};
use crate::events::values::CustomerId;

/// How many customers are kept: some 300 bytes each.
const CAPACITY: u64 = 50_000;

/// A customer as its last event left it, and where that stands.
#[derive(Debug, Clone)]
pub struct LoadedCustomer {
    pub customer: Customer,
    pub last: Appended,
    /// The time of its first event.
    pub created_at: DateTime<Utc>,
}

impl From<LastEvent> for LoadedCustomer {
    fn from(last: LastEvent) -> Self {
        let LastEvent { event, position, sequence, recorded_at, created_at } = last;
        let customer = Customer::from_last(sequence, event);
        Self { customer, last: Appended { position, sequence, recorded_at }, created_at }
    }
}

/// Of one process.
pub struct CustomerCache(Cache<CustomerId, LoadedCustomer>);

impl Default for CustomerCache {
    fn default() -> Self {
        Self(Cache::new(CAPACITY))
    }
}

impl CustomerCache {
    /// What this process knew last.
    pub fn get(&self, id: CustomerId) -> Option<LoadedCustomer> {
        self.0.get(&id)
    }

    pub fn insert(&self, id: CustomerId, known: LoadedCustomer) {
        self.0.insert(id, known);
    }

    pub fn remove(&self, id: CustomerId) {
        self.0.invalidate(&id);
    }
}

/// The customer as its last event in the log leaves it; `None` if it was never created.
///
/// # Errors
/// When the log cannot be read.
pub async fn load(pool: &PgPool, id: CustomerId) -> Result<Option<LoadedCustomer>, ReadError> {
    Ok(read::last_event(pool, id).await?.map(LoadedCustomer::from))
}
