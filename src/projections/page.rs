//! One page of the log, applied to the table in any slot.

use super::parked::{self, WriteMode};
use super::projection::{Projection, ProjectionError};
use super::table_slot::TableSlot;
use crate::events::log::{StoredEvent, read};
use crate::postgres::Connection;

/// How a page is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PageMode {
    /// The whole page at once; an event that fails makes the page fail.
    Whole,
    /// Customers whose events fail are isolated and parked.
    Isolate,
}

/// A page to apply.
pub(super) struct PageStep {
    pub(super) slot: TableSlot,
    pub(super) mode: PageMode,
    pub(super) has_parked: bool,
}

/// The result of a page.
pub(super) struct Advanced {
    pub(super) checkpoint: i64,
    /// The page had as many events as it may have: more may follow.
    pub(super) was_full: bool,
}

impl PageStep {
    /// Applies up to `limit` events after `checkpoint`; `None` when there are none. The caller moves
    /// the checkpoint.
    pub(super) async fn advance(
        &self,
        projection: &dyn Projection,
        db: &mut Connection,
        checkpoint: i64,
        limit: i64,
    ) -> Result<Option<Advanced>, ProjectionError> {
        let page = read::page(&mut *db, checkpoint, limit).await?;
        let Some(last) = page.last().map(|event| event.position) else { return Ok(None) };
        let was_full = i64::try_from(page.len()).is_ok_and(|length| length == limit);
        self.apply(projection, db, page).await?;
        Ok(Some(Advanced { checkpoint: last, was_full }))
    }

    /// Applies the events that follow the checkpoint. The caller moves it.
    pub(super) async fn apply(
        &self,
        projection: &dyn Projection,
        db: &mut Connection,
        mut page: Vec<StoredEvent>,
    ) -> Result<(), ProjectionError> {
        if self.has_parked {
            page = parked::exclude_parked(projection, db, self.slot, page).await?;
        }
        match self.mode {
            PageMode::Whole => projection.apply(db, &page).await?,
            PageMode::Isolate => {
                parked::apply_or_park(projection, db, self.slot, WriteMode::Apply, page).await?;
            }
        }
        Ok(())
    }
}
