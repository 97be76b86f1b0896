//! One process of the service: listener, pools and background tasks; the same in `main` and in tests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::api::account_slots::AccountSlots;
use crate::api::limits::RateLimit;
use crate::api::replica::Replica;
use crate::api::spool::SpoolSpace;
use crate::api::stream_places::StreamPlaces;
use crate::api::{self, Api, ApiState};
use crate::auth::account::Accounts;
use crate::auth::keys::KeyError;
use crate::auth::{Auth, AuthError};
use crate::clock::Clock;
use crate::coalesce::Coalescer;
use crate::commands::import::Imports;
use crate::commands::{Bus, idempotency};
use crate::config::{Config, ConfigError};
use crate::events::log::import;
use crate::events::log::notify::Subscription;
use crate::feed::tail::Tail;
use crate::pools::{self, Pools};
use crate::postgres::{Pool, Server};
use crate::projections::customer_count::CustomerCount;
use crate::projections::customer_history::CustomerHistory;
use crate::projections::customer_search::CustomerSearch;
use crate::projections::customers::Customers;
use crate::projections::projector::Projector;
use crate::projections::{self, Projection};
use crate::tasks::Tasks;
use crate::telemetry;

/// What a process waits for at its start.
mod start;

/// The port, and how it closes.
mod port;

/// The connections of the port.
mod serve;

/// Ends answers over HTTP/2 that their client does not take.
mod http2_answer;

/// Why a process cannot start.
mod error;

pub use self::error::StartError;
use self::port::Port;
use self::start::Opened;

/// How long queued commands may take to be appended at shutdown.
const APPEND_DRAIN: Duration = Duration::from_secs(2);

/// How long background tasks may take to end at shutdown.
const TASK_DRAIN: Duration = Duration::from_secs(2);

/// How long a connection that was accepted just before the port closed may take to bring its request.
const LAST_REQUESTS: Duration = Duration::from_millis(200);

/// How often expired idempotency keys and imports are deleted.
const PURGE_EVERY: Duration = Duration::from_mins(1);

/// One process of the service.
pub struct App {
    listener: TcpListener,
    service: Arc<api::Service>,
    bus: Bus,
    auth: Auth,
    /// Of `customers`, `customer_history` and `customer_search`.
    projectors: [Projector; 3],
    pools: Pools,
    shutdown: Shutdown,
    tasks: Tasks,
}

/// Starts the projectors. Returns those of the projections that the API reads.
fn follow(pools: &Pools, appends: &Subscription, tasks: &Tasks) -> [Projector; 3] {
    let start = |projection: &'static dyn Projection| {
        Projector::start(projection, pools.projector.clone(), appends.clone(), tasks)
    };
    let read: [&'static dyn Projection; 3] = [&Customers, &CustomerHistory, &CustomerSearch];
    let is_read = |other: &dyn Projection| read.iter().any(|read| read.name() == other.name());
    for other in projections::ALL.into_iter().filter(|other| !is_read(*other)) {
        start(other);
    }
    read.map(start)
}

/// The steps of a shutdown, in their order.
#[derive(Default)]
struct Shutdown {
    /// Cancelled when the process shall end.
    draining: CancellationToken,
    /// How long the process then goes on serving.
    drain_delay: Duration,
    /// Cancelled when the service accepts no more requests.
    stopping: CancellationToken,
}

/// The URL of the configured database.
pub fn database_url(config: &Config) -> Result<&SecretString, StartError> {
    config.database_url.as_ref().ok_or(StartError::Missing("DATABASE_URL"))
}

/// The URL of the configured Redis.
pub fn redis_url(config: &Config) -> Result<&SecretString, StartError> {
    config.redis_url.as_ref().ok_or(StartError::Missing("REDIS_URL"))
}

