//! WHAT PEOPLE LOOK AT. Projections follow the log and keep read tables.
//!
//! A new projection is one file with one `impl TableProjection`, its table in a migration, and one
//! line in [`ALL`]. The write path knows none of them.

#![deny(clippy::wildcard_enum_match_arm)]

/// What a projection is.
pub mod projection;

/// A projection written as the row of its table.
pub mod table;

/// The customers as they are now, youngest first.
pub mod customers;

/// Every state of every customer, so any moment of the past.
pub mod customer_history;

/// THE list of projections.
mod registry;

/// The position that a projection has applied.
pub mod checkpoint;

/// One page of the log, applied to a table.
mod page;

/// Follows the log, page by page.
pub mod projector;

/// Customers whose events cannot be applied.
pub mod parked;

/// Checkpoint, lag and rebuild of each projection.
pub mod status;

/// Replays the log into a standby table and swaps it in; rolls back.
pub mod rebuild;

/// Compares a projection with the log.
pub mod verify;

/// Rows and checkpoint of one moment.
pub mod snapshot;

/// Live, shadow and previous table.
mod table_slot;

/// The log, stream by stream.
mod stream_reader;

/// A checksum over rows.
pub mod checksum;

pub use checksum::Checksum;
pub use projection::{Projection, ProjectionError};
pub use registry::{ALL, find};
pub use table::{TableProjection, TableRow};
pub use table_slot::TableSlot;
