//! The log: events in the order in which they were committed, on PostgreSQL.

/// The one way in.
pub mod append;

/// Many commands in one call.
pub mod appender;

/// A connection that was lost between a call and its answer.
mod append_recovery;

/// Ways to read it back.
pub mod read;

/// The log for other programs, page by page.
pub mod feed;

/// Says that it has grown.
pub mod notify;

/// Its end, for everybody who follows it.
pub mod tail;

/// An event as other programs are shown it.
pub mod event_format;

/// The one place where a payload is written and the one where it is read.
pub mod payload;

/// Chunks of an import.
pub mod import;

/// A whole log from one installation into another.
pub mod log_copy;

/// Blocks of customer ids.
pub mod id_lease;

pub use append::{Append, Appended, IdempotencyKey, Outcome, append};
pub use appender::{AppendError, Appender};
pub use payload::{DecodeError, NewEvent};
pub use read::StoredEvent;
