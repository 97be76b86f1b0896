//! The position that a projection has applied. Its row is locked by the projector that applies a page.

use super::projection::{Projection, ProjectionError};
use crate::postgres::Connection;

/// Waits for the projection's row and locks it: until the transaction ends, no page is applied.
pub(super) async fn lock(
    projection: &dyn Projection,
    transaction: &mut Connection,
) -> Result<(), ProjectionError> {
    sqlx::query!(
        "select from projections where name = $1 and version = $2 for update",
        projection.name(),
        projection.version()
    )
    .fetch_optional(transaction)
    .await?
    .map(drop)
    .ok_or(ProjectionError::NotRegistered(projection.name()))
}

/// The position that the projection has applied; 0 before the first event.
pub async fn checkpoint_of(
    projection: &dyn Projection,
    db: impl sqlx::PgExecutor<'_>,
) -> Result<i64, ProjectionError> {
    sqlx::query_scalar!(
        "select checkpoint from projections where name = $1 and version = $2",
        projection.name(),
        projection.version()
    )
    .fetch_optional(db)
    .await?
    .ok_or(ProjectionError::NotRegistered(projection.name()))
}
