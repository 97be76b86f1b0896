//! Append recovery: the appender's connection, and the outcome of a call whose connection was lost
//! before its answer. Whether the call committed is unknown then, and the old backend may commit later.
//! So the backend is terminated first, and only then the log is read.

use chrono::{DateTime, Utc};
use sqlx::{Connection as _, PgConnection};
use std::time::Duration;
use tokio::time::Instant;

use super::append::{Append, Appended, Outcome};
use crate::postgres::Server;
use crate::postgres::server::CONNECT_LIMIT;
use crate::postgres::settings::Settings;

/// One connection, reopened after a loss.
pub struct Connection {
    server: Server,
    settings: Settings,
    open: Option<PgConnection>,
    opened_at: Instant,
    backend: Option<Backend>,
}

/// A backend of PostgreSQL. Its pid may be reused; together with its start time it is unique.
struct Backend {
    pid: i32,
    started_at: DateTime<Utc>,
}

impl Connection {
    pub(super) fn new(server: Server, settings: Settings) -> Self {
        Self { server, settings, open: None, opened_at: Instant::now(), backend: None }
    }

    /// Returns the connection, and opens it first if necessary.
    pub(super) async fn open(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        if !self.server.is_valid_since(self.opened_at) {
            self.open = None;
        }
        if self.open.is_none() {
            self.opened_at = Instant::now();
            let mut connection =
                self.server.connect("customers append", self.settings, CONNECT_LIMIT).await?;
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

    /// Reports the error of a call to the server's pools; whether the connection is of no more use.
    pub(super) fn report(&self, error: &sqlx::Error) -> bool {
        self.server.report(error)
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
