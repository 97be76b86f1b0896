//! Projections: code that follows the log and keeps read tables.
//!
//! A new projection is one file with one `impl TableProjection`, its table in a migration, and one
//! line in [`ALL`](crate::projections::ALL). The write path depends on no projection.

#![deny(clippy::wildcard_enum_match_arm)]

/// The interface of a projection.
pub mod projection;

/// A projection of one table, defined by its row.
pub mod table;

/// The customers as they are now, youngest first.
pub mod customers;

/// How many customers there are.
pub mod customer_count;

/// What a run of events leaves of each customer.
mod last_changes;

/// The customers by the words of their names, and in other orders.
pub mod customer_search;

/// Every state of every customer, for histories and for reads of any moment of the past.
pub mod customer_history;

/// The list of projections.
mod registry;

/// The position that a projection has applied.
pub mod checkpoint;

/// What a state of a table is known by.
pub mod mark;

/// One page of the log, applied to a table.
mod page;

/// The progress of a projector, and the requests that wait for it.
mod progress;

/// The statements of a projector.
mod next_page;

/// Follows the log, page by page.
pub mod projector;

/// What a projector measures.
mod projector_metrics;

/// Customers whose events cannot be applied.
pub mod parked;

/// Checkpoint, lag and rebuild of each projection.
pub mod status;

/// Replays the log into a standby table and swaps it in; rolls back.
pub mod rebuild;

/// Compares a projection with the log.
pub mod verify;

/// What a table is read from: a pool, a connection, or a snapshot with its checkpoint.
pub mod reader;

/// Live, shadow and previous table.
mod table_slot;

/// Reads the log stream by stream.
mod stream_reader;

/// A checksum over rows.
pub mod checksum;

pub use checksum::Checksum;
pub use mark::{Mark, mark_of};
pub use projection::{Projection, ProjectionError};
pub use registry::{ALL, find};
pub use table::{TableProjection, TableRow};
pub use table_slot::TableSlot;
