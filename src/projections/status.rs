//! Checkpoint, lag and rebuild of each projection, against the last position of the log.

use super::projection::{Projection, ProjectionError};
use super::rebuild::lock;
use super::registry::ALL;
use crate::postgres::Pool;
use crate::telemetry::as_f64;

/// The state of a projection at one moment.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Status {
    pub name: &'static str,
    pub version: i32,
    pub state: State,
    pub checkpoint: i64,
    /// The position of the log's last event.
    pub head: i64,
    pub lag_events: i64,
    /// The age of the oldest event that is not applied yet, in seconds; 0 if all are applied.
    pub lag_seconds: f64,
    /// The number of parked customers.
    pub parked: i64,
    pub rebuild: Option<Progress>,
}

/// Whether the projection follows the log only, or is rebuilt as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    Following,
    Rebuilding,
    /// A rebuild was interrupted; the next one resumes it.
    RebuildStopped,
}

/// The progress of a rebuild, in events.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Progress {
    pub done: i64,
    pub total: i64,
    pub per_second: f64,
    /// `None` while no attempt is running.
    pub seconds_left: Option<f64>,
    /// Why the last attempt failed; `None` while one is running, and if it was killed.
    pub error: Option<String>,
}

/// The status of every projection.
pub async fn status(pool: &Pool) -> Result<Vec<Status>, ProjectionError> {
    let mut all = Vec::with_capacity(ALL.len());
    for projection in ALL {
        all.push(of(projection, pool).await?);
    }
    Ok(all)
}

/// The status of one projection.
pub async fn of(projection: &dyn Projection, pool: &Pool) -> Result<Status, ProjectionError> {
    // One statement, so one snapshot: a lag is never negative.
    let row = sqlx::query!(
        r#"select p.checkpoint,
                  coalesce((select max(position) from events), 0) as "head!",
                  coalesce(extract(epoch from clock_timestamp() - (
                      select recorded_at from events where position = p.checkpoint + 1
                  ))::float8, 0) as "lag_seconds!",
                  (select count(*) from parked_customers k
                   where (k.projection, k.version, k.place) = (p.name, p.version, 'public'))
                      as "parked!",
                  r.target as "target?", r.done_before as "done_before?", r.error as "error?",
                  extract(epoch from clock_timestamp() - r.resumed_at)::float8 as seconds,
                  (select coalesce(sum(events), 0)::bigint from rebuild_parts t
                   where (t.projection, t.version) = (p.name, p.version)) as "done!",
                  exists (select from spare_tables s
                          where (s.projection, s.version, s.place) = (p.name, p.version, 'shadow')
                            and s.checkpoint is not null) as "is_filled!",
                  case when r.target is not null then exists (
                      select from pg_locks l
                      join pg_database d on d.oid = l.database and d.datname = current_database()
                      join pg_class c on c.oid = l.relation and c.relname = $3
                      join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'locks'
                      where l.locktype = 'relation' and l.granted and l.mode = 'ExclusiveLock'
                  ) end as is_running
           from projections p left join rebuilds r on (r.projection, r.version) = (p.name, p.version)
           where p.name = $1 and p.version = $2"#,
        projection.name(),
        projection.version(),
        lock::table_of(projection)
    )
    .fetch_optional(pool)
    .await?
    .ok_or(ProjectionError::NotRegistered(projection.name()))?;
    let is_running = row.is_running == Some(true);
    let progress = row.target.map(|total| {
        // Events of accounts are in no partition.
        let done = if row.is_filled { total } else { row.done.min(total) };
        let now = done - row.done_before.unwrap_or(0);
        let per_second = as_f64(now) / row.seconds.unwrap_or(0.0).max(0.001);
        let left = as_f64(total - done) / per_second;
        let seconds_left = (is_running && left.is_finite()).then_some(left);
        let error = row.error.clone().filter(|_| !is_running);
        Progress { done, total, per_second, seconds_left, error }
    });
    Ok(Status {
        name: projection.name(),
        version: projection.version(),
        state: match (&progress, is_running) {
            (None, _) => State::Following,
            (Some(_), true) => State::Rebuilding,
            (Some(_), false) => State::RebuildStopped,
        },
        checkpoint: row.checkpoint,
        head: row.head,
        lag_events: row.head - row.checkpoint,
        // The event's time may be some microseconds ahead of `clock_timestamp()`.
        lag_seconds: row.lag_seconds.max(0.0),
        parked: row.parked,
        rebuild: progress,
    })
}
