//! Connections to PostgreSQL, in pools by purpose.

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

/// Connections for short queries. PostgreSQL does not get faster by more of them than cores.
const SHORT_CONNECTIONS: u32 = 16;

/// Connections for long queries: lists of all customers, comparisons with the log.
const LONG_CONNECTIONS: u32 = 4;

/// Connections that coordinate rebuilds, two each. Each rebuild has one more for its lock, and one for
/// each backfill worker.
const REBUILD_CONNECTIONS: u32 = 4;

/// Connections that append chunks of imports: one per import, and one to spare.
const IMPORT_CONNECTIONS: u32 = 5;

/// How long a request waits for a connection before it is told that the database is unavailable.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(2);

/// How long a request waits for a connection to a replica.
const REPLICA_ACQUIRE_LIMIT: Duration = Duration::from_millis(500);

/// The same for long queries: there are few connections, and their queries end.
const LONG_ACQUIRE_LIMIT: Duration = Duration::from_secs(20);

/// The same for a rebuild: those before it end.
const REBUILD_ACQUIRE_LIMIT: Duration = Duration::from_mins(10);

/// One pool per purpose, each with limits of its own, so that none starves another. `pg_stat_activity`
/// shows the purpose.
#[derive(Clone)]
pub struct Pools {
    /// Appends all events; it has a connection of its own.
    pub appender: Appender,
    pub accounts: PgPool,
    /// Short queries, and the small writes beside them.
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
    /// Connects lazily.
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
            // An index over many rows takes long, but not for a process that was killed or a machine
            // that is gone. What a crash loses, it loses together with the record that it was done.
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
            // Many commands may be before it; an import has time.
            import: pool(
                "customers import",
                IMPORT_CONNECTIONS,
                ACQUIRE_LIMIT,
                &[("lock_timeout", "10s"), ("statement_timeout", "15s")],
            ),
            // A notification need not survive a crash.
            notify: pool(
                "customers growth",
                notify::CONNECTIONS,
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

/// Connections to a replica: for short queries and for long ones. A request that gets none in time asks
/// the primary.
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
