//! A run of a rebuild, from where it begins or takes up the last one to its end. There is one at a time,
//! and of the last one nothing happens any more: what a process sent before it was killed, or a thread
//! that nobody waits for, may come late.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{Connection as _, PgConnection, PgPool, Postgres, Transaction};
use tokio::time::Instant;

use super::rebuild::{RebuildError, is_busy};
use super::{Projection, ProjectionError, checkpoint, parts};
use crate::events::log::read;
use crate::transaction;

/// How long the lock of another rebuild is waited for: PostgreSQL takes its time to notice that one
/// was killed. And how often it is asked for.
const HELD_LIMIT: Duration = Duration::from_secs(1);
const HELD_PAUSE: Duration = Duration::from_millis(20);

/// How long each transaction of the last run is waited for: parts run to their end.
const LAST_LIMIT: &str = "5s";

/// How long who fills tables tries to connect.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// The first half of the locks under which runs begin: the word "cusu", behind that of
/// [`checkpoint::REBUILDS`].
const BEGINNINGS: i32 = checkpoint::REBUILDS + 1;

/// The version of this program.
const PROGRAM: &str = env!("CARGO_PKG_VERSION");

/// Nobody else begins a rebuild of the projection, or goes back from one, before this is dropped.
pub(super) struct Held {
    projection: &'static dyn Projection,
    /// Its end, however it comes, says that nobody is at work any more.
    connection: PgConnection,
}

impl Held {
    pub(super) async fn take(
        projection: &'static dyn Projection,
        pool: &PgPool,
    ) -> Result<Self, RebuildError> {
        let mut connection = pool.acquire().await?.detach();
        let deadline = Instant::now() + HELD_LIMIT;
        loop {
            let is_free = sqlx::query_scalar!(
                r#"select pg_try_advisory_lock($1, $2) as "is_free!""#,
                checkpoint::REBUILDS,
                checkpoint::lock_of(projection)
            )
            .fetch_one(&mut connection)
            .await?;
            if is_free {
                return Ok(Self { projection, connection });
            }
            if Instant::now() > deadline {
                return Err(RebuildError::AtWork);
            }
            tokio::time::sleep(HELD_PAUSE).await;
        }
    }

    /// Said aloud, as PostgreSQL takes its time to notice the end of a connection. One that cannot say
    /// it has ended.
    pub(super) async fn release(mut self) {
        let released = sqlx::query!(
            "select pg_advisory_unlock($1, $2)",
            checkpoint::REBUILDS,
            checkpoint::lock_of(self.projection)
        )
        .fetch_one(&mut self.connection)
        .await;
        if let Err(error) = released {
            tracing::warn!(projection = self.projection.name(), %error, "a rebuild lost its lock");
        }
        let _ = self.connection.close().await;
    }
}

/// What a run has to do.
#[derive(Clone)]
pub(super) struct Run {
    pub(super) projection: &'static dyn Projection,
    pub(super) pool: PgPool,
    /// The tables are filled up to here, then they follow the log.
    pub(super) target: i64,
    pub(super) is_filled: bool,
    /// By its `resumed_at` in the table `rebuilds` a run knows that there is none behind it.
    since: DateTime<Utc>,
}

impl Run {
    /// Takes up the rebuild that was cut off, or begins one. Nothing of the run before it is on its way
    /// behind this.
    ///
    /// # Errors
    /// When that is still at work, or PostgreSQL cannot be asked.
    pub(super) async fn begin(
        projection: &'static dyn Projection,
        pool: &PgPool,
    ) -> Result<Self, RebuildError> {
        let mut transaction = after_the_last(projection, pool).await?;
        let (target, is_filled, since) = match resume(projection, &mut transaction).await? {
            Some(begun) => begun,
            None => begin(projection, &mut transaction).await.map_err(not_over)?,
        };
        transaction.commit().await?;
        Ok(Self { projection, pool: pool.clone(), target, is_filled, since })
    }

    /// The same with a connection of its own, for where another runtime is at work: a connection
    /// belongs to the one that it was made on.
    pub(super) fn on_one_connection(&self) -> Self {
        let options = self.pool.options().clone().max_connections(1).acquire_timeout(CONNECT_LIMIT);
        let pool = options.connect_lazy_with((*self.pool.connect_options()).clone());
        Self { pool, ..self.clone() }
    }

