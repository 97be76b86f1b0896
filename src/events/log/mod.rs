//! The log: events in the order in which they were committed, on PostgreSQL.

/// Commands' events into the log: one call, under the append lock.
pub mod append;

/// Group append: the commands that wait, in one call.
pub mod appender;

/// What became of a call whose connection was lost.
mod append_recovery;

/// Reads the log.
pub mod read;

/// Tells that the log has grown, across processes.
pub mod notify;

/// Encodes and decodes payloads and metadata.
pub mod payload;

/// The log as a repository of cqrs-es.
pub mod event_repository;

/// Chunks of an import.
pub mod import;

/// A whole log into an empty installation.
pub mod restore;

/// Customer ids, leased in blocks.
pub mod id_lease;

pub use append::{Append, Appended, IdempotencyKey, Outcome, append};
pub use appender::{AppendError, Appender};
pub use event_repository::EventRepository;
pub use payload::{DecodeError, EncodedMetadata, NewEvent};
pub use read::StoredEvent;
