//! How long an answer of PostgreSQL is waited for. The limits of PostgreSQL end a statement only while its
//! answer can arrive: when the other side has lost its power, or a firewall has forgotten the connection,
//! nothing arrives and nothing closes the connection, until TCP gives up after a quarter of an hour.

use std::io::{Error, ErrorKind};
use std::pin::pin;
use std::time::Duration;

use tokio::time::timeout;

use super::server::Server;

/// How much longer than its `statement_timeout` the answer of a statement may take.
const GRACE: Duration = Duration::from_secs(2);

/// How often what waits looks whether another server has taken the place of this one.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The limit of each answer on one connection.
#[derive(Clone)]
pub struct AnswerLimit {
    server: Server,
    /// That of the server before the connection was opened, or taken from a pool.
    generation: u64,
    longest: Option<Duration>,
}

impl AnswerLimit {
    /// For a connection that is opened, or taken from a pool, after this call. `longest` is how long an answer
    /// may take; `None`: for as long as no other server has taken the place of this one.
    #[must_use]
    pub fn new(server: &Server, longest: Option<Duration>) -> Self {
        Self { server: server.clone(), generation: server.generation(), longest }
    }

    /// As [`AnswerLimit::new`], for statements that PostgreSQL ends after that time.
    pub(super) fn of_statements(server: &Server, statement_timeout: Option<Duration>) -> Self {
        Self::new(server, statement_timeout.map(|limit| limit + GRACE))
    }

    /// Waits for an answer. After an error the connection is of no more use, and what was asked may have been
    /// carried out.
    pub async fn wait<T>(&self, answer: impl Future<Output = T>) -> Result<T, sqlx::Error> {
        self.wait_for(self.longest.unwrap_or(Duration::MAX), answer).await
    }

    /// Waits until another server takes the place of this one.
    pub(super) async fn wait_while_current<T>(
        &self,
        answer: impl Future<Output = T>,
    ) -> Result<T, sqlx::Error> {
        self.wait_for(Duration::MAX, answer).await
    }

    async fn wait_for<T>(
        &self,
        longest: Duration,
        answer: impl Future<Output = T>,
    ) -> Result<T, sqlx::Error> {
        let mut answer = pin!(answer);
        let mut left = longest;
        loop {
            if self.server.generation() != self.generation {
                let problem = "another server has taken the place of the one that was asked";
                return Err(Error::new(ErrorKind::ConnectionAborted, problem).into());
            }
            if left.is_zero() {
                let problem = "the server has not answered in time";
                return Err(Error::new(ErrorKind::TimedOut, problem).into());
            }
            // One timer for most statements: it seldom fires.
            let slice = left.min(LOOK_EVERY);
            if let Ok(answer) = timeout(slice, answer.as_mut()).await {
                return Ok(answer);
            }
            left -= slice;
        }
    }
}
