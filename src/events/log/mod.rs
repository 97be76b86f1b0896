//! The log: events in the order in which they were committed, on PostgreSQL.

/// Appends the events of commands in one call, under the append lock.
pub mod append;

/// Group append: one call appends all waiting commands.
pub mod appender;

/// What the appender measures.
mod append_metrics;

/// Append recovery: the outcome of a call whose connection was lost.
mod append_recovery;

/// An event as it is stored.
pub mod stored_event;

/// Reads the log.
pub mod read;

/// Selects events.
pub mod filter;

/// Reads the events that a filter selects.
pub mod matching;

/// From times to positions.
pub mod moments;

/// The end of the log: its identity, its last position, and whether its last time has come.
pub mod end;

/// The identities of the log, and its restart after a restored backup.
pub mod identity;

/// Notifications that the log has grown, also between processes.
pub mod notify;

/// Encodes and decodes payloads and metadata.
pub mod payload;

/// The log as an event repository of cqrs-es.
pub mod event_repository;

/// Appends chunks of an import.
pub mod import;

/// Changes of signing keys, as events.
pub mod key_changes;

/// Restores a whole log into an empty installation.
pub mod restore;

/// External ids, and the customers that have them.
pub mod external_ids;

/// Single versions of a customer.
pub mod versions;

/// Customer ids, leased in blocks.
pub mod id_lease;

pub use append::{Append, Appended, IdempotencyKey, Outcome, append};
pub use appender::{AppendError, Appender};
pub use event_repository::EventRepository;
pub use payload::{DecodeError, EncodedMetadata, NewEvent};
pub use stored_event::StoredEvent;