    /// Begins a transaction; no later run begins before it ends.
    ///
    /// # Errors
    /// When there is a later run already, or PostgreSQL cannot be asked.
    pub(super) async fn transaction(
        &self,
    ) -> Result<Transaction<'static, Postgres>, ProjectionError> {
        let mut transaction = transaction::begin(&self.pool).await?;
        let is_last = sqlx::query!(
            "select from rebuilds
             where projection = $1 and version = $2 and resumed_at = $3
             for share",
            self.projection.name(),
            self.projection.version(),
            self.since
        )
        .fetch_optional(&mut *transaction)
        .await?
        .is_some();
        if is_last { Ok(transaction) } else { Err(ProjectionError::TakenOver) }
    }
}

/// Begins a transaction that nothing of the last run is behind: its transactions are waited for, and
/// find another mark or none when this one has ended.
///
/// # Errors
/// When they do not end, or PostgreSQL cannot be asked.
pub(super) async fn after_the_last(
    projection: &dyn Projection,
    pool: &PgPool,
) -> Result<Transaction<'static, Postgres>, RebuildError> {
    let mut transaction = transaction::begin(pool).await?;
    sqlx::query!("select set_config('lock_timeout', $1, true)", LAST_LIMIT)
        .fetch_one(&mut *transaction)
        .await?;
    // The last one may be about to commit its beginning, of which nothing is to be seen yet.
    sqlx::query!(
        "select pg_advisory_xact_lock($1, $2)",
        BEGINNINGS,
        checkpoint::lock_of(projection)
    )
    .fetch_one(&mut *transaction)
    .await
    .map_err(not_over)?;
    sqlx::query!(
        "select from rebuilds where projection = $1 and version = $2 for update",
        projection.name(),
        projection.version()
    )
    .fetch_optional(&mut *transaction)
    .await
    .map_err(not_over)?;
    Ok(transaction)
}

fn not_over(error: sqlx::Error) -> RebuildError {
    if is_busy(&error) { RebuildError::NotOver } else { error.into() }
}

/// Leaves nothing of a rebuild, in a transaction that nothing of the last run is behind.
pub(super) async fn discard(
    projection: &dyn Projection,
    transaction: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    sqlx::query!("select drop_shadow_tables($1, $2)", projection.name(), projection.version())
        .fetch_one(transaction)
        .await?;
    Ok(())
}

/// The target of a rebuild that was cut off, whether its tables are filled, and when that was.
async fn resume(
    projection: &dyn Projection,
    transaction: &mut PgConnection,
) -> Result<Option<(i64, bool, DateTime<Utc>)>, sqlx::Error> {
    let row = sqlx::query!(
        r#"update rebuilds r
           set resumed_at = clock_timestamp(),
               done_before = case when s.checkpoint is null then (
                   select coalesce(sum(events), 0) from rebuild_parts p
                   where (p.projection, p.version) = (r.projection, r.version)
               ) else r.target end
           from spare_tables s
           where (s.projection, s.version, s.place) = (r.projection, r.version, 'shadow')
             and r.projection = $1 and r.version = $2 and r.program = $3
           returning r.target, s.checkpoint is not null as "is_filled!", r.resumed_at"#,
        projection.name(),
        projection.version(),
        PROGRAM
    )
    .fetch_optional(transaction)
    .await?;
    Ok(row.map(|row| (row.target, row.is_filled, row.resumed_at)))
}

/// Empty shadow tables, and the plan to fill them up to the head of the log.
async fn begin(
    projection: &dyn Projection,
    transaction: &mut PgConnection,
) -> Result<(i64, bool, DateTime<Utc>), sqlx::Error> {
    discard(projection, transaction).await?;
    let target = read::head(&mut *transaction).await?;
    let (name, version) = (projection.name(), projection.version());
    sqlx::query!("select create_shadow_tables($1, $2)", name, version)
        .fetch_one(&mut *transaction)
        .await?;
    let since = sqlx::query_scalar!(
        "insert into rebuilds (projection, version, program, target, resumed_at, done_before)
         values ($1, $2, $3, $4, clock_timestamp(), 0)
         returning resumed_at",
        name,
        version,
        PROGRAM,
        target
    )
    .fetch_one(&mut *transaction)
    .await?;
    sqlx::query!(
        "insert into spare_tables (projection, version, place) values ($1, $2, 'shadow')",
        name,
        version
    )
    .execute(&mut *transaction)
    .await?;
    parts::plan(projection, transaction, target).await?;
    Ok((target, false, since))
}