impl App {
    /// Checks the schema, binds the listener and starts the tasks. Starts without Redis, too.
    pub async fn build(mut config: Config, clock: Clock) -> Result<Self, StartError> {
        // Before anything that measures: what is registered without the recorder measures nothing.
        let metrics = telemetry::metrics();
        let listener = listen(&mut config).await?;
        let pools = Pools::new(database_url(&config)?)?;
        let (listener, Opened { pools, built_at, cursor_key }) =
            start::open(listener, &config, pools).await?;
        let tasks = Tasks::default();
        let auth = auth(&config, &cursor_key, &pools, &clock, &tasks)?;
        start::caught_up(&auth).await;
        auth.follow(&tasks);
        let bus = Bus::new(pools.appender.clone(), pools.short.clone());
        let read = config.read_database_url.as_ref().map(pools::replica).transpose()?;
        let of_replica = read.as_ref().map(|(short, _)| short.server());
        watch_servers([Some(&pools.server), pools.pooler.as_ref(), of_replica], &tasks);
        let purged = pools.short.clone();
        tasks.supervise("purge", move || purge(purged.clone()));
        tasks.supervise("metrics upkeep", telemetry::keep_up);
        tasks.watch(pools.appender.task().clone());
        let appends = Subscription::start(&pools.appender, pools.notify.clone(), &tasks);
        let [projector, history, search] = follow(&pools, &appends, &tasks);
        let tail = Tail::start(pools.short.clone(), appends.clone(), api::stream::frame, &tasks);
        let shutdown = Shutdown { drain_delay: config.drain_delay, ..Shutdown::default() };
        let api = Api::new(ApiState {
            bus: bus.clone(),
            imports: Imports::new(pools.import.clone(), pools.appender.clone()),
            auth: auth.clone(),
            short: pools.short.clone(),
            long: pools.long.clone(),
            replica: read.map(|(short, long)| Replica::new(short, long, config.replica_max_lag)),
            rebuild: pools.rebuild.clone(),
            projector: projector.clone(),
            history: history.clone(),
            search: search.clone(),
            customer_count: CustomerCount::default(),
            built_at,
            clock,
            metrics,
            measured: pools.all().cloned().collect(),
            trusted_proxies: config.trusted_proxies.clone(),
            https: config.is_https(),
            require_if_match: config.require_if_match,
            public_path: config.public_path().to_owned(),
            openapi: api::openapi_json(config.public_path(), auth.cookies().shared_name()).into(),
            feed_url: format!("{}/events", config.public_url()),
            tail,
            cursor_key: api::cursor_key(&cursor_key),
            spool: SpoolSpace::new(config.spool_dir(), config.spool_limit),
            customer_reads: Coalescer::new(tasks.tracker()),
            youngest_reads: Coalescer::new(tasks.tracker()),
            stream_places: StreamPlaces::new(api::stream::STREAMS_MAX, api::stream::PER_ACCOUNT),
            import_slots: Arc::new(Semaphore::new(api::import::IMPORTS_MAX)),
            account_imports: AccountSlots::new("imports", api::import::PER_ACCOUNT),
            account_lists: AccountSlots::new("long lists", api::list::PER_ACCOUNT),
            account_queries: AccountSlots::new("long queries", 1),
            requests: AtomicU64::new(0),
            tasks: tasks.clone(),
            draining: shutdown.draining.clone(),
            stopping: shutdown.stopping.clone(),
        });
        api.watch_replica();
        let rate_limit = RateLimit::new(config.rate_limit, &tasks);
        let service = Arc::new(api::Service::new(api, rate_limit.as_ref(), &config.cors_origins));
        let projectors = [projector, history, search];
        Ok(Self { listener, service, bus, auth, projectors, pools, shutdown, tasks })
    }

