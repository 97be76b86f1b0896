//! Pages of the feed: the events after a position, all or filtered, each in the current version of its
//! format.

use std::borrow::Cow;

use sqlx::PgExecutor;

use crate::events::log::filter::Filter;
use crate::events::log::{StoredEvent, matching, payload};
use crate::events::upcast;

/// How many events a filtered call scans, so that a filter without a match costs milliseconds. A client that
/// continues at [`Page::next`] still reaches the end of the log.
const SCAN_LIMIT: i64 = 10_000;

/// The positions of a page: after `after`, up to `head`, and up to `until` if the client has asked for no later ones.
#[derive(Debug, Clone, Copy)]
pub struct Stretch {
    pub after: i64,
    pub head: i64,
    pub until: Option<i64>,
}

/// Events in the order of their positions.
#[derive(Debug)]
pub struct Page {
    pub events: Vec<StoredEvent>,
    /// The position after which the next page begins: everything up to it was scanned. The head, if nothing up to it
    /// can match any more.
    pub next: i64,
}

/// Up to `limit` events of the stretch that match.
pub async fn page(
    executor: impl PgExecutor<'_> + Copy,
    stretch: Stretch,
    limit: i64,
    filter: &Filter,
) -> Result<Page, sqlx::Error> {
    let Stretch { after, head, until } = stretch;
    let last = until.map_or(head, |until| until.min(head));
    let (events, end) = match filter {
        // A customer's stream is short.
        Filter { customer: Some(customer), .. } => {
            let range = (after, last);
            (matching::of_customer(executor, *customer, range, limit, filter).await?, last)
        }
        Filter { request_id: Some(request), .. } => {
            let number = scanned(limit, is_more_than(filter, Some(request), None));
            let range = (after, last);
            let found = matching::positions_of_request(executor, request, range, number).await?;
            at(executor, &found, (number, last), limit, filter).await?
        }
        Filter { session: Some(session), .. } => {
            let number = scanned(limit, is_more_than(filter, None, Some(session)));
            let range = (after, last);
            let found = matching::positions_of_session(executor, session, range, number).await?;
            at(executor, &found, (number, last), limit, filter).await?
        }
        _ => {
            let is_bounded = !filter.is_empty();
            let end = if is_bounded { last.min(after.saturating_add(SCAN_LIMIT)) } else { last };
            (matching::matching(executor, (after, end), limit, filter).await?, end)
        }
    };
    let events: Vec<_> = events.into_iter().map(upcast_event).collect();
    let is_full = i64::try_from(events.len()).is_ok_and(|length| length >= limit);
    let next = match events.last().filter(|_| is_full) {
        Some(last) => last.position,
        None if end == last => head,
        None => end,
    };
    Ok(Page { events, next })
}

/// How many events of an index are scanned: those of the page, unless others of them may not match.
fn scanned(limit: i64, is_filtered: bool) -> i64 {
    if is_filtered { SCAN_LIMIT } else { limit }
}

/// The events at the positions that an index has found, and the position up to which that is all: the last of them, if
/// there are `number`, else `last`.
async fn at(
    executor: impl PgExecutor<'_>,
    found: &[i64],
    (number, last): (i64, i64),
    limit: i64,
    filter: &Filter,
) -> Result<(Vec<StoredEvent>, i64), sqlx::Error> {
    let Some(last_found) = found.last() else { return Ok((vec![], last)) };
    let is_all = i64::try_from(found.len()).is_ok_and(|length| length < number);
    let end = if is_all { last } else { *last_found };
    Ok((matching::at(executor, found, limit, filter).await?, end))
}

/// Whether the filter asks for more than this request or session.
fn is_more_than(filter: &Filter, request_id: Option<&str>, session: Option<&str>) -> bool {
    let (request_id, session) = (request_id.map(str::to_owned), session.map(str::to_owned));
    *filter != Filter { request_id, session, ..Filter::default() }
}

/// Converts an event to the current version. An event that this program cannot decode keeps its stored
/// payload and version, because a newer consumer may decode it.
fn upcast_event(mut event: StoredEvent) -> StoredEvent {
    let payload = payload::current(&event.event_type, &event.event_version, &event.payload);
    if let Ok(Cow::Owned(payload)) = payload {
        event.payload = payload;
        upcast::current_version(&event.event_type).clone_into(&mut event.event_version);
    }
    event
}
