//! A rebuild's shadow tables are filled in parts, each in a transaction of its own: several at once,
//! and those that are done stay done when the rebuild is cut off.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future;
use sqlx::PgConnection;

use super::aside;
use super::others::{LOOK_EVERY, Others};
use super::parked::{self, How};
use super::run::Run;
use super::streams::{END, PAGE, Streams};
use super::{Place, Projection, ProjectionError, Tally};

/// Logs of fewer events are one part; from ten thousand times as many on parts are divided again.
const SMALL: i64 = 20_000;

/// How many parts are filled at once. That is work for PostgreSQL and for us in turn, so some more than
/// cores keep both busy.
const WORKERS: usize = 4;

/// How many events are taken at a time while others are at work, so that nothing is kept from them
/// for longer than a few milliseconds.
const SMALL_PAGE: i64 = 1000;

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

/// Fills what is not filled yet: several parts at once when nobody else is at work, else one after
/// the other. Parts that have begun run to their end, also when this is dropped; no more begin then.
pub(super) async fn fill(run: &Run, others: &Arc<Others>) -> Result<(), ProjectionError> {
    let parts = sqlx::query_as!(
        Part,
        "select from_id, to_id from rebuild_parts
         where projection = $1 and version = $2 and events is null
         order by from_id",
        run.projection.name(),
        run.projection.version()
    )
    .fetch_all(&run.pool)
    .await?;
    let workers = WORKERS.min(parts.len());
    let waiting = Waiting(Arc::new(Mutex::new(parts.into())));
    let _none_begins_behind_this = NoMore(waiting.clone());
    let filling = (0..workers).map(|number| {
        let (run, others, waiting) = (run.clone(), Arc::clone(others), NoMore(waiting.clone()));
        aside::run(move || fill_some(number, run, others, waiting))
    });
    for filled in future::join_all(filling).await {
        // One that panics, or has no thread, takes the rebuild with it.
        filled.map_err(|_| sqlx::Error::WorkerCrashed)??;
    }
    Ok(())
}

/// The parts that nobody has begun to fill.
#[derive(Clone)]
struct Waiting(Arc<Mutex<VecDeque<Part>>>);

impl Waiting {
    fn parts(&self) -> MutexGuard<'_, VecDeque<Part>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leaves none of them when it is dropped: who ends before the last one is begun ends all.
struct NoMore(Waiting);

impl Drop for NoMore {
    fn drop(&mut self) {
        self.0.parts().clear();
    }
}

/// Fills one waiting part after the other, on a connection of its own.
async fn fill_some(
    number: usize,
    run: Run,
    others: Arc<Others>,
    waiting: NoMore,
) -> Result<(), ProjectionError> {
    let run = run.on_one_connection();
    let parts = || waiting.0.parts();
    let filled = async {
        loop {
            while number > 0 && others.at_work() && !parts().is_empty() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            let Some(part) = parts().pop_front() else { return Ok(()) };
            part.fill(&run, &others).await?;
        }
    };
    let filled = filled.await;
    run.pool.close().await;
    filled
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
    async fn fill(&self, run: &Run, others: &Others) -> Result<(), ProjectionError> {
        match self.fill_with(run, others, false).await {
            Err(error) if error.is_of_an_event() => self.fill_with(run, others, true).await,
            filled => filled,
        }
    }

    /// With care, what cannot be copied is looked for and parked.
    async fn fill_with(
        &self,
        run: &Run,
        others: &Others,
        with_care: bool,
    ) -> Result<(), ProjectionError> {
        let (projection, place, how) = (run.projection, Place::Shadow, How::Fill);
        let mut transaction = run.transaction().await?;
        place.enter(&mut transaction).await?;
        let mut streams = Streams::new(&self.from_id, &self.to_id, run.target);
        let (mut events, mut tally) = (0, Tally::default());
        loop {
            streams.take(if others.at_work() { SMALL_PAGE } else { PAGE });
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
