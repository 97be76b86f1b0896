//! Counts the rows that differ between the rebuilt table and the live one.

use super::load_probe::LoadProbe;
use crate::postgres::Pool;
use crate::postgres::transaction;
use crate::projections::checkpoint::checkpoint_of;
use crate::projections::projection::{Projection, ProjectionError};

/// The number of rows that differ between the shadow table and the live one, or that only one of them
/// has; without the rows of customers with events that only one of the tables has applied.
pub(super) async fn count_differences(
    projection: &dyn Projection,
    pool: &Pool,
    load: &LoadProbe,
) -> Result<i64, ProjectionError> {
    let mut transaction = transaction::begin(pool).await?;
    // At checkpoint 0 the live table is empty, so there is nothing to compare.
    if checkpoint_of(projection, &mut *transaction).await? == 0 {
        return Ok(0);
    }
    load.limit_parallelism(&mut transaction).await?;
    let (table, key, columns) =
        (projection.table(), projection.key()[0], projection.key().join(", "));
    // All customers may be touched: a `not in` would scan the touched ones for each row as soon as they do
    // not fit into work_mem.
    let question = format!(
        "with between_them as (
             select least(p.checkpoint, s.checkpoint) as low,
                    greatest(p.checkpoint, s.checkpoint) as high
             from projections p, spare_tables s
             where p.name = $1 and p.version = $2
               and (s.projection, s.version, s.place) = ($1, $2, 'shadow')
         ), differing as materialized (
             select {key}::text as id
             from public.{table} served full join shadow.{table} rebuilt using ({columns})
             where served is distinct from rebuilt
         ), touched as materialized (
             select distinct e.aggregate_id as id from events e, between_them b
             where e.position > b.low and e.position <= b.high
               and e.aggregate_type = 'customer'
         )
         select count(*) from differing d left join touched t using (id) where t.id is null"
    );
    Ok(sqlx::query_scalar(&question)
        .bind(projection.name())
        .bind(projection.version())
        .fetch_one(&mut *transaction)
        .await?)
}
