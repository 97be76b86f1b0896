//! What a run of events leaves of each customer.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::projection::ProjectionError;
use crate::events::customer::{CustomerEvent, CustomerValues};
use crate::events::log::StoredEvent;

/// The last state of one customer after a run of events.
#[derive(Debug, Clone, Default)]
pub(super) struct Change {
    /// `None` when the last event deleted the customer.
    pub(super) present: Option<CustomerValues>,
    pub(super) version: i64,
    /// Known when the run has the customer's first event.
    pub(super) created_at: Option<DateTime<Utc>>,
    /// Whether the run restores the customer: before it, the table may have no row.
    pub(super) is_restored: bool,
    pub(super) updated_at: DateTime<Utc>,
}

impl Change {
    pub(super) fn is_new(&self) -> bool {
        self.created_at.is_some()
    }
}

/// Folds a page to its last change of each customer. Events of accounts are skipped.
pub(super) fn fold(page: &[StoredEvent]) -> Result<BTreeMap<i64, Change>, ProjectionError> {
    let mut changes: BTreeMap<i64, Change> = BTreeMap::new();
    for stored in page {
        let Some(id) = stored.customer() else { continue };
        let event = stored
            .decode()
            .map_err(|source| ProjectionError::Decode { position: stored.position, source })?;
        let change = changes.entry(id.get()).or_default();
        change.version = stored.sequence;
        change.updated_at = stored.recorded_at;
        match &event {
            CustomerEvent::CustomerCreated { .. } => change.created_at = Some(stored.recorded_at),
            CustomerEvent::CustomerRestored { .. } => change.is_restored = true,
            CustomerEvent::CustomerUpdated { .. } | CustomerEvent::CustomerDeleted {} => {}
        }
        change.present = event.into_values();
    }
    Ok(changes)
}
