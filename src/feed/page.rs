//! Pages of the feed: the events after a position, all or filtered, each in the current version of its
//! format.

use std::borrow::Cow;

use sqlx::PgExecutor;

use crate::events::log::{StoredEvent, payload, read};
use crate::events::upcast;
use crate::events::values::CustomerId;

/// How many positions a filtered call scans, so that a filter without a match costs milliseconds. A
/// client that continues at [`Page::next`] still reaches the end of the log.
const SCAN_LIMIT: i64 = 10_000;

/// Selects the events of a page; an absent member matches every event.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub event_type: Option<String>,
    pub customer: Option<CustomerId>,
    pub actor: Option<String>,
}

impl Filter {
    fn is_empty(&self) -> bool {
        self.event_type.is_none() && self.customer.is_none() && self.actor.is_none()
    }
}

/// Events in the order of their positions.
#[derive(Debug)]
pub struct Page {
    pub events: Vec<StoredEvent>,
    /// The position after which the next page begins: everything up to it was scanned.
    pub next: i64,
}

/// Up to `limit` events after `after` and up to `head` that match.
pub async fn page(
    executor: impl PgExecutor<'_>,
    after: i64,
    head: i64,
    limit: i64,
    filter: &Filter,
) -> Result<Page, sqlx::Error> {
    // A customer's stream is short and has an index of its own.
    let bounded = !filter.is_empty() && filter.customer.is_none();
    let end = if bounded { head.min(after.saturating_add(SCAN_LIMIT)) } else { head };
    let (range, event_type, actor) =
        ((after, end), filter.event_type.as_deref(), filter.actor.as_deref());
    let events = match filter.customer {
        Some(customer) => {
            read::matching_of_customer(executor, customer, range, limit, event_type, actor).await?
        }
        None => read::matching(executor, range, limit, event_type, actor).await?,
    };
    let events: Vec<_> = events.into_iter().map(upcast_event).collect();
    let full = i64::try_from(events.len()).is_ok_and(|length| length >= limit);
    let next = events.last().filter(|_| full).map_or(end, |last| last.position);
    Ok(Page { events, next })
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
