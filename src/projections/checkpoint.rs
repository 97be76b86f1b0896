//! How far a projection is, and who may move that: its row is locked by who takes a page, and a lock of
//! its own is held by who rebuilds it.

use sqlx::PgConnection;

use super::{Projection, ProjectionError};

/// The first half of the advisory locks that rebuilds hold: the word "cust" in ASCII.
pub(super) const REBUILDS: i32 = 0x6375_7374;

/// The second half of the lock: one per projection and version.
pub(super) fn lock_of(projection: &dyn Projection) -> i32 {
    let name = projection.name().bytes();
    // FNV-1a; only differing names matter.
    let hash =
        name.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619));
    let hash = hash.wrapping_add(projection.version().unsigned_abs()) & 0x7fff_ffff;
    i32::try_from(hash).unwrap_or_default()
}

/// Waits for the projection's row and keeps it: until the transaction ends, nobody takes a page.
pub(super) async fn lock(
    projection: &dyn Projection,
    transaction: &mut PgConnection,
) -> Result<(), ProjectionError> {
    sqlx::query!(
        "select from projections where name = $1 and version = $2 for update",
        projection.name(),
        projection.version()
    )
    .fetch_optional(transaction)
    .await?
    .map(drop)
    .ok_or(ProjectionError::Unknown(projection.name()))
}

/// The position that the projection has applied.
///
/// # Errors
/// When PostgreSQL cannot be asked or does not know the projection.
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
    .ok_or(ProjectionError::Unknown(projection.name()))
}

/// Moves the checkpoint, in the transaction that wrote the rows.
pub(super) async fn set_checkpoint(
    db: &mut PgConnection,
    projection: &dyn Projection,
    position: i64,
) -> Result<(), ProjectionError> {
    let moved = sqlx::query!(
        "update projections set checkpoint = $3 where name = $1 and version = $2",
        projection.name(),
        projection.version(),
        position
    )
    .execute(db)
    .await?
    .rows_affected();
    if moved == 1 { Ok(()) } else { Err(ProjectionError::Unknown(projection.name())) }
}
