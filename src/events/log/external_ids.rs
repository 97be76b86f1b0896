//! External ids, and the customers that have them: a table that the append functions keep (migration 0016).

use sqlx::PgExecutor;

use crate::events::external_id::ExternalId;
use crate::events::values::CustomerId;

/// The customer that has the external id.
pub async fn holder(
    executor: impl PgExecutor<'_>,
    external_id: &ExternalId,
) -> Result<Option<CustomerId>, sqlx::Error> {
    let id = sqlx::query_scalar!(
        "select aggregate_id from external_ids where external_id = $1",
        external_id.as_str()
    )
    .fetch_optional(executor)
    .await?;
    Ok(id.and_then(|id| CustomerId::parse(&id).ok()))
}
