//! A rebuild's shadow tables are filled in parts, each in a transaction of its own: several at once,
//! and those that are done stay done when the rebuild is cut off.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use sqlx::{PgConnection, PgPool};
use tokio_util::task::AbortOnDropHandle;

use super::parked::{self, How};
use super::streams::{END, Streams};
use super::{Place, Projection, ProjectionError, Tally};

/// Logs of fewer events are one part; from ten thousand times as many on parts are divided again.
const SMALL: i64 = 20_000;

/// The streams from one aggregate_id up to another.
struct Part {
    from_id: String,
    to_id: String,
}

/// Writes down the parts of the log up to `target`: by the first digits of the id, as the numbers of
/// customers that begin with them are about the same.
pub(super) async fn plan(
    projection: &dyn Projection,
    db: &mut PgConnection,
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

/// Fills what is not filled yet, `workers` parts at once.
pub(super) async fn fill(
    projection: &'static dyn Projection,
    pool: &PgPool,
    target: i64,
    workers: usize,
) -> Result<(), ProjectionError> {
    let parts = sqlx::query_as!(
        Part,
        "select from_id, to_id from rebuild_parts
         where projection = $1 and version = $2 and events is null
         order by from_id",
        projection.name(),
        projection.version()
    )
    .fetch_all(pool)
    .await?;
    stream::iter(parts)
        .map(|part| {
            let pool = pool.clone();
            let task = async move { part.fill(projection, &pool, target).await };
            let task = AbortOnDropHandle::new(tokio::spawn(task));
            // A task that panics takes the rebuild with it.
            async move { task.await.map_err(|_| sqlx::Error::WorkerCrashed)? }
        })
        .buffer_unordered(workers)
        .try_collect()
        .await
}

/// What all parts have copied.
pub(super) async fn copied(
    projection: &dyn Projection,
    db: &mut PgConnection,
) -> Result<Tally, ProjectionError> {
    let row = sqlx::query!(
        r#"select coalesce(sum(rows), 0)::bigint as "rows!",
                  coalesce(sum(checksum), 0)::text as "checksum!"
           from rebuild_parts where projection = $1 and version = $2"#,
        projection.name(),
        projection.version()
    )
    .fetch_one(db)
    .await?;
    Ok(Tally::of_table(row.rows, &row.checksum)?)
}

impl Part {
    async fn fill(
        &self,
        projection: &dyn Projection,
        pool: &PgPool,
        target: i64,
    ) -> Result<(), ProjectionError> {
        match self.fill_with(projection, pool, target, false).await {
            Err(error) if error.is_of_an_event() => {
                self.fill_with(projection, pool, target, true).await
            }
            filled => filled,
        }
    }

    /// With care, what cannot be copied is looked for and parked.
    async fn fill_with(
        &self,
        projection: &dyn Projection,
        pool: &PgPool,
        target: i64,
        with_care: bool,
    ) -> Result<(), ProjectionError> {
        let (place, how) = (Place::Shadow, How::Fill);
        let mut transaction = pool.begin().await?;
        place.enter(&mut transaction).await?;
        let mut streams = Streams::new(&self.from_id, &self.to_id, target);
        let (mut events, mut tally) = (0, Tally::default());
        loop {
            let page = streams.next(&mut transaction).await?;
            if page.is_empty() {
                break;
            }
            events += i64::try_from(page.len()).unwrap_or(i64::MAX);
            tally += if with_care {
                parked::take_or_park(projection, &mut transaction, place, how, page).await?
            } else {
                how.take(projection, &mut transaction, &page).await?
            };
        }
        sqlx::query!(
            "update rebuild_parts set events = $4, rows = $5, checksum = $6::text::numeric
             where projection = $1 and version = $2 and from_id = $3",
            projection.name(),
            projection.version(),
            self.from_id,
            events,
            tally.rows,
            tally.checksum.to_string()
        )
        .execute(&mut *transaction)
        .await?;
        Ok(transaction.commit().await?)
    }
}
