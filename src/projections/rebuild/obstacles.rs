//! Objects of other users of the database that cannot survive the exchange of a read table's partition. The
//! kinds are in `read_table_obstacles` (migration 0013); views and grants are none.

use crate::postgres::Pool;

use super::error::RebuildError;
use crate::projections::projection::Projection;
use crate::projections::table_slot::TableSlot;

/// Fails with the name of each obstacle. With `source`, also with what the table in that slot lacks.
pub(super) async fn refuse(
    projection: &dyn Projection,
    pool: &Pool,
    source: Option<TableSlot>,
) -> Result<(), RebuildError> {
    let obstacles = sqlx::query_scalar!(
        r#"select object as "object!" from read_table_obstacles($1, $2, $3) o (object)"#,
        projection.name(),
        projection.version(),
        source.map(TableSlot::as_str)
    )
    .fetch_all(pool)
    .await?;
    if obstacles.is_empty() { Ok(()) } else { Err(RebuildError::Obstructed(obstacles)) }
}
