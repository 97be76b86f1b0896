//! The log for other programs: a page behind a position, whole or filtered, each event with all that
//! is known of it.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;

use super::payload;
use crate::events::customer::CUSTOMER;
use crate::events::upcast;
use crate::events::values::CustomerId;

/// How many positions a filtered call looks at, so that a filter that nothing meets costs
/// milliseconds; whoever reads on comes to the end all the same.
const SCAN_LIMIT: i64 = 10_000;

/// An event in today's version, and what stands beside it.
#[derive(Debug, Clone)]
pub struct FeedEvent {
    pub position: i64,
    pub aggregate_type: String,
    pub aggregate_id: String,
    pub sequence: i64,
    pub event_type: String,
    pub event_version: String,
    pub payload: String,
    pub metadata: String,
    pub recorded_at: DateTime<Utc>,
}

/// Which events are wanted; all when nothing is said.
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

/// Events in the order of their positions, and where to go on.
#[derive(Debug)]
pub struct Page {
    pub events: Vec<FeedEvent>,
    /// Everything up to here was looked at.
    pub next: i64,
}

/// Up to `limit` events behind `after` and not behind `head`.
///
/// # Errors
/// When PostgreSQL cannot be asked.
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
    let events = match filter.customer {
        Some(customer) => read_customer(executor, customer, (after, end), limit, filter).await?,
        None => read_all(executor, (after, end), limit, filter).await?,
    };
    let events: Vec<_> = events.into_iter().map(upcast_event).collect();
    let full = i64::try_from(events.len()).is_ok_and(|length| length >= limit);
    let next = events.last().filter(|_| full).map_or(end, |last| last.position);
    Ok(Page { events, next })
}

/// THE place where a stored event becomes one to show. What this program cannot read is passed on as
/// it stands, with the version that it was written in: a newer program's reader may know it.
fn upcast_event(mut event: FeedEvent) -> FeedEvent {
    let payload = payload::current(&event.event_type, &event.event_version, &event.payload);
    if let Ok(Cow::Owned(payload)) = payload {
        event.payload = payload;
        upcast::current_version(&event.event_type).clone_into(&mut event.event_version);
    }
    event
}

async fn read_all(
    executor: impl PgExecutor<'_>,
    (after, end): (i64, i64),
    limit: i64,
    filter: &Filter,
) -> Result<Vec<FeedEvent>, sqlx::Error> {
    sqlx::query_as!(
        FeedEvent,
        r#"select position, aggregate_type, aggregate_id, sequence, event_type, event_version,
                  payload::text as "payload!", metadata::text as "metadata!", recorded_at
           from events
           where position > $1 and position <= $2
             and ($3::text is null or event_type = $3)
             and ($4::text is null or metadata ->> 'actor' = $4)
           order by position
           limit $5"#,
        after,
        end,
        filter.event_type,
        filter.actor,
        limit
    )
    .fetch_all(executor)
    .await
}

/// By its stream: in one stream the order of sequences is the order of positions.
async fn read_customer(
    executor: impl PgExecutor<'_>,
    customer: CustomerId,
    (after, end): (i64, i64),
    limit: i64,
    filter: &Filter,
) -> Result<Vec<FeedEvent>, sqlx::Error> {
    sqlx::query_as!(
        FeedEvent,
        r#"select position, aggregate_type, aggregate_id, sequence, event_type, event_version,
                  payload::text as "payload!", metadata::text as "metadata!", recorded_at
           from events
           where aggregate_type = $1 and aggregate_id = $2 and position > $3 and position <= $4
             and ($5::text is null or event_type = $5)
             and ($6::text is null or metadata ->> 'actor' = $6)
           order by sequence
           limit $7"#,
        CUSTOMER,
        customer.to_string(),
        after,
        end,
        filter.event_type,
        filter.actor,
        limit
    )
    .fetch_all(executor)
    .await
}
