//! The rooms put together: one process of the service, the same in `main` and in tests.

use std::error::Error as _;
use std::future::IntoFuture as _;
use std::net::SocketAddr;
use std::time::Duration;

use axum::serve::ListenerExt as _;
use secrecy::{ExposeSecret as _, SecretString};
use socket2::SockRef;
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::api::replica::Replica;
use crate::api::{self, Api, limits};
use crate::auth::account::Accounts;
use crate::auth::{Auth, AuthError};
use crate::clock::Clock;
use crate::commands::import::Imports;
use crate::commands::{Bus, idempotency};
use crate::config::Config;
use crate::events::log::Appender;
use crate::events::log::growth::{self, Growth};
use crate::events::log::import;
use crate::events::log::tail::Tail;
use crate::projections::customer_history::CustomerHistory;
use crate::projections::customers::Customers;
use crate::projections::others;
use crate::projections::projector::Projector;
use crate::projections::{self, Projection};
use crate::schema::{self, SchemaError};
use crate::telemetry;

/// Connections that change accounts.
const ACCOUNT_CONNECTIONS: u32 = 4;

/// Connections for short queries. PostgreSQL does not get faster by more of them than cores.
const READ_CONNECTIONS: u32 = 16;

/// Connections for long queries: lists of all customers, rebuilds.
const BULK_CONNECTIONS: u32 = 4;

/// Connections that rebuild a projection: one for each part that is filled at once, and two that look
/// after it. Filling is work for PostgreSQL and for us in turn, so some more than cores keep both
/// busy.
const REBUILD_CONNECTIONS: u32 = 6;

/// Connections that append chunks of imports: one per import, and one to spare.
const IMPORT_CONNECTIONS: u32 = 5;

/// How long a request waits for a connection before it is told that the database is unavailable.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(2);

/// How long a request waits for a connection to a replica.
const REPLICA_ACQUIRE_LIMIT: Duration = Duration::from_millis(500);

/// The same for long queries: there are few connections, and the others end.
const BULK_ACQUIRE_LIMIT: Duration = Duration::from_secs(20);

/// The same for the parts of a rebuild: those before them end.
const REBUILD_ACQUIRE_LIMIT: Duration = Duration::from_mins(10);

/// How long commands that wait to be appended may take when the service stops.
const APPEND_DRAIN: Duration = Duration::from_secs(2);

/// How often keys that nobody will use again are forgotten.
const PURGE_EVERY: Duration = Duration::from_mins(1);

/// How long a client may take nothing of its answer before it is cut off.
#[cfg(target_os = "linux")]
const STALLED_FOR: Duration = Duration::from_secs(30);

/// How much of an answer waits in the kernel behind what is on its way, in bytes.
#[cfg(target_os = "linux")]
const UNSENT_MAX: u32 = 128 * 1024;

/// One process of the service.
pub struct App {
    listener: TcpListener,
    router: axum::Router,
    bus: Bus,
    projector: Projector,
    history: Projector,
    pools: Pools,
    /// Cancelled when the service takes no more requests.
    stopping: CancellationToken,
    /// Cancelled when those at work have ended.
    shutdown: CancellationToken,
}

