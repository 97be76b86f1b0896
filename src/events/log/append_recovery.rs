//! Append recovery: the appender's connection, and the outcome of a call whose connection was lost
//! before its answer. Whether the call committed is unknown then, and the old backend may commit later.
//! So the backend is terminated first, and only then the log is read.

use tokio::time::Instant;

use super::append::{Append, Appended, Outcome};
use crate::postgres::backend::Backend;
use crate::postgres::server::CONNECT_LIMIT;
use crate::postgres::settings::Settings;
use crate::postgres::{Connection, Server};

/// The appender's connection, reopened after a loss.
pub struct AppendConnection {
    server: Server,
    settings: Settings,
    open: Option<Connection>,
    opened_at: Instant,
    backend: Option<Backend>,
}

impl AppendConnection {
    pub(super) fn new(server: Server, settings: Settings) -> Self {
        Self { server, settings, open: None, opened_at: Instant::now(), backend: None }
    }

    /// Returns the connection, and opens it first if necessary. The backend of a lost one is ended before: it
    /// might still take the append lock and commit.
    pub(super) async fn open(&mut self) -> Result<&mut Connection, sqlx::Error> {
        if !self.server.is_valid_since(self.opened_at) {
            self.open = None;
        }
        if self.open.is_none() {
            self.opened_at = Instant::now();
            let (server, settings) = (&self.server, self.settings);
            let mut connection =
                Connection::open(server, "customers append", settings, CONNECT_LIMIT).await?;
            if let Some(old) = &self.backend {
                old.end(&mut connection).await?;
            }
            self.backend = Some(Backend::of(&mut connection).await?);
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
}

/// The outcome of each command that was appended; `None` for a command that was not appended, and that
/// the lost call can no longer append.
pub(super) async fn find_outcomes<'a>(
    connection: &mut AppendConnection,
    commands: impl Iterator<Item = &'a Append>,
) -> Result<Vec<Option<Outcome>>, sqlx::Error> {
    let found = find_outcomes_on(connection.open().await?, commands).await;
    if found.is_err() {
        connection.discard();
    }
    found
}

async fn find_outcomes_on<'a>(
    connection: &mut Connection,
    commands: impl Iterator<Item = &'a Append>,
) -> Result<Vec<Option<Outcome>>, sqlx::Error> {
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
        .fetch_optional(&mut *connection)
        .await?;
        found.push(row.map(|row| {
            Outcome::Appended(Appended {
                position: row.position,
                sequence: row.sequence,
                recorded_at: row.recorded_at,
            })
        }));
    }
    Ok(found)
}
