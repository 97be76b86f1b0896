//! The rules of customers. `decide` is pure and contains all rules; `apply` contains none.

use cqrs_es::event_sink::EventSink;
use serde::{Deserialize, Serialize};

use super::aggregate::{IdSource, LastEventAggregate};
use super::command::CustomerCommand;
use super::idempotency;
use super::refusal::Refusal;
use crate::events::customer::{CUSTOMER, CustomerEvent, CustomerValues};
use crate::events::external_id::ExternalId;
use crate::events::log::id_lease::IdLease;
use crate::events::values::CustomerId;

/// A customer after the events so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Customer {
    /// The number of events so far; 0 before the first.
    pub version: i64,
    pub state: State,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    #[default]
    Unknown,
    Present(CustomerValues),
    Deleted,
}

impl Customer {
    /// The events of the command; empty when nothing would change.
    pub fn decide(&self, command: &CustomerCommand) -> Result<Vec<CustomerEvent>, Refusal> {
        let version = self.version;
        match (command, &self.state) {
            (CustomerCommand::Create(values), State::Unknown) => {
                Ok(vec![CustomerEvent::created(values.clone())])
            }
            (CustomerCommand::Create(_), State::Present(_) | State::Deleted) => {
                Err(Refusal::Exists)
            }
            (CustomerCommand::UpdateExternal { .. }, State::Unknown | State::Deleted) => {
                Err(Refusal::ExternalIdMoved)
            }
            (
                CustomerCommand::Update { .. } | CustomerCommand::Delete { .. },
                State::Unknown | State::Deleted,
            )
            | (CustomerCommand::Restore { .. }, State::Unknown) => Err(Refusal::NotFound),
            (CustomerCommand::UpdateExternal { values, .. }, State::Present(old))
                if values.external_id != old.external_id =>
            {
                Err(Refusal::ExternalIdMoved)
            }
            (
                CustomerCommand::Update { if_match, .. }
                | CustomerCommand::UpdateExternal { if_match, .. }
                | CustomerCommand::Delete { if_match }
                | CustomerCommand::Restore { if_match, .. },
                State::Present(_) | State::Deleted,
            ) if !if_match.allows(version) => Err(Refusal::VersionMismatch { current: version }),
            (CustomerCommand::Update { name, dob, external_id, .. }, State::Present(old)) => {
                let external_id = external_id.applied_to(old.external_id.as_ref());
                let values = CustomerValues { name: name.clone(), dob: *dob, external_id };
                Ok(unless_equal(old, values, CustomerEvent::updated))
            }
            (CustomerCommand::UpdateExternal { values, .. }, State::Present(old)) => {
                Ok(unless_equal(old, values.clone(), CustomerEvent::updated))
            }
            (CustomerCommand::Restore { values, from_version, .. }, State::Present(old)) => {
                let restored = |values| CustomerEvent::restored(values, *from_version);
                Ok(unless_equal(old, values.clone(), restored))
            }
            (CustomerCommand::Restore { values, from_version, .. }, State::Deleted) => {
                Ok(vec![CustomerEvent::restored(values.clone(), *from_version)])
            }
            (CustomerCommand::Delete { .. }, State::Present(_)) => {
                Ok(vec![CustomerEvent::CustomerDeleted {}])
            }
        }
    }

    /// The state after the event.
    pub fn apply(&mut self, event: CustomerEvent) {
        *self = Self::after(self.version + 1, event);
    }
}

/// The event of a change of values; none when they are the old ones.
fn unless_equal(
    old: &CustomerValues,
    new: CustomerValues,
    event: impl FnOnce(CustomerValues) -> CustomerEvent,
) -> Vec<CustomerEvent> {
    if *old == new { vec![] } else { vec![event(new)] }
}

impl LastEventAggregate for Customer {
    type Id = CustomerId;

    fn after(version: i64, last: CustomerEvent) -> Self {
        Self { version, state: last.into_values().map_or(State::Deleted, State::Present) }
    }

    fn sequence(&self) -> i64 {
        self.version
    }

    fn fingerprint(command: &CustomerCommand, id: Option<CustomerId>) -> Vec<u8> {
        idempotency::fingerprint(id, command)
    }

    fn external_id(&self) -> Option<&ExternalId> {
        match &self.state {
            State::Present(values) => values.external_id.as_ref(),
            State::Unknown | State::Deleted => None,
        }
    }
}

impl IdSource<CustomerId> for IdLease {
    async fn next(&self) -> Result<CustomerId, sqlx::Error> {
        self.next().await
    }

    async fn discard(&self, taken: CustomerId) {
        self.discard_block(taken).await;
    }
}

/// The glue to cqrs-es: the bus decides through `handle`, and the test framework of cqrs-es tests it.
impl cqrs_es::Aggregate for Customer {
    const TYPE: &'static str = CUSTOMER;
    type Command = CustomerCommand;
    type Event = CustomerEvent;
    type Error = Refusal;
    type Services = ();

    async fn handle(
        &mut self,
        command: Self::Command,
        (): &Self::Services,
        sink: &EventSink<Self>,
    ) -> Result<(), Self::Error> {
        for event in self.decide(&command)? {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: Self::Event) {
        self.apply(event);
    }
}
