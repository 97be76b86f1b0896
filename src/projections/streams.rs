//! Customer by customer through the log, in pages of whole streams: each page can be folded by
//! itself, so memory stays flat however long the log is.

use sqlx::PgConnection;

use crate::events::log::{StoredEvent, read};
use crate::events::values::CustomerId;

/// How many events are read at a time by default.
pub(super) const PAGE: i64 = 10_000;

/// Behind every id: ids are numbers, and every collation has digits before letters.
pub(super) const END: &str = "z";

/// The streams from one aggregate_id up to another, as far as a position.
pub(super) struct Streams {
    /// Where to read on: behind that event.
    behind: (String, i64),
    to: String,
    position: i64,
    page: i64,
    /// The last stream read, which may go on.
    waiting: Vec<StoredEvent>,
    is_over: bool,
}

impl Streams {
    pub(super) fn new(from: &str, to: &str, position: i64) -> Self {
        Self {
            behind: (from.to_owned(), 0),
            to: to.to_owned(),
            position,
            page: PAGE,
            waiting: vec![],
            is_over: false,
        }
    }

    /// Reads so many events at a time from now on.
    pub(super) fn take(&mut self, page: i64) {
        self.page = page;
    }

    /// The next whole streams; empty when there are no more.
    pub(super) async fn next(
        &mut self,
        db: &mut PgConnection,
    ) -> Result<Vec<StoredEvent>, sqlx::Error> {
        while !self.is_over {
            let (id, sequence) = &self.behind;
            let page = read::streams(&mut *db, (id, *sequence), &self.to, self.position, self.page)
                .await?;
            self.is_over = i64::try_from(page.len()).is_ok_and(|length| length < self.page);
            self.waiting.extend(page);
            let Some(last) = self.waiting.last() else { break };
            self.behind = (last.aggregate_id.clone(), last.sequence);
            let whole = self.waiting.partition_point(|event| event.aggregate_id != self.behind.0);
            if !self.is_over && whole > 0 {
                let rest = self.waiting.split_off(whole);
                return Ok(std::mem::replace(&mut self.waiting, rest));
            }
        }
        Ok(std::mem::take(&mut self.waiting))
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
