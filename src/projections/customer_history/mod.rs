//! Every state of every customer: `customer_history(customer_id, version, position, until_position,
//! ...)`. It serves histories, and reads of any moment of the past.

/// One row.
mod version;

/// The projection.
mod projection;

/// Reads of one history, or of the registry at a moment.
mod read;

pub use projection::CustomerHistory;
pub use read::{at, version_at, versions, youngest_at};
pub use version::Version;