/// Why a process cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0} is not set")]
    Missing(&'static str),
    /// The variable's value looks like an address and is none.
    #[error("{0} cannot be used: {1}")]
    Address(&'static str, String),
    #[error("PostgreSQL")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Schema(#[from] SchemaError),
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
    #[error("{0}")]
    Auth(#[from] AuthError),
}

/// Named by what they are for, in `pg_stat_activity` too; each with its own limits, so that none
/// starves another.
#[derive(Clone)]
pub struct Pools {
    /// Everything that is appended goes through it; it has a connection of its own.
    pub appender: Appender,
    pub accounts: PgPool,
    pub read: PgPool,
    pub bulk: PgPool,
    pub projector: PgPool,
    /// Fills and swaps tables.
    pub rebuild: PgPool,
    pub import: PgPool,
    /// Says and hears that the log has grown.
    pub growth: PgPool,
}

/// Connections to a replica for short queries and for long ones. Those that find none soon ask the
/// primary.
fn replica(url: &SecretString) -> Result<Replica, StartError> {
    let options = address(url, "DATABASE_READ_URL")?.application_name("customers replica");
    let pool = |max, statement_timeout| {
        PgPoolOptions::new()
            .max_connections(max)
            .acquire_timeout(REPLICA_ACQUIRE_LIMIT)
            .test_before_acquire(false)
            .connect_lazy_with(options.clone().options([
                ("statement_timeout", statement_timeout),
                ("idle_in_transaction_session_timeout", "60s"),
            ]))
    };
    Ok(Replica::new(pool(READ_CONNECTIONS, "5s"), pool(BULK_CONNECTIONS, "300s")))
}

fn address(url: &SecretString, variable: &'static str) -> Result<PgConnectOptions, StartError> {
    url.expose_secret().parse::<PgConnectOptions>().map_err(|error| {
        let problem = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        StartError::Address(variable, problem)
    })
}

impl Pools {
    /// Connects lazily.
    ///
    /// # Errors
    /// When the URL is none.
    pub fn new(url: &SecretString) -> Result<Self, StartError> {
        let options = address(url, "DATABASE_URL")?;
        let limited = [
            ("lock_timeout", "2s"),
            ("statement_timeout", "5s"),
            ("idle_in_transaction_session_timeout", "2s"),
        ];
        let pool = |name, max, wait, settings: &[(&'static str, &'static str)]| {
            PgPoolOptions::new()
                .max_connections(max)
                .acquire_timeout(wait)
                // Saves a round trip per query; a connection that died is noticed by the query.
                .test_before_acquire(false)
                .connect_lazy_with(
                    options.clone().application_name(name).options(settings.iter().copied()),
                )
        };
        Ok(Self {
            appender: Appender::start(
                options.clone().application_name("customers append").options(limited),
            ),
            accounts: pool("customers accounts", ACCOUNT_CONNECTIONS, ACQUIRE_LIMIT, &limited),
            read: pool("customers read", READ_CONNECTIONS, ACQUIRE_LIMIT, &limited),
            bulk: pool(
                "customers bulk",
                BULK_CONNECTIONS,
                BULK_ACQUIRE_LIMIT,
                &[
                    ("lock_timeout", "10s"),
                    ("statement_timeout", "300s"),
                    ("idle_in_transaction_session_timeout", "60s"),
                ],
            ),
            // An index over many rows takes its time. What is lost in a crash is lost with the note
            // that it was done.
            rebuild: pool(
                others::REBUILD,
                REBUILD_CONNECTIONS,
                REBUILD_ACQUIRE_LIMIT,
                &[
                    ("lock_timeout", "10s"),
                    ("statement_timeout", "1h"),
                    ("idle_in_transaction_session_timeout", "60s"),
                    ("synchronous_commit", "off"),
                ],
            ),
            // Others may be many before it; it has time.
            import: pool(
                "customers import",
                IMPORT_CONNECTIONS,
                ACQUIRE_LIMIT,
                &[("lock_timeout", "10s"), ("statement_timeout", "15s")],
            ),
            // What it says need not survive a crash.
            growth: pool(
                "customers growth",
                growth::CONNECTIONS,
                ACQUIRE_LIMIT,
                &[("statement_timeout", "5s"), ("synchronous_commit", "off")],
            ),
            // A commit that is lost in a crash takes its checkpoint with it and comes back from the
            // log, so it need not wait for the disk.
            projector: pool(
                "customers projector",
                u32::try_from(projections::ALL.len()).unwrap_or(u32::MAX),
                ACQUIRE_LIMIT,
                &[
                    ("lock_timeout", "2s"),
                    ("statement_timeout", "5s"),
                    ("idle_in_transaction_session_timeout", "2s"),
                    ("synchronous_commit", "off"),
                ],
            ),
        })
    }

    async fn close(&self) {
        tokio::join!(
            self.accounts.close(),
            self.read.close(),
            self.bulk.close(),
            self.projector.close(),
            self.rebuild.close(),
            self.import.close(),
            self.growth.close()
        );
    }
}

/// The configured database.
///
/// # Errors
/// When none is configured.
pub fn database_url(config: &Config) -> Result<&SecretString, StartError> {
    config.database_url.as_ref().ok_or(StartError::Missing("DATABASE_URL"))
}

/// The configured Redis.
///
/// # Errors
/// When none is configured.
pub fn redis_url(config: &Config) -> Result<&SecretString, StartError> {
    config.redis_url.as_ref().ok_or(StartError::Missing("REDIS_URL"))
}

impl App {
    /// Listens, checks the schema, gets ready to serve. Does not wait for Redis.
    ///
    /// # Errors
    /// Says what is missing.
    pub async fn build(mut config: Config, clock: Clock) -> Result<Self, StartError> {
        let pools = Pools::new(database_url(&config)?)?;
        schema::check(database_url(&config)?).await?;
        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(|error| StartError::Listen(config.listen, error))?;
        // The public URL follows from it; the port may have been 0.
        config.listen =
            listener.local_addr().map_err(|error| StartError::Listen(config.listen, error))?;

        let shutdown = CancellationToken::new();
        let auth = Auth::new(
            &config,
            redis_url(&config)?.expose_secret(),
            Accounts::new(pools.accounts.clone(), pools.appender.clone()),
            clock.clone(),
        )
        .map_err(|error| match error {
            // Nobody has called Redis yet: it is the URL.
            AuthError::Store(error) => StartError::Address("REDIS_URL", error.to_string()),
            error => error.into(),
        })?;
        let bus = Bus::new(pools.appender.clone(), pools.read.clone());
        tokio::spawn(shutdown.clone().run_until_cancelled_owned(purge(pools.read.clone())));
        let growth = Growth::start(&pools.appender, pools.growth.clone(), &shutdown);
        let follow = |projection: &'static dyn Projection| {
            let growth = growth.clone();
            Projector::start(projection, pools.projector.clone(), growth, shutdown.clone())
        };
        let (projector, history) = (follow(&Customers), follow(&CustomerHistory));
        let served = [Customers.name(), CustomerHistory.name()];
        for other in projections::ALL.into_iter().filter(|other| !served.contains(&other.name())) {
            let _ = follow(other);
        }
        let frame = api::stream::frame;
        let tail = Tail::start(pools.read.clone(), growth.clone(), frame, &shutdown);
        let stopping = CancellationToken::new();
        let api = Api::new(api::Parts {
            bus: bus.clone(),
            imports: Imports::new(pools.import.clone(), pools.appender.clone()),
            auth,
            read: pools.read.clone(),
            bulk: pools.bulk.clone(),
            replica: config.read_database_url.as_ref().map(replica).transpose()?,
            rebuild: pools.rebuild.clone(),
            projector: projector.clone(),
            history: history.clone(),
            clock,
            metrics: telemetry::metrics(),
            trusted_proxies: config.trusted_proxies.clone(),
            https: config.is_https(),
            feed_url: format!("{}/events", config.public_url()),
            tail,
            stopping: stopping.clone(),
        });
        let rate_limit = limits::rate_limit(config.rate_limit, &shutdown);
        let router = api::router(api, rate_limit.as_ref());
        Ok(Self { listener, router, bus, projector, history, pools, stopping, shutdown })
    }

    /// Where it listens.
    ///
    /// # Panics
    /// Never: the listener was bound.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("a bound listener has an address")
    }

    #[must_use]
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// That of the projection `customers`.
    #[must_use]
    pub fn projector(&self) -> &Projector {
        &self.projector
    }

    /// That of the projection `customer_history`.
    #[must_use]
    pub fn history(&self) -> &Projector {
        &self.history
    }

    #[must_use]
    pub fn pools(&self) -> &Pools {
        &self.pools
    }

    /// Serves until `stop` is cancelled, then takes no more connections and gives the requests at
    /// work `drain` to end.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn run(self, stop: CancellationToken, drain: Duration) -> std::io::Result<()> {
        let service = self.router.into_make_service_with_connect_info::<SocketAddr>();
        let listener = self.listener.tap_io(|stream| set_options(stream));
        let serve = axum::serve(listener, service)
            .with_graceful_shutdown(stop.clone().cancelled_owned())
            .into_future();
        let deadline = async {
            stop.cancelled().await;
            self.stopping.cancel();
            tokio::time::sleep(drain).await;
        };
        let served = tokio::select! {
            served = serve => served,
            () = deadline => Ok(()),
        };
        self.shutdown.cancel();
        // What clients asked for and no longer wait for still reaches the log.
        let _ = tokio::time::timeout(APPEND_DRAIN, self.pools.appender.stop()).await;
        // A connection that some request still holds does not keep the process.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.pools.close()).await;
        served
    }
}

/// Options of one connection. None of them is needed to serve, so none of them may fail it.
fn set_options(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    // An answer is one small packet: waiting to fill it (Nagle) would only delay it.
    let _ = socket.set_tcp_nodelay(true);
    #[cfg(target_os = "linux")]
    {
        // Who takes nothing loses the connection, and until then costs the kernel little.
        let _ = socket.set_tcp_user_timeout(Some(STALLED_FOR));
        let _ = socket.set_tcp_notsent_lowat(UNSENT_MAX);
    }
}

/// Forgets old keys and imports, for as long as the process runs.
async fn purge(pool: PgPool) {
    loop {
        if let Err(error) = idempotency::purge(&pool).await {
            tracing::warn!(%error, "old idempotency keys cannot be forgotten");
        }
        if let Err(error) = import::purge(&pool).await {
            tracing::warn!(%error, "old imports cannot be forgotten");
        }
        tokio::time::sleep(PURGE_EVERY).await;
    }
}
