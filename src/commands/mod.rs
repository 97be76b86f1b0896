//! Commands: pure decisions, and the bus that executes commands and appends their events.

#![deny(clippy::wildcard_enum_match_arm)]

/// Requests to change a customer.
pub mod command;

/// Why the rules reject a command.
pub mod refusal;

/// The rules: decide and apply.
pub mod customer;

/// The command bus: executes a command and appends its events to the log.
pub mod bus;

/// The commands of customers on the bus.
mod customer_bus;

/// A cache of aggregates that this process has appended to.
mod aggregate_cache;

/// What the bus needs of an aggregate.
pub mod aggregate;

/// Idempotency keys: a command with a key is executed once.
pub mod idempotency;

/// A striped lock: one command of an aggregate at a time.
mod striped_lock;

/// Imports of many customers from one file.
pub mod import;

/// The change history of a customer.
pub mod history;

pub use aggregate::LastEventAggregate;
pub use bus::{Bus, BusError, CommandBus, Origin, Written};
pub use command::{CustomerCommand, ExternalIdChange, IfMatch};
pub use refusal::Refusal;
