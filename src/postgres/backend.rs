//! Backends: the processes of PostgreSQL that serve connections.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::connection::Connection;

/// How often a backend that is told to end is looked for, and the pause in between.
const LOOKS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(20);

/// A backend. Its pid may be reused; together with its start time it is unique.
#[derive(Debug, Clone)]
pub struct Backend {
    pid: i32,
    started_at: DateTime<Utc>,
}

impl Backend {
    /// The backend of the connection.
    pub async fn of(connection: &mut Connection) -> Result<Self, sqlx::Error> {
        sqlx::query_as!(
            Self,
            r#"select pid as "pid!", backend_start as "started_at!"
               from pg_stat_activity where pid = pg_backend_pid()"#
        )
        .fetch_one(connection)
        .await
    }

    /// Terminates the backend of a lost connection and waits until it is gone, asking on another one: until
    /// then it may carry out and commit what it was sent. One that has committed and waits for a synchronous
    /// standby is left to wait: what it wrote would seem to be as safe as a commit that was confirmed.
    pub async fn end(&self, connection: &mut Connection) -> Result<(), sqlx::Error> {
        for _ in 0..LOOKS {
            let alive = sqlx::query_scalar!(
                "select case when wait_event is distinct from 'SyncRep' then pg_terminate_backend(pid) end
                 from pg_stat_activity where pid = $1 and backend_start = $2",
                self.pid,
                self.started_at
            )
            .fetch_optional(&mut *connection)
            .await?;
            if alive.is_none() {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(sqlx::Error::Protocol("the backend of the lost connection does not end".to_owned()))
    }
}
