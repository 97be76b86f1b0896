//! Reads the events of the log that a filter selects. Each statement goes by one index: that of the positions, or that
//! of a customer's stream, of a request or of a session.

use sqlx::PgExecutor;

use super::filter::Filter;
use super::stored_event::StoredEvent;
use crate::events::customer::CUSTOMER;
use crate::events::values::CustomerId;

/// Fetches up to `$limit` matching events. `$index` is the condition that an index answers, with its parameters from $8
/// on, and `$order` the order of that index, which is that of the positions.
macro_rules! fetch_matching {
    ($executor:expr, $limit:expr, $filter:expr, $index:tt, $order:tt, $($parameter:expr),*) => {{
        let filter: &Filter = $filter;
        sqlx::query_as!(
            StoredEvent,
            r#"select position, aggregate_type, aggregate_id, sequence, event_type, event_version,
                      payload::text as "payload!", metadata::text as "metadata!", recorded_at
               from events
               where "# + $index + r#"
                 and ($2::text is null or aggregate_type = $2)
                 and (cardinality($3::text[]) = 0 or event_type = any($3))
                 and ($4::text is null or metadata ->> 'actor' = $4)
                 and ($5::text is null or metadata ->> 'request_id' = $5)
                 and ($6::text is null or metadata ->> 'session' = $6)
                 and (aggregate_type = 'customer' or not $7::bool)
               order by "# + $order + r#"
               limit $1"#,
            $limit,
            filter.aggregate_type,
            &filter.event_types,
            filter.actor.as_deref(),
            filter.request_id.as_deref(),
            filter.session.as_deref(),
            filter.only_customers,
            $($parameter),*
        )
        .fetch_all($executor)
        .await
    }};
}

/// Up to `limit` events after `after` and up to `end` that match, in the order of their positions. Reads the whole range
/// in the worst case.
pub async fn matching(
    executor: impl PgExecutor<'_>,
    (after, end): (i64, i64),
    limit: i64,
    filter: &Filter,
) -> Result<Vec<StoredEvent>, sqlx::Error> {
    fetch_matching!(
        executor,
        limit,
        filter,
        "position > $8 and position <= $9",
        "position",
        after,
        end
    )
}

/// As [`matching`], for one customer: reads the customer's stream, in which the order of sequences is the
/// order of positions.
pub async fn of_customer(
    executor: impl PgExecutor<'_>,
    customer: CustomerId,
    (after, end): (i64, i64),
    limit: i64,
    filter: &Filter,
) -> Result<Vec<StoredEvent>, sqlx::Error> {
    fetch_matching!(
        executor,
        limit,
        filter,
        "aggregate_type = $10 and aggregate_id = $11 and position > $8 and position <= $9",
        "sequence",
        after,
        end,
        CUSTOMER,
        customer.to_string()
    )
}

/// As [`matching`], of the events at these positions.
pub async fn at(
    executor: impl PgExecutor<'_>,
    positions: &[i64],
    limit: i64,
    filter: &Filter,
) -> Result<Vec<StoredEvent>, sqlx::Error> {
    fetch_matching!(executor, limit, filter, "position = any($8)", "position", positions)
}

/// The positions of up to `number` events of a request, after `after` and up to `end`, in their order.
pub async fn positions_of_request(
    executor: impl PgExecutor<'_>,
    request_id: &str,
    (after, end): (i64, i64),
    number: i64,
) -> Result<Vec<i64>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select found as "found!" from positions_of_request($1, $2, $3, $4) as found"#,
        request_id,
        after,
        end,
        number
    )
    .fetch_all(executor)
    .await
}

/// The same of a session.
pub async fn positions_of_session(
    executor: impl PgExecutor<'_>,
    session: &str,
    (after, end): (i64, i64),
    number: i64,
) -> Result<Vec<i64>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select found as "found!" from positions_of_session($1, $2, $3, $4) as found"#,
        session,
        after,
        end,
        number
    )
    .fetch_all(executor)
    .await
}
