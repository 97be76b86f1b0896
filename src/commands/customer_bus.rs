//! The commands of customers on the command bus.

use super::aggregate::LastEventAggregate as _;
use super::bus::{ATTEMPTS_MAX, Bus, BusError, Origin, Written, jitter};
use super::command::{CustomerCommand, ExternalIdChange, IfMatch};
use super::customer::Customer;
use super::refusal::Refusal;
use crate::events::customer::{CustomerEvent, CustomerValues};
use crate::events::log::appender::Appender;
use crate::events::log::id_lease::IdLease;
use crate::events::log::read::ReadError;
use crate::events::log::{external_ids, versions};
use crate::events::values::CustomerId;
use crate::postgres::Pool;

impl Bus {
    /// Appends through `appender` and loads over `pool`, both on the same primary.
    #[must_use]
    pub fn new(appender: Appender, pool: Pool) -> Self {
        let ids = IdLease::new(pool.clone());
        Self::with_ids(appender, pool, ids)
    }

    /// Creates a customer with a new id; see [`execute`](super::CommandBus::execute).
    pub async fn create(
        &self,
        values: CustomerValues,
        origin: impl Into<Origin>,
    ) -> Result<Written, BusError> {
        self.execute(None, CustomerCommand::Create(values), origin).await
    }

    /// Changes a customer; see [`execute`](super::CommandBus::execute).
    pub async fn change(
        &self,
        id: CustomerId,
        command: CustomerCommand,
        origin: impl Into<Origin>,
    ) -> Result<Written, BusError> {
        self.execute(Some(id), command, origin).await
    }

    /// Overwrites the customer that has the external id of the values, or creates one if there is none and it may;
    /// whether it did. `if_match` is of a customer that is there.
    pub async fn put(
        &self,
        values: CustomerValues,
        if_match: IfMatch,
        may_create: bool,
        origin: Origin,
    ) -> Result<(Written, bool), BusError> {
        let update =
            CustomerCommand::UpdateExternal { values: values.clone(), if_match: if_match.clone() };
        // The request is the same whichever command it becomes.
        let key = origin.idempotency_key(|| Customer::fingerprint(&update, None));
        for _ in 0..ATTEMPTS_MAX {
            let holder = match &values.external_id {
                Some(external_id) => external_ids::holder(self.pool(), external_id).await?,
                None => None,
            };
            let command = match holder {
                Some(_) => update.clone(),
                None if !may_create => return Err(Refusal::NotFound.into()),
                None => CustomerCommand::Create(values.clone()),
            };
            match self.run(holder, command, origin.metadata.clone(), key.clone()).await {
                // Another command has given it away, or taken it, since.
                Err(BusError::Refused(
                    Refusal::ExternalIdMoved | Refusal::ExternalIdTaken { .. },
                )) => tokio::time::sleep(jitter()).await,
                done => {
                    let is_new = |written: &Written| {
                        if written.replayed { written.version() == 1 } else { holder.is_none() }
                    };
                    return done
                        .map(|written| (is_new(&written), written))
                        .map(|(new, it)| (it, new));
                }
            }
        }
        Err(BusError::Contended)
    }

    /// Gives a customer the values of an earlier version, which it may have been deleted since.
    pub async fn restore(
        &self,
        id: CustomerId,
        from_version: i64,
        external_id: ExternalIdChange,
        if_match: IfMatch,
        origin: Origin,
    ) -> Result<Written, BusError> {
        let Some(event) = versions::event_of(self.pool(), id, from_version).await? else {
            let is_unknown = versions::event_of(self.pool(), id, 1).await?.is_none();
            let refusal = if is_unknown { Refusal::NotFound } else { Refusal::NoSuchVersion };
            return Err(refusal.into());
        };
        let event: CustomerEvent = event.decode().map_err(ReadError::Decode)?;
        let mut values = event.into_values().ok_or(Refusal::VersionDeleted)?;
        values.external_id = external_id.applied_to(values.external_id.as_ref());
        self.change(id, CustomerCommand::Restore { values, from_version, if_match }, origin).await
    }
}
