//! The rules of customers. `decide` is pure and contains all rules; `apply` contains none.

use cqrs_es::event_sink::EventSink;
use serde::{Deserialize, Serialize};

use super::aggregate::{IdSource, LastEventAggregate};
use super::command::CustomerCommand;
use super::idempotency;
use super::refusal::Refusal;
use crate::events::customer::{CUSTOMER, CustomerEvent};
use crate::events::log::id_lease::IdLease;
use crate::events::values::{CustomerId, DateOfBirth, Name};

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
    Present {
        name: Name,
        dob: DateOfBirth,
    },
    Deleted,
}

impl Customer {
    /// The events of the command; empty when nothing would change.
    pub fn decide(&self, command: &CustomerCommand) -> Result<Vec<CustomerEvent>, Refusal> {
        match (command, &self.state) {
            (CustomerCommand::Create { name, dob }, State::Unknown) => {
                Ok(vec![CustomerEvent::CustomerCreated { name: name.clone(), dob: *dob }])
            }
            (CustomerCommand::Create { .. }, State::Present { .. } | State::Deleted) => {
                Err(Refusal::Exists)
            }
            (
                CustomerCommand::Update { .. } | CustomerCommand::Delete { .. },
                State::Unknown | State::Deleted,
            ) => Err(Refusal::NotFound),
            (
                CustomerCommand::Update { if_match, .. } | CustomerCommand::Delete { if_match },
                State::Present { .. },
            ) if !if_match.allows(self.version) => {
                Err(Refusal::VersionMismatch { current: self.version })
            }
            (
                CustomerCommand::Update { name, dob, .. },
                State::Present { name: old_name, dob: old_dob },
            ) => {
                if (name, dob) == (old_name, old_dob) {
                    return Ok(vec![]);
                }
                Ok(vec![CustomerEvent::CustomerUpdated { name: name.clone(), dob: *dob }])
            }
            (CustomerCommand::Delete { .. }, State::Present { .. }) => {
                Ok(vec![CustomerEvent::CustomerDeleted {}])
            }
        }
    }

    /// The state after the event.
    pub fn apply(&mut self, event: CustomerEvent) {
        *self = Self::after(self.version + 1, event);
    }
}

impl LastEventAggregate for Customer {
    type Id = CustomerId;

    fn after(version: i64, last: CustomerEvent) -> Self {
        let state = match last {
            CustomerEvent::CustomerCreated { name, dob }
            | CustomerEvent::CustomerUpdated { name, dob } => State::Present { name, dob },
            CustomerEvent::CustomerDeleted {} => State::Deleted,
        };
        Self { version, state }
    }

    fn sequence(&self) -> i64 {
        self.version
    }

    fn fingerprint(command: &CustomerCommand, id: Option<CustomerId>) -> Vec<u8> {
        idempotency::fingerprint(id, command)
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
