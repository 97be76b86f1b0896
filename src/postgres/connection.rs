//! A connection whose statements are answered within a limit, or fail.

use std::fmt;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::{self, BoxFuture, FutureExt as _};
use futures_util::stream::{self, BoxStream, StreamExt as _};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Connection as _, Describe, Either, Execute, Executor, Postgres};
use tokio::runtime::Handle;

use super::answer_limit::AnswerLimit;
use super::server::Server;
use super::settings::{Settings, statement_timeout};

/// A connection, mostly one of a pool. When an answer does not arrive in time, it gives its place in the pool
/// back and is not used again.
pub struct Connection {
    /// `None` only while it is dropped.
    raw: Option<Raw>,
    limit: AnswerLimit,
    is_silent: bool,
    /// A COPY has begun and not ended. sqlx does not know that of a connection whose COPY was dropped.
    is_copying: bool,
}

enum Raw {
    Pooled(PoolConnection<Postgres>),
    Own(PgConnection),
}

impl Raw {
    fn get_mut(&mut self) -> &mut PgConnection {
        match self {
            Self::Pooled(connection) => connection,
            Self::Own(connection) => connection,
        }
    }
}

impl Connection {
    pub(super) fn new(raw: PoolConnection<Postgres>, limit: AnswerLimit) -> Self {
        Self { raw: Some(Raw::Pooled(raw)), limit, is_silent: false, is_copying: false }
    }

    /// Connects, outside of all pools, as [`Server::connect`] does.
    pub async fn open(
        server: &Server,
        name: &str,
        settings: Settings,
        limit: Duration,
    ) -> Result<Self, sqlx::Error> {
        let raw = Raw::Own(server.connect(name, settings, limit).await?);
        // Not before: connecting may find another host.
        let limit = AnswerLimit::of_statements(server, statement_timeout(settings));
        Ok(Self { raw: Some(raw), limit, is_silent: false, is_copying: false })
    }

    /// Takes the connection out of its pool, which may open another one.
    #[must_use]
    pub fn detach(mut self) -> Self {
        let raw = match self.raw.take() {
            Some(Raw::Pooled(connection)) => Some(Raw::Own(connection.detach())),
            own => own,
        };
        Self {
            raw,
            limit: self.limit.clone(),
            is_silent: self.is_silent,
            is_copying: self.is_copying,
        }
    }

    /// Tells PostgreSQL that the connection ends; without it PostgreSQL notices later.
    pub async fn close(mut self) {
        match self.raw.take() {
            Some(Raw::Own(connection)) => drop(self.limit.wait(connection.close()).await),
            Some(Raw::Pooled(connection)) => drop(self.limit.wait(connection.close()).await),
            None => {}
        }
    }

    /// Whether an answer has not arrived in time.
    pub(super) fn is_silent(&self) -> bool {
        self.is_silent
    }

    /// The connection of sqlx, and the wait for what it is asked.
    pub(super) fn parts(&mut self) -> (&mut PgConnection, Wait<'_>) {
        let raw = self.raw.as_mut().expect("present until it is dropped");
        let (is_silent, is_copying) = (&mut self.is_silent, &mut self.is_copying);
        (raw.get_mut(), Wait { limit: &self.limit, is_silent, is_copying })
    }
}

/// Waits for the answers of a connection.
pub(super) struct Wait<'c> {
    limit: &'c AnswerLimit,
    is_silent: &'c mut bool,
    is_copying: &'c mut bool,
}

impl Wait<'_> {
    /// Carries out a whole COPY, with this wait for its answers. If it is dropped before its end, the connection is
    /// not used again.
    pub(super) async fn copy<T>(
        &mut self,
        copy: impl AsyncFnOnce(&mut Self) -> Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        *self.is_copying = true;
        let copied = copy(self).await;
        // After an error of PostgreSQL itself it has ended, too.
        *self.is_copying = !matches!(copied, Ok(_) | Err(sqlx::Error::Database(_)));
        copied
    }

    pub(super) async fn of<T>(
        &mut self,
        answer: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        let answer = self.limit.wait(answer).await;
        *self.is_silent |= answer.is_err();
        answer?
    }

    /// The next item of an answer that has several: the limit is for each.
    pub(super) async fn next<T>(
        &mut self,
        items: &mut BoxStream<'_, Result<T, sqlx::Error>>,
    ) -> Result<Option<T>, sqlx::Error> {
        // Most rows are there already, and cost no timer.
        let ready = future::poll_fn(|context| Poll::Ready(items.poll_next_unpin(context))).await;
        match ready {
            Poll::Ready(item) => item.transpose(),
            Poll::Pending => self.of(items.next().map(Option::transpose)).await,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        match (self.raw.take(), Handle::try_current()) {
            (Some(Raw::Pooled(mut connection)), Ok(runtime))
                if !self.is_silent && !self.is_copying =>
            {
                // sqlx waits here, for as long as it takes, for the answers of statements that were dropped, and
                // for one to a last question. Its own `drop` does the same without a limit.
                let returned = connection.return_to_pool();
                let limit = self.limit.clone();
                runtime.spawn(async move { limit.wait(returned).await });
            }
            (Some(Raw::Pooled(connection)), _) => drop(connection.detach()),
            (Some(Raw::Own(_)) | None, _) => {}
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Connection")
            .field("is_silent", &self.is_silent)
            .finish_non_exhaustive()
    }
}

impl<'c> Executor<'c> for &'c mut Connection {
    type Database = Postgres;

    fn fetch_many<'e, 'q, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: Execute<'q, Postgres>,
        'q: 'e,
        E: 'q,
    {
        let (raw, wait) = self.parts();
        stream::try_unfold((raw.fetch_many(query), wait), async |(mut items, mut wait)| {
            let item = wait.next(&mut items).await?;
            Ok(item.map(|item| (item, (items, wait))))
        })
        .boxed()
    }

    fn fetch_optional<'e, 'q, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: Execute<'q, Postgres>,
        'q: 'e,
        E: 'q,
    {
        let (raw, mut wait) = self.parts();
        async move { wait.of(raw.fetch_optional(query)).await }.boxed()
    }

    fn prepare_with<'e, 'q: 'e>(
        self,
        sql: &'q str,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement<'q>, sqlx::Error>>
    where
        'c: 'e,
    {
        let (raw, mut wait) = self.parts();
        async move { wait.of(raw.prepare_with(sql, parameters)).await }.boxed()
    }

    fn describe<'e, 'q: 'e>(
        self,
        sql: &'q str,
    ) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
    where
        'c: 'e,
    {
        let (raw, mut wait) = self.parts();
        async move { wait.of(raw.describe(sql)).await }.boxed()
    }
}
