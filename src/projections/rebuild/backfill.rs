//! Backfills the shadow table from the log, partition by partition, several at once.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future;

use super::attempt::Attempt;
use super::load_probe::{LoadProbe, PROBE_INTERVAL};
use super::low_priority_thread;
use super::partition::{self, Partition};
use crate::projections::checksum::Checksum;
use crate::projections::parked::{self, WriteMode};
use crate::projections::projection::ProjectionError;
use crate::projections::stream_reader::{PAGE, StreamReader};
use crate::projections::table_slot::TableSlot;

/// How many partitions are backfilled at once. A partition alternates between PostgreSQL and this process,
/// so a few more workers than cores keep both busy.
const WORKERS: usize = 4;

/// How many events are read at a time while the database has other load, so that no request waits
/// for longer than a few milliseconds.
const SMALL_PAGE: i64 = 1000;

/// Backfills the partitions that are not done: several at once while the database has no other load,
/// else one after the other. Partitions that have begun run to their end, even if this future is
/// dropped; no further partition begins then.
pub(super) async fn run(attempt: &Attempt, load: &Arc<LoadProbe>) -> Result<(), ProjectionError> {
    let partitions = partition::pending(attempt.projection, &attempt.pool).await?;
    let workers = WORKERS.min(partitions.len());
    let queue = Queue(Arc::new(Mutex::new(partitions.into())));
    let _stop_on_drop = ClearOnDrop(queue.clone());
    let working = (0..workers).map(|number| {
        let (attempt, load, queue) =
            (attempt.clone(), Arc::clone(load), ClearOnDrop(queue.clone()));
        low_priority_thread::run(move || work(number, attempt, load, queue))
    });
    for worked in future::join_all(working).await {
        // If a worker panics or gets no thread, the attempt fails.
        worked.map_err(|_| sqlx::Error::WorkerCrashed)??;
    }
    Ok(())
}

/// The partitions that no worker has begun.
#[derive(Clone)]
struct Queue(Arc<Mutex<VecDeque<Partition>>>);

impl Queue {
    fn partitions(&self) -> MutexGuard<'_, VecDeque<Partition>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Empties the queue on drop, so that a failed worker stops the other workers.
struct ClearOnDrop(Queue);

impl Drop for ClearOnDrop {
    fn drop(&mut self) {
        self.0.partitions().clear();
    }
}

/// Backfills one partition after the other, on a connection of its own.
async fn work(
    number: usize,
    attempt: Attempt,
    load: Arc<LoadProbe>,
    queue: ClearOnDrop,
) -> Result<(), ProjectionError> {
    let attempt = attempt.on_own_connection();
    let partitions = || queue.0.partitions();
    let working = async {
        loop {
            while number > 0 && load.is_busy() && !partitions().is_empty() {
                tokio::time::sleep(PROBE_INTERVAL).await;
            }
            let Some(partition) = partitions().pop_front() else { return Ok(()) };
            backfill(&partition, &attempt, &load).await?;
        }
    };
    let worked = working.await;
    attempt.pool.close().await;
    worked
}

async fn backfill(
    partition: &Partition,
    attempt: &Attempt,
    load: &LoadProbe,
) -> Result<(), ProjectionError> {
    match backfill_once(partition, attempt, load, false).await {
        Err(error) if error.is_event_error() => backfill_once(partition, attempt, load, true).await,
        backfilled => backfilled,
    }
}

/// Backfills the partition in one transaction; with `isolate`, customers whose events fail are parked.
async fn backfill_once(
    partition: &Partition,
    attempt: &Attempt,
    load: &LoadProbe,
    isolate: bool,
) -> Result<(), ProjectionError> {
    let (projection, slot, mode) = (attempt.projection, TableSlot::Shadow, WriteMode::Backfill);
    let mut transaction = attempt.transaction().await?;
    slot.enter(&mut transaction).await?;
    let mut reader = StreamReader::new(&partition.from_id, &partition.to_id, attempt.target);
    let (mut events, mut checksum) = (0, Checksum::default());
    loop {
        reader.set_page(if load.is_busy() { SMALL_PAGE } else { PAGE });
        let page = reader.next(&mut transaction).await?;
        if page.is_empty() {
            break;
        }
        events += i64::try_from(page.len()).unwrap_or(i64::MAX);
        checksum += if isolate {
            parked::apply_or_park(projection, &mut transaction, slot, mode, page).await?
        } else {
            mode.write(projection, &mut transaction, &page).await?
        };
    }
    partition.complete(projection, &mut transaction, events, checksum).await?;
    Ok(transaction.commit().await?)
}
