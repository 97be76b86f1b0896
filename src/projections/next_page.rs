//! The statements of a projector, prepared on its connection: the next page of the log, read in the statement that
//! locks the checkpoint's row, and the move of the checkpoint.

use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row as _};

use super::projection::Projection;
use crate::events::log::stored_event::{COLUMNS, StoredEvent};

/// Locks the checkpoint's row if it is free, and reads the events that follow: one row without an event, if there
/// are none, and no row, if another process holds the checkpoint's.
pub(super) const NEXT_PAGE: &str = "execute next_page";

/// Moves the checkpoint.
pub(super) fn move_checkpoint(position: i64) -> String {
    format!("execute move_checkpoint ({position})")
}

/// Prepares both, for pages of so many events.
pub(super) fn prepare(projection: &dyn Projection, limit: usize) -> String {
    // Name and version are constants of the program.
    let key = |of: &str| {
        format!("{of}name = '{}' and {of}version = {}", projection.name(), projection.version())
    };
    let (own, seen) = (key(""), key("seen."));
    format!(
        "prepare next_page as
         with own as (
             select checkpoint, name, version from projections where {own} for update skip locked
         )
         select own.checkpoint,
                (select seen.checkpoint from projections seen where {seen}) as seen_checkpoint,
                exists (select from parked_customers p
                        where p.projection = own.name and p.version = own.version
                          and p.place = 'public') as has_parked,
                page.*
         from own left join lateral (
             select {COLUMNS} from events
             where events.position > own.checkpoint order by events.position limit {limit}
         ) page on true;
         prepare move_checkpoint (bigint) as update projections set checkpoint = $1 where {own}"
    )
}

/// A row of the next page.
pub(super) struct PageRow {
    pub(super) checkpoint: i64,
    /// The checkpoint in the snapshot of the statement. A lower one than that of the locked row: another process has
    /// applied a page since the statement began, so the other columns may be too old.
    pub(super) seen_checkpoint: i64,
    /// Whether customers are parked.
    pub(super) has_parked: bool,
    pub(super) event: Option<StoredEvent>,
}

impl FromRow<'_, PgRow> for PageRow {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let has_event = row.try_get::<Option<i64>, _>(3)?.is_some();
        Ok(Self {
            checkpoint: row.try_get(0)?,
            seen_checkpoint: row.try_get(1)?,
            has_parked: row.try_get(2)?,
            event: has_event.then(|| StoredEvent::from_columns(row, 3)).transpose()?,
        })
    }
}
