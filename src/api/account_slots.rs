//! Slots per account: how many long answers one account may have at work at the same time in this process,
//! so that it leaves room to the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::ApiError;
use crate::events::values::Username;

/// Counts refusals by the kind of work.
pub(super) const REFUSED: &str = "customers_account_slots_refused_total";

/// The slots of all accounts for one kind of work. Clones share them.
#[derive(Clone)]
pub struct AccountSlots(Arc<Slots>);

struct Slots {
    /// The kind of work, in the plural, for the error.
    what: &'static str,
    limit: usize,
    /// The accounts that hold a slot or wait for one.
    accounts: Mutex<HashMap<Username, Arc<Semaphore>>>,
}

/// A slot, free again when it is dropped.
pub struct AccountSlot {
    slots: AccountSlots,
    account: Username,
    permit: Option<OwnedSemaphorePermit>,
}

impl AccountSlots {
    /// `limit` slots for each account.
    #[must_use]
    pub fn new(what: &'static str, limit: usize) -> Self {
        metrics::counter!(REFUSED, "kind" => what).increment(0);
        Self(Arc::new(Slots { what, limit, accounts: Mutex::default() }))
    }

    /// Takes a slot of the account; 429 if none becomes free within `wait`.
    pub(super) async fn take(
        &self,
        account: &Username,
        wait: Duration,
    ) -> Result<AccountSlot, ApiError> {
        let Slots { what, limit, .. } = *self.0;
        let semaphore = {
            let mut accounts = self.accounts();
            let semaphore = || Arc::new(Semaphore::new(limit));
            Arc::clone(accounts.entry(account.clone()).or_insert_with(semaphore))
        };
        // Made before the wait, so that the account is forgotten even if the wait ends early.
        let mut slot = AccountSlot { slots: self.clone(), account: account.clone(), permit: None };
        slot.permit =
            tokio::time::timeout(wait, semaphore.acquire_owned()).await.ok().and_then(Result::ok);
        if slot.permit.is_some() {
            return Ok(slot);
        }
        metrics::counter!(REFUSED, "kind" => what).increment(1);
        Err(ApiError::TooManyAtOnce { what, limit })
    }

    fn accounts(&self) -> MutexGuard<'_, HashMap<Username, Arc<Semaphore>>> {
        self.0.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for AccountSlot {
    fn drop(&mut self) {
        self.permit = None;
        let mut accounts = self.slots.accounts();
        if accounts.get(&self.account).is_some_and(|semaphore| Arc::strong_count(semaphore) == 1) {
            accounts.remove(&self.account);
        }
    }
}
