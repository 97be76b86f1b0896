//! The list of projections.

use super::customer_history::CustomerHistory;
use super::customer_search::CustomerSearch;
use super::customers::Customers;
use super::projection::Projection;

/// Every projection, one line each.
pub static ALL: [&'static dyn Projection; 3] = [&Customers, &CustomerHistory, &CustomerSearch];

/// The projection of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static dyn Projection> {
    ALL.into_iter().find(|projection| projection.name() == name)
}