    /// The address of the listener.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("a bound listener has an address")
    }

    #[must_use]
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// The projector of the projection `customers`.
    #[must_use]
    pub fn projector(&self) -> &Projector {
        &self.projectors[0]
    }

    /// The projector of the projection `customer_history`.
    #[must_use]
    pub fn history(&self) -> &Projector {
        &self.projectors[1]
    }

    /// The projector of the projection `customer_search`.
    #[must_use]
    pub fn search(&self) -> &Projector {
        &self.projectors[2]
    }

    #[must_use]
    pub fn pools(&self) -> &Pools {
        &self.pools
    }

    /// Serves until `stop` is cancelled. Then the process is not ready, and serves for the drain delay:
    /// every answer closes its connection, so that a proxy has none left that it could use. Then it
    /// accepts no more connections, and waits up to `drain` for the requests in flight.
    pub async fn run(self, stop: CancellationToken, drain: Duration) {
        let close = CancellationToken::new();
        let port = Port::new(self.listener, close.clone());
        let service = self.service;
        let answer =
            move |peer: SocketAddr, request| Arc::clone(&service).answer(peer.ip(), request);
        let serve = serve::serve(port, answer, self.shutdown.stopping.clone());
        let deadline = async {
            stop.cancelled().await;
            self.shutdown.draining.cancel();
            if !self.shutdown.drain_delay.is_zero() {
                tracing::info!(delay = ?self.shutdown.drain_delay, "shutdown: not ready, still serving");
                tokio::time::sleep(self.shutdown.drain_delay).await;
                close.cancel();
                tokio::time::sleep(LAST_REQUESTS).await;
            }
            self.shutdown.stopping.cancel();
            tokio::time::sleep(drain).await;
        };
        tokio::select! {
            () = serve => {}
            () = deadline => {}
        }
        // Commands whose clients have disconnected are still appended.
        let begun = async {
            tokio::join!(self.bus.drain(), self.auth.drain());
            self.pools.appender.stop().await;
        };
        if tokio::time::timeout(APPEND_DRAIN, begun).await.is_err() {
            tracing::warn!(limit = ?APPEND_DRAIN, "shutdown: commands still running, exiting");
        }
        if !self.tasks.shut_down(TASK_DRAIN).await {
            tracing::warn!(limit = ?TASK_DRAIN, "shutdown: tasks still running, exiting");
        }
        // With a timeout: a request that still holds a connection must not keep the process alive.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.pools.close()).await;
    }
}

/// Binds the port, and puts its number where the configuration has 0: the public URL contains it.
async fn listen(config: &mut Config) -> Result<TcpListener, StartError> {
    let failed = |error| StartError::Listen(config.listen, error);
    let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
    config.listen = listener.local_addr().map_err(failed)?;
    Ok(listener)
}

/// Accounts, tokens and sessions of this process.
fn auth(
    config: &Config,
    secret: &str,
    pools: &Pools,
    clock: &Clock,
    tasks: &Tasks,
) -> Result<Auth, StartError> {
    let accounts = Accounts::new(pools.accounts.clone(), pools.appender.clone());
    redis_url(config)?;
    Auth::new(config, secret, accounts, clock.clone(), tasks).map_err(|error| match error {
        AuthError::Config(error) => StartError::Config(error),
        AuthError::Keys(error @ KeyError::Folder { .. }) => {
            StartError::Config(ConfigError::new("CUSTOMERS_KEYS_DIR", error.to_string()))
        }
        error => error.into(),
    })
}

/// Watches PostgreSQL, the pooler and the replica: each may become another server, or have further hosts.
fn watch_servers(servers: [Option<&Server>; 3], tasks: &Tasks) {
    for (name, server) in
        ["postgres watch", "pooler watch", "replica host watch"].iter().zip(servers)
    {
        if let Some(server) = server.cloned() {
            tasks.supervise(*name, move || server.clone().watch());
        }
    }
}

/// Deletes expired idempotency keys and imports, for as long as the process runs.
async fn purge(pool: Pool) {
    loop {
        if let Err(error) = idempotency::purge(&pool).await {
            tracing::warn!(%error, "purge: idempotency keys failed, retrying");
        }
        if let Err(error) = import::purge(&pool).await {
            tracing::warn!(%error, "purge: imports failed, retrying");
        }
        tokio::time::sleep(PURGE_EVERY).await;
    }
}
