//! Every state of every customer: `customer_history(customer_id, version, position, until_position,
//! ...)`. Histories are read from it, and any moment of the past.

/// One row.
mod version;

/// Follows the log.
mod projection;

/// One history, or the registry at a moment.
mod read;

pub use projection::CustomerHistory;
pub use read::{at, versions, youngest_at};
pub use version::Version;
