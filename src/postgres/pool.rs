//! A pool of connections to one server.
//!
//! A connection may have died while no statement used it: the server was restarted, a proxy or an
//! administrator ended it. So a connection that was idle is asked first, and a statement whose
//! connection is lost is tried once more on a fresh one. A read is not told from a write here: a
//! statement that must not be carried out twice is sent over [`Pool::acquire`].

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use sqlx::postgres::{
    PgArguments, PgPool, PgPoolOptions, PgQueryResult, PgRow, PgStatement, PgTypeInfo,
};
use sqlx::{Connection as _, Describe, Either, Execute, Executor, Postgres};
use tokio::time::timeout;
use tracing::Instrument as _;

use super::answer_limit::AnswerLimit;
use super::connection::Connection;
use super::pool_metrics::{PoolMetrics, Usage};
use super::server::Server;
use super::settings::{Settings, statement_timeout};

/// A connection that was idle for this long is asked before it is used.
const ASKED_AFTER: Duration = Duration::from_secs(1);

/// How long it may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// A pool. As an executor it tries a statement once more after a lost connection, and it reads all rows
/// before it returns the first: rows are streamed from a connection, with [`Pool::acquire`].
#[derive(Clone)]
pub struct Pool {
    direct: Connections,
    settings: Settings,
    pooler: Option<Pooler>,
}

/// Connections to the host of a server that is used.
#[derive(Clone)]
struct Connections {
    pool: PgPool,
    server: Server,
    name: &'static str,
    /// The host of `server` that new connections lead to.
    host: Arc<AtomicUsize>,
    statement_timeout: Option<Duration>,
    metrics: PoolMetrics,
}

impl Connections {
    fn new(
        server: &Server,
        name: &'static str,
        max: u32,
        wait: Duration,
        settings: Settings,
    ) -> Self {
        Self {
            host: Arc::new(AtomicUsize::new(server.host())),
            pool: connections(server, name, max, wait, settings),
            server: server.clone(),
            name,
            statement_timeout: statement_timeout(settings),
            metrics: PoolMetrics::new(name),
        }
    }

    fn usage(&self) -> Usage {
        let max = self.pool.options().get_max_connections();
        self.metrics.usage(max, self.pool.size(), self.pool.num_idle())
    }

    /// The pool of sqlx, whose new connections lead to the host that is used.
    fn current(&self) -> &PgPool {
        let host = self.server.host();
        // Each statement comes by here: it reads, and writes only when the host has changed.
        if self.host.load(Ordering::Relaxed) != host {
            self.host.store(host, Ordering::Relaxed);
            self.pool.set_connect_options(self.server.pool_options(self.name));
        }
        &self.pool
    }

    async fn acquire(&self) -> Result<Connection, sqlx::Error> {
        let _waiting = self.metrics.wait();
        loop {
            let limit = AnswerLimit::of_statements(&self.server, self.statement_timeout);
            // The pool has a limit of its own. When another server takes the place of this one, what connects
            // to the old one begins anew.
            if let Ok(acquired) = limit.wait_while_current(self.current().acquire()).await {
                return Ok(Connection::new(acquired?, limit));
            }
        }
    }
}

/// Connections to a pooler in transaction mode (PgBouncer): a backend belongs to a client for one
/// transaction only. So each statement is a transaction of its own, with its settings and without a
/// named prepared statement.
#[derive(Clone)]
struct Pooler {
    connections: Connections,
    /// Begins a transaction and sets its settings.
    begin: Arc<str>,
}

impl Pooler {
    async fn run(&self, statement: Statement<'_>) -> Result<Answers, sqlx::Error> {
        let mut connection = self.connections.acquire().await?;
        let (begin, sql) = (Arc::clone(&self.begin), statement.sql.to_owned());
        let arguments = statement.arguments;
        // To its end, even if the caller drops the future: the connection must not return to the pool
        // inside a transaction.
        let run = async move {
            let statement = Statement { sql: &sql, arguments, persistent: false };
            let answer = async {
                connection.execute(&*begin).await?;
                (&mut connection).fetch_many(statement).try_collect().await
            };
            let answer = answer.await;
            if connection.is_silent() {
                return answer;
            }
            let end = if answer.is_ok() { "commit" } else { "rollback" };
            if let Err(error) = connection.execute(end).await {
                drop(connection.detach());
                return Err(answer.err().unwrap_or(error));
            }
            answer
        };
        let run = tokio::spawn(run.in_current_span());
        run.await.map_err(|_| sqlx::Error::WorkerCrashed)?
    }
}

/// Rows and results, in their order.
type Answers = Vec<Either<PgQueryResult, PgRow>>;

impl Pool {
    /// At most `max` connections with these settings, which are opened when they are needed; `wait` is
    /// how long a caller waits for one. `name` is shown by `pg_stat_activity`. Under a `statement_timeout` a
    /// statement fails a little later if there is no answer at all.
    #[must_use]
    pub fn new(
        server: &Server,
        name: &'static str,
        max: u32,
        wait: Duration,
        settings: Settings,
    ) -> Self {
        Self { direct: Connections::new(server, name, max, wait, settings), settings, pooler: None }
    }

    /// Sends statements outside transactions through a pooler in transaction mode, over at most `max`
    /// connections.
    #[must_use]
    pub fn with_pooler(self, pooler: &Server, max: u32, wait: Duration) -> Self {
        let begin = format!("begin; {}", pooler.set_in_transaction(self.settings));
        let connections = Connections::new(pooler, self.direct.name, max, wait, self.settings);
        Self { pooler: Some(Pooler { connections, begin: begin.into() }), ..self }
    }

