//! One attempt at a rebuild, and its fencing token. A rebuild that was interrupted is resumed by the
//! next attempt. Statements that a killed process had sent, and partitions that a dropped attempt had
//! begun, may still run: each transaction of an attempt checks the attempt's fencing token and holds
//! its row, and a new attempt waits for those transactions before it writes a new token.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::error::{RebuildError, is_lock_timeout};
use super::partition;
use crate::events::log::read;
use crate::postgres::transaction::{self, Transaction};
use crate::postgres::{Connection, Pool};
use crate::projections::projection::{Projection, ProjectionError};

/// How long a new attempt waits for each transaction of the previous one: partitions run to their end.
const PREVIOUS_ATTEMPT_WAIT: &str = "5s";

/// How long a backfill worker tries to connect.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// The fingerprint of the code that turns the log into rows (build.rs): only attempts of the same code are
/// resumed.
const PROGRAM: &str = env!("PROJECTION_CODE_HASH");

/// An attempt that has begun.
#[derive(Clone)]
pub(super) struct Attempt {
    pub(super) projection: &'static dyn Projection,
    pub(super) pool: Pool,
    /// The position up to which the table is backfilled; from there on it follows the log.
    pub(super) target: i64,
    pub(super) is_backfilled: bool,
    /// `resumed_at` in the table `rebuilds`; a later attempt writes another one.
    fencing_token: DateTime<Utc>,
}

impl Attempt {
    /// Resumes the interrupted rebuild, or begins a new one: always with `restart`. No transaction of an
    /// earlier attempt is running, or will write, once this returns.
    pub(super) async fn begin(
        projection: &'static dyn Projection,
        pool: &Pool,
        restart: bool,
    ) -> Result<Self, RebuildError> {
        let mut transaction = after_previous(projection, pool).await?;
        let resumed = if restart { None } else { resume(projection, &mut transaction).await? };
        let begun = match resumed {
            Some(begun) => begun,
            None => start(projection, &mut transaction).await.map_err(previous_running)?,
        };
        transaction.commit().await?;
        let Begun { target, is_backfilled, fencing_token } = begun;
        Ok(Self { projection, pool: pool.clone(), target, is_backfilled, fencing_token })
    }

    /// The same attempt with a pool of one connection of its own, for a worker with its own runtime:
    /// a connection belongs to the runtime that it was made on.
    pub(super) fn on_own_connection(&self) -> Self {
        let pool = self.pool.of_one(CONNECT_LIMIT);
        Self { pool, ..self.clone() }
    }

    /// Stores why this attempt failed, unless a later one has begun. After `Next::StartOver` the next
    /// attempt does not resume this one.
    pub(super) async fn store_error(&self, error: &str, next: Next) -> Result<(), sqlx::Error> {
        sqlx::query!(
            "update rebuilds set error = $4, program = case when $5 then '' else program end
             where projection = $1 and version = $2 and resumed_at = $3",
            self.projection.name(),
            self.projection.version(),
            self.fencing_token,
            error,
            next == Next::StartOver
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Begins a transaction that a later attempt waits for; [`ProjectionError::Fenced`] when there
    /// is a later attempt already.
    pub(super) async fn transaction(&self) -> Result<Transaction, ProjectionError> {
        let mut transaction = transaction::begin(&self.pool).await?;
        let is_current = sqlx::query!(
            "select from rebuilds
             where projection = $1 and version = $2 and resumed_at = $3
             for share",
            self.projection.name(),
            self.projection.version(),
            self.fencing_token
        )
        .fetch_optional(&mut *transaction)
        .await?
        .is_some();
        if is_current { Ok(transaction) } else { Err(ProjectionError::Fenced) }
    }
}

/// What the next attempt does after one that failed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Resume,
    StartOver,
}

/// Begins a transaction that waits for those of the previous attempt. Until it ends, no new attempt
/// begins.
pub(super) async fn after_previous(
    projection: &dyn Projection,
    pool: &Pool,
) -> Result<Transaction, RebuildError> {
    let mut transaction = transaction::begin(pool).await?;
    sqlx::query!("select set_config('lock_timeout', $1, true)", PREVIOUS_ATTEMPT_WAIT)
        .fetch_one(&mut *transaction)
        .await?;
    // An attempt that has not committed its row yet has no visible row to wait for.
    // The lock conflicts with inserts, but not with the row locks of attempts of other projections.
    sqlx::query!("lock table rebuilds in share row exclusive mode")
        .execute(&mut *transaction)
        .await
        .map_err(previous_running)?;
    sqlx::query!(
        "select from rebuilds where projection = $1 and version = $2 for update",
        projection.name(),
        projection.version()
    )
    .fetch_optional(&mut *transaction)
    .await
    .map_err(previous_running)?;
    Ok(transaction)
}

fn previous_running(error: sqlx::Error) -> RebuildError {
    if is_lock_timeout(&error) { RebuildError::PreviousAttemptRunning } else { error.into() }
}

/// Drops the shadow table and everything that is stored about the rebuild, in a transaction of
/// [`after_previous`].
pub(super) async fn discard(
    projection: &dyn Projection,
    transaction: &mut Connection,
) -> Result<(), sqlx::Error> {
    sqlx::query!("select drop_shadow_tables($1, $2)", projection.name(), projection.version())
        .fetch_one(transaction)
        .await?;
    Ok(())
}

/// The row of an attempt that has started.
struct Begun {
    target: i64,
    is_backfilled: bool,
    fencing_token: DateTime<Utc>,
}

/// Resumes a rebuild that was interrupted, if there is one.
async fn resume(
    projection: &dyn Projection,
    transaction: &mut Connection,
) -> Result<Option<Begun>, sqlx::Error> {
    sqlx::query_as!(
        Begun,
        r#"update rebuilds r
           set resumed_at = clock_timestamp(), error = null,
               done_before = case when s.checkpoint is null then (
                   select coalesce(sum(events), 0) from rebuild_parts p
                   where (p.projection, p.version) = (r.projection, r.version)
               ) else r.target end
           from spare_tables s
           where (s.projection, s.version, s.place) = (r.projection, r.version, 'shadow')
             and r.projection = $1 and r.version = $2 and r.program = $3
           returning r.target, s.checkpoint is not null as "is_backfilled!",
                     r.resumed_at as fencing_token"#,
        projection.name(),
        projection.version(),
        PROGRAM
    )
    .fetch_optional(transaction)
    .await
}

/// Makes an empty shadow table and plans the partitions of its backfill, up to the head of the log.
async fn start(
    projection: &dyn Projection,
    transaction: &mut Connection,
) -> Result<Begun, sqlx::Error> {
    discard(projection, transaction).await?;
    let target = read::head(&mut *transaction).await?;
    let (name, version) = (projection.name(), projection.version());
    sqlx::query!("select create_shadow_tables($1, $2)", name, version)
        .fetch_one(&mut *transaction)
        .await?;
    let fencing_token = sqlx::query_scalar!(
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
    partition::plan(projection, transaction, target).await?;
    Ok(Begun { target, is_backfilled: false, fencing_token })
}
