//! The customers by the words of their names, and in other orders than by date of birth: `customer_search(customer_id,
//! place, word, ...)`, a row for each word of a name.

/// Names as they are compared: without regard to case, accents and width.
mod folding;

/// One row.
mod word;

/// The projection.
mod projection;

/// Searches, page by page.
mod read;

pub use folding::Prefix;
pub use projection::CustomerSearch;
pub use read::{Filter, Found, Key, Page, Sort, count, page};
