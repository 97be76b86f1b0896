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

/// Who changed a customer, when and why.
pub mod history;

pub use bus::{Bus, BusError, Written};
pub use command::{CustomerCommand, IfMatch};
pub use refusal::Refusal;
