//! The partitions of a backfill: ranges of streams, each backfilled in one transaction, so that several
//! workers share them and an interrupted rebuild keeps those that are done.

use crate::postgres::{Connection, Pool};
use crate::projections::checksum::Checksum;
use crate::projections::projection::Projection;
use crate::projections::stream_reader::END;

/// A log of fewer events is one partition; from 10,000,000 events on partitions are divided again.
const SMALL: i64 = 20_000;

/// The streams from one aggregate id up to another, the second excluded.
pub(super) struct Partition {
    pub(super) from_id: String,
    pub(super) to_id: String,
}

/// Stores the partitions of the log up to `target`: by the first digits of the id, since about as many
/// customers begin with each.
pub(super) async fn plan(
    projection: &dyn Projection,
    db: &mut Connection,
    target: i64,
) -> Result<(), sqlx::Error> {
    let digits = match target {
        ..SMALL => 0..0,
        SMALL..10_000_000 => 11..100,
        _ => 101..1000,
    };
    let mut bounds = vec![String::new()];
    bounds.extend(digits.map(|digits| digits.to_string()));
    bounds.push(END.to_owned());
    sqlx::query!(
        "insert into rebuild_parts (projection, version, from_id, to_id)
         select $1, $2, * from unnest($3::text[], $4::text[])",
        projection.name(),
        projection.version(),
        &bounds[..bounds.len() - 1],
        &bounds[1..]
    )
    .execute(db)
    .await?;
    Ok(())
}

/// The partitions that are not done.
pub(super) async fn pending(
    projection: &dyn Projection,
    pool: &Pool,
) -> Result<Vec<Partition>, sqlx::Error> {
    sqlx::query_as!(
        Partition,
        "select from_id, to_id from rebuild_parts
         where projection = $1 and version = $2 and events is null
         order by from_id",
        projection.name(),
        projection.version()
    )
    .fetch_all(pool)
    .await
}

/// The checksum of the rows that all partitions have copied.
pub(super) async fn copied(
    projection: &dyn Projection,
    db: &mut Connection,
) -> Result<Checksum, sqlx::Error> {
    let row = sqlx::query!(
        r#"select coalesce(sum(rows), 0)::bigint as "rows!",
                  coalesce(sum(checksum), 0)::text as "checksum!"
           from rebuild_parts where projection = $1 and version = $2"#,
        projection.name(),
        projection.version()
    )
    .fetch_one(db)
    .await?;
    Checksum::stored(row.rows, &row.checksum)
}

impl Partition {
    /// Stores that the partition is done, in the transaction that copied its rows.
    pub(super) async fn complete(
        &self,
        projection: &dyn Projection,
        transaction: &mut Connection,
        events: i64,
        checksum: Checksum,
    ) -> Result<(), sqlx::Error> {
        sqlx::query!(
            "update rebuild_parts set events = $4, rows = $5, checksum = $6::text::numeric
             where projection = $1 and version = $2 and from_id = $3",
            projection.name(),
            projection.version(),
            self.from_id,
            events,
            checksum.rows,
            checksum.sum.to_string()
        )
        .execute(transaction)
        .await?;
        Ok(())
    }
}
