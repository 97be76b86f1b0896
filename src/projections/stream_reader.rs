//! Reads the log stream by stream, in pages of whole streams: each page folds by itself, so memory stays
//! flat however long the log is.

use crate::events::log::{StoredEvent, read};
use crate::events::values::CustomerId;
use crate::postgres::Connection;

/// How many events are read at a time by default.
pub(super) const PAGE: i64 = 10_000;

/// Sorts after every id: ids are numbers, and every collation has digits before letters.
pub(super) const END: &str = "z";

/// Reads the streams from one aggregate id up to another, as far as a position.
pub(super) struct StreamReader {
    /// The last event read, as (aggregate id, sequence).
    after: (String, i64),
    to: String,
    position: i64,
    page: i64,
    /// Events of the last stream read, which may have more.
    pending: Vec<StoredEvent>,
    is_complete: bool,
}

impl StreamReader {
    pub(super) fn new(from: &str, to: &str, position: i64) -> Self {
        Self {
            after: (from.to_owned(), 0),
            to: to.to_owned(),
            position,
            page: PAGE,
            pending: vec![],
            is_complete: false,
        }
    }

    /// Sets how many events are read at a time from now on.
    pub(super) fn set_page(&mut self, page: i64) {
        self.page = page;
    }

    /// The next whole streams; empty after the last.
    pub(super) async fn next(
        &mut self,
        db: &mut Connection,
    ) -> Result<Vec<StoredEvent>, sqlx::Error> {
        while !self.is_complete {
            let (id, sequence) = &self.after;
            let page = read::streams(&mut *db, (id, *sequence), &self.to, self.position, self.page)
                .await?;
            self.is_complete = i64::try_from(page.len()).is_ok_and(|length| length < self.page);
            self.pending.extend(page);
            let Some(last) = self.pending.last() else { break };
            self.after = (last.aggregate_id.clone(), last.sequence);
            let whole = self.pending.partition_point(|event| event.aggregate_id != self.after.0);
            if !self.is_complete && whole > 0 {
                let rest = self.pending.split_off(whole);
                return Ok(std::mem::replace(&mut self.pending, rest));
            }
        }
        Ok(std::mem::take(&mut self.pending))
    }
}

/// The customers of a page, each once.
pub(super) fn customers_of(page: &[StoredEvent]) -> Vec<i64> {
    let mut ids: Vec<i64> =
        page.iter().filter_map(StoredEvent::customer).map(CustomerId::get).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}
