//! Changes of signing keys, as events (migration 0022).

use sqlx::PgExecutor;

use super::payload::{EncodedMetadata, NewEvent};
use crate::clock;
use crate::events::installation::InstallationEvent;
use crate::events::metadata::Metadata;

/// Appends the event of a change; returns its position. The keys are files, so the change is made before.
pub async fn record(
    executor: impl PgExecutor<'_>,
    event: &InstallationEvent,
    metadata: Metadata,
) -> Result<i64, sqlx::Error> {
    let (event, metadata) = (NewEvent::from(event), EncodedMetadata::from(metadata));
    sqlx::query_scalar!(
        r#"select record_key_change($1, $2, $3) as "position!""#,
        clock::new_id(),
        event.payload,
        metadata.as_str()
    )
    .fetch_one(executor)
    .await
}
