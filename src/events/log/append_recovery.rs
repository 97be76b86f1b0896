//! The appender's connection, and what to do when it is lost between a call and its answer: nobody
//! knows then whether the call committed, and the old backend may even commit later. So it is ended
//! first, and only then the log is asked.

use chrono::{DateTime, Utc};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use std::time::Duration;

use super::append::{Append, Appended, Outcome};

/// How long one attempt to connect may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// One connection that is opened again when it was lost.
pub struct Connection {
    options: PgConnectOptions,
    open: Option<PgConnection>,
    backend: Option<Backend>,
}

/// A server process. Its number may be given to another one; together with its start it is unique.
struct Backend {
    pid: i32,
    started_at: DateTime<Utc>,
}

impl Connection {
    pub(super) fn new(options: PgConnectOptions) -> Self {
        // One plan for every call: planning anew costs more than a small batch.
        let options = options.options([("plan_cache_mode", "force_generic_plan")]);
        Self { options, open: None, backend: None }
    }

    /// The connection, opened if it is not.
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

    /// Gives the connection up; its backend is remembered.
    pub(super) fn discard(&mut self) {
        self.open = None;
    }

    /// Ends the backend of the connection that was lost and waits until it is gone: until then it
    /// might still take the lock and commit.
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
        Err(sqlx::Error::Protocol("the backend of the lost connection does not end".to_owned()))
    }
}

/// What became of each command: its outcome if it was appended, `None` if it was not and never will
/// be by the lost call.
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
        // The last event of the command, by its id, in its aggregate's stream.
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
