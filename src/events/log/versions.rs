//! Single versions of a customer.

use sqlx::PgExecutor;

use super::StoredEvent;
use crate::events::customer::CUSTOMER;
use crate::events::values::CustomerId;

/// The event that has made a version of the customer; `None` without such a version.
pub async fn event_of(
    executor: impl PgExecutor<'_>,
    id: CustomerId,
    version: i64,
) -> Result<Option<StoredEvent>, sqlx::Error> {
    sqlx::query_as!(
        StoredEvent,
        r#"select position, aggregate_type, aggregate_id, sequence, event_type, event_version,
                  payload::text as "payload!", metadata::text as "metadata!", recorded_at
           from events where aggregate_type = $1 and aggregate_id = $2 and sequence = $3"#,
        CUSTOMER,
        id.to_string(),
        version
    )
    .fetch_optional(executor)
    .await
}
