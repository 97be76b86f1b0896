//! The rules. `decide` is pure and holds all of them; `apply` holds none.

use cqrs_es::event_sink::EventSink;
use serde::{Deserialize, Serialize};

use super::command::CustomerCommand;
use super::refusal::Refusal;
use crate::events::customer::{CUSTOMER, CustomerEvent};
use crate::events::values::{DateOfBirth, Name};

/// A customer as the events so far left it.
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
    /// The customer after `event`, its event number `version`: each event carries the whole state,
    /// so the last one is enough.
    #[must_use]
    pub fn from_last(version: i64, event: CustomerEvent) -> Self {
        let state = match event {
            CustomerEvent::CustomerCreated { name, dob }
            | CustomerEvent::CustomerUpdated { name, dob } => State::Present { name, dob },
            CustomerEvent::CustomerDeleted {} => State::Deleted,
        };
        Self { version, state }
    }

    /// The events that the command leads to; none when nothing would change.
    ///
    /// # Errors
    /// The refusal.
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

    /// Takes the event over.
    pub fn apply(&mut self, event: CustomerEvent) {
        *self = Self::from_last(self.version + 1, event);
    }
}

/// The glue to cqrs-es: its given/when/then framework tests `decide`, its stores load streams.
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
