//! Connections to PostgreSQL: one pool per purpose.

use std::error::Error as _;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::config::ConfigError;
use crate::events::log::Appender;
use crate::events::log::notify;
use crate::projections::{self, rebuild};

/// Connections that change accounts.
const ACCOUNT_CONNECTIONS: u32 = 4;

/// Connections for short queries. More connections than cores do not make PostgreSQL faster.
const SHORT_CONNECTIONS: u32 = 16;

/// Connections for long queries: lists of all customers, comparisons with the log.
const LONG_CONNECTIONS: u32 = 4;

/// Connections that coordinate rebuilds, two each. Each rebuild has one more for its lock, and one for
/// each backfill worker.
const REBUILD_CONNECTIONS: u32 = 4;

/// Connections that append chunks of imports: one per import, and one spare.
const IMPORT_CONNECTIONS: u32 = 5;

/// How long a request waits for a connection before it is answered 503.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(2);

/// How long a request waits for a connection to a replica.
const REPLICA_ACQUIRE_LIMIT: Duration = Duration::from_millis(500);

/// How long a request waits for a connection for a long query: there are few, but their queries end.
const LONG_ACQUIRE_LIMIT: Duration = Duration::from_secs(20);

/// How long a rebuild waits for a connection: until earlier rebuilds end.
const REBUILD_ACQUIRE_LIMIT: Duration = Duration::from_mins(10);

/// One pool per purpose, each with limits of its own, so that none starves another. `pg_stat_activity`
/// shows the purpose.
#[derive(Clone)]
pub struct Pools {
    /// Appends all events; it has a connection of its own.
    pub appender: Appender,
    pub accounts: PgPool,
    /// Short queries and small writes.
    pub short: PgPool,
    /// Long queries: lists of all customers, comparisons with the log.
    pub long: PgPool,
    pub projector: PgPool,
    /// Rebuilds.
    pub rebuild: PgPool,
    pub import: PgPool,
    /// Notifications that the log has grown.
    pub notify: PgPool,
}

impl Pools {
    /// Makes the pools, which connect lazily; fails if the URL is invalid.
    pub fn new(url: &SecretString) -> Result<Self, ConfigError> {
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
                // Saves a round trip per query; on a dead connection the query itself fails.
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
            short: pool("customers read", SHORT_CONNECTIONS, ACQUIRE_LIMIT, &limited),
            long: pool(
                "customers bulk",
                LONG_CONNECTIONS,
                LONG_ACQUIRE_LIMIT,
                &[
                    ("lock_timeout", "10s"),
                    ("statement_timeout", "300s"),
                    ("idle_in_transaction_session_timeout", "60s"),
                ],
            ),
            // An index over many rows takes long, but PostgreSQL must not build it for a process that was
            // killed or a machine that is gone. `synchronous_commit` may be off, because a crash that loses
            // work also loses the record that it was done.
            rebuild: pool(
                rebuild::APPLICATION_NAME,
                REBUILD_CONNECTIONS,
                REBUILD_ACQUIRE_LIMIT,
                &[
                    ("lock_timeout", "10s"),
                    ("statement_timeout", "1h"),
                    ("idle_in_transaction_session_timeout", "60s"),
                    ("synchronous_commit", "off"),
                    ("client_connection_check_interval", "1s"),
                    ("tcp_keepalives_idle", "10"),
                    ("tcp_keepalives_interval", "5"),
                    ("tcp_keepalives_count", "4"),
                ],
            ),
            // Many commands may hold the append lock before a chunk, and an import can wait.
            import: pool(
                "customers import",
                IMPORT_CONNECTIONS,
                ACQUIRE_LIMIT,
                &[("lock_timeout", "10s"), ("statement_timeout", "15s")],
            ),
            // `synchronous_commit` may be off: a notification need not survive a crash.
            notify: pool(
                "customers growth",
                notify::CONNECTIONS,
                ACQUIRE_LIMIT,
                &[("statement_timeout", "5s"), ("synchronous_commit", "off")],
            ),
            // A commit need not wait for the disk: a crash that loses it also loses its checkpoint, and
            // the projector applies the events again.
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

    /// Closes all pools; waits for the connections that are in use.
    pub async fn close(&self) {
        tokio::join!(
            self.accounts.close(),
            self.short.close(),
            self.long.close(),
            self.projector.close(),
            self.rebuild.close(),
            self.import.close(),
            self.notify.close()
        );
    }
}

/// Pools of connections to a replica, for short and for long queries. A request that gets no connection in
/// time reads from the primary.
pub fn replica(url: &SecretString) -> Result<(PgPool, PgPool), ConfigError> {
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
    Ok((pool(SHORT_CONNECTIONS, "5s"), pool(LONG_CONNECTIONS, "300s")))
}

fn address(url: &SecretString, variable: &'static str) -> Result<PgConnectOptions, ConfigError> {
    url.expose_secret().parse::<PgConnectOptions>().map_err(|error| {
        let problem = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        ConfigError::new(variable, problem)
    })
}
