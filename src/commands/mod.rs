//! WHAT MAY HAPPEN. Pure decisions, and the bus that takes a decision to the log.

#![deny(clippy::wildcard_enum_match_arm)]

/// What someone asks for.
pub mod command;

/// A business "no".
pub mod refusal;

/// The rules: decide and apply.
pub mod customer;

/// From a command to its place in the log.
pub mod bus;

/// Aggregates that this process has appended to, which only an append may trust.
mod aggregate_cache;

/// What the bus needs of an aggregate.
pub mod aggregate;

/// Done once, however often it is asked for.
pub mod idempotency;

/// One at a time.
mod striped_lock;

/// Many customers from one file.
pub mod import;

/// Who changed a customer, when and why.
pub mod history;

pub use aggregate::LastEventAggregate;
pub use bus::{Bus, BusError, CommandBus, Origin, Written};
pub use command::{CustomerCommand, IfMatch};
pub use refusal::Refusal;