    /// The connections as a pool of sqlx: no statement is tried again, and none has a limit here.
    #[must_use]
    pub fn once(&self) -> &PgPool {
        self.direct.current()
    }

    #[must_use]
    pub fn server(&self) -> &Server {
        &self.direct.server
    }

    /// The use of its connections, and of those to a pooler.
    pub fn usages(&self) -> impl Iterator<Item = Usage> {
        let pooled = self.pooler.as_ref().map(|pooler| pooler.connections.usage());
        [Some(self.direct.usage()), pooled].into_iter().flatten()
    }

    /// A connection of the pool.
    pub async fn acquire(&self) -> Result<Connection, sqlx::Error> {
        self.direct.acquire().await
    }

    /// A pool with the same settings and one connection of its own: for another runtime, as a connection
    /// belongs to the runtime that it was made on, or for a connection that is kept.
    #[must_use]
    pub fn of_one(&self, wait: Duration) -> Self {
        Self::new(self.server(), self.direct.name, 1, wait, self.settings)
    }

    /// Waits for the connections that are in use, and closes all.
    pub async fn close(&self) {
        self.direct.pool.close().await;
        if let Some(pooler) = &self.pooler {
            pooler.connections.pool.close().await;
        }
    }

    /// Waits until the pool is closed.
    pub async fn closed(&self) {
        self.direct.pool.close_event().await;
    }

    /// The rows and results of a statement.
    async fn run(&self, statement: Statement<'_>) -> Result<Answers, sqlx::Error> {
        let first = self.run_once(statement.clone()).await;
        match first {
            Err(error) if self.report(&error) => {
                tracing::debug!(%error, "postgres: connection lost, the statement is tried again");
                self.run_once(statement).await
            }
            answered => answered,
        }
    }

    async fn run_once(&self, statement: Statement<'_>) -> Result<Answers, sqlx::Error> {
        let span = tracing::debug_span!(
            "sql",
            otel.kind = "client",
            db.system.name = "postgresql",
            pool = self.direct.name
        );
        let answers = async {
            if let Some(pooler) = &self.pooler {
                return pooler.run(statement).await;
            }
            let mut connection = self.acquire().await?;
            (&mut connection).fetch_many(statement).try_collect().await
        };
        answers.instrument(span).await
    }

    fn report(&self, error: &sqlx::Error) -> bool {
        self.pooler.as_ref().map_or(&self.direct, |pooler| &pooler.connections).server.report(error)
    }
}

/// Connections that are used as [`Pool`] says.
fn connections(
    server: &Server,
    name: &'static str,
    max: u32,
    wait: Duration,
    settings: Settings,
) -> PgPool {
    let (of_new, of_idle) = (server.clone(), server.clone());
    PgPoolOptions::new()
        .max_connections(max)
        .acquire_timeout(wait)
        .test_before_acquire(false)
        .after_connect(move |connection, _| {
            let server = of_new.clone();
            Box::pin(async move { server.prepare(connection, settings).await })
        })
        .before_acquire(move |connection, meta| {
            let server = of_idle.clone();
            Box::pin(async move {
                if !server.is_valid(meta.age) {
                    return Ok(false);
                }
                if meta.idle_for < ASKED_AFTER {
                    return Ok(true);
                }
                let answer = timeout(ANSWER_LIMIT, connection.ping()).await;
                // If one was lost, others probably are, too.
                let lost = answer
                    .as_ref()
                    .is_ok_and(|pinged| pinged.as_ref().is_err_and(|error| server.report(error)));
                Ok(!lost && answer.is_ok())
            })
        })
        .connect_lazy_with(server.pool_options(name))
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.direct.pool.fmt(formatter)
    }
}

/// A statement that can be sent twice.
#[derive(Clone)]
struct Statement<'q> {
    sql: &'q str,
    arguments: Option<PgArguments>,
    persistent: bool,
}

impl<'q> Execute<'q, Postgres> for Statement<'q> {
    fn sql(&self) -> &'q str {
        self.sql
    }

    fn statement(&self) -> Option<&PgStatement<'q>> {
        None
    }

    fn take_arguments(&mut self) -> Result<Option<PgArguments>, sqlx::error::BoxDynError> {
        Ok(self.arguments.take())
    }

    fn persistent(&self) -> bool {
        self.persistent
    }
}

impl<'p> Executor<'p> for &'p Pool {
    type Database = Postgres;

    fn fetch_many<'e, 'q, E>(
        self,
        mut query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'p: 'e,
        E: Execute<'q, Postgres>,
        'q: 'e,
        E: 'q,
    {
        let (sql, persistent) = (query.sql(), query.persistent());
        let arguments = query.take_arguments().map_err(sqlx::Error::Encode);
        stream::once(async move {
            let rows = self.run(Statement { sql, arguments: arguments?, persistent }).await?;
            Ok::<_, sqlx::Error>(stream::iter(rows).map(Ok))
        })
        .try_flatten()
        .boxed()
    }

    fn fetch_optional<'e, 'q, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'p: 'e,
        E: Execute<'q, Postgres>,
        'q: 'e,
        E: 'q,
    {
        let mut answers = self.fetch_many(query);
        Box::pin(async move {
            let mut first = None;
            while let Some(answer) = answers.try_next().await? {
                if let (None, Either::Right(row)) = (&first, answer) {
                    first = Some(row);
                }
            }
            Ok(first)
        })
    }

    fn prepare_with<'e, 'q: 'e>(
        self,
        sql: &'q str,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement<'q>, sqlx::Error>>
    where
        'p: 'e,
    {
        self.once().prepare_with(sql, parameters)
    }

    fn describe<'e, 'q: 'e>(
        self,
        sql: &'q str,
    ) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
    where
        'p: 'e,
    {
        self.once().describe(sql)
    }
}
