//! The log: events in the order in which they were committed, on PostgreSQL.

/// The one way in.
pub mod append;

/// Ways to read it back.
pub mod read;

/// The one place where a payload is written and the one where it is read.
pub mod payload;

/// Blocks of customer ids.
pub mod ids;

pub use append::{Append, Appended, Outcome, append};
pub use payload::{DecodeError, NewEvent};
pub use read::StoredEvent;
