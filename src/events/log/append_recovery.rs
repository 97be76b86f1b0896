//! Append recovery: the appender's connection, and the outcome of a call whose connection was lost
//! before its answer. Whether the call committed is unknown then, and the old backend may commit later.
//! So the backend is terminated first, and only then the log is read.

use chrono::{DateTime, Utc};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use std::time::Duration;

use super::append::{Append, Appended, Outcome};

/// How long one attempt to connect may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// One connection, reopened after a loss.
pub struct Connection {
    options: PgConnectOptions,
    open: Option<PgConnection>,
    backend: Option<Backend>,
}

/// A backend of PostgreSQL. Its pid may be reused; together with its start time it is unique.
struct Backend {
    pid: i32,
    started_at: DateTime<Utc>,
}

impl Connection {
    pub(super) fn new(options: PgConnectOptions) -> Self {
        // A generic plan: planning each call costs more than a small batch.
        let options = options.options([("plan_cache_mode", "force_generic_plan")]);
        Self { options, open: None, backend: None }
    }

    /// Returns the connection, and opens it first if necessary.
    pub(super) async fn open(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        if self.open.is_none() {
            let connect = tokio::time::timeout(CONNECT_LIMIT, self.options.connect());
            let mut connection = connect.await.map_err(|_| sqlx::Error::PoolTimedOut)??;
            self.end_old_backend(&mut connection).await?;
            let backend = sqlx::query!(
                r#"select pid as "pid!", backend_start as "started_at!"
                   from pg_stat_activity where pid = pg_backend_pid()"#
            )
            .fetch_one(&mut connection)
            .await?;
            self.backend = Some(Backend { pid: backend.pid, started_at: backend.started_at });
            self.open = Some(connection);
        }
        self.open.as_mut().ok_or(sqlx::Error::WorkerCrashed)
    }

    /// Drops the connection, and keeps the identity of its backend.
    pub(super) fn discard(&mut self) {
        self.open = None;
    }

    /// Terminates the backend of the lost connection and waits until it is gone: until then it may take
    /// the append lock and commit.
    async fn end_old_backend(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let Some(old) = &self.backend else { return Ok(()) };
        for _ in 0..100 {
            let alive = sqlx::query_scalar!(
                r#"select pg_terminate_backend(pid) as "ended!" from pg_stat_activity
                   where pid = $1 and backend_start = $2"#,
                old.pid,
                old.started_at
            )
            .fetch_optional(&mut *connection)
            .await?;
            if alive.is_none() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(sqlx::Error::Protocol(
            "the backend of the lost connection does not terminate".to_owned(),
        ))
    }
}

/// The outcome of each command that was appended; `None` for a command that was not appended, and that
/// the lost call can no longer append.
pub(super) async fn find_outcomes<'a>(
    connection: &mut Connection,
    commands: impl Iterator<Item = &'a Append>,
) -> Result<Vec<Option<Outcome>>, sqlx::Error> {
    let found = find_outcomes_on(connection.open().await?, commands).await;
    if found.is_err() {
        connection.discard();
    }
    found
}

async fn find_outcomes_on<'a>(
    connection: &mut PgConnection,
    commands: impl Iterator<Item = &'a Append>,
) -> Result<Vec<Option<Outcome>>, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let replica = sqlx::query_scalar!(r#"select pg_is_in_recovery() as "replica!""#)
        .fetch_one(&mut *transaction)
        .await?;
    if replica {
        return Err(sqlx::Error::Protocol("this server is a replica".to_owned()));
    }
    let mut found = vec![];
    for command in commands {
        // The command's last event, by the command id, in the aggregate's stream.
        let row = sqlx::query!(
            "select position, sequence, recorded_at from events
             where aggregate_type = $1 and aggregate_id = $2 and command_id = $3
             order by sequence desc limit 1",
            command.aggregate_type,
            command.aggregate_id,
            command.command_id
        )
        .fetch_optional(&mut *transaction)
        .await?;
        found.push(row.map(|row| {
            Outcome::Appended(Appended {
                position: row.position,
                sequence: row.sequence,
                recorded_at: row.recorded_at,
            })
        }));
    }
    transaction.commit().await?;
    Ok(found)
}
