//! The connections to PostgreSQL, in pools named by what they are for.

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
const READ_CONNECTIONS: u32 = 16;

/// Connections for long queries: lists of all customers, comparisons with the log.
const BULK_CONNECTIONS: u32 = 4;

/// Connections that look after rebuilds, two each. One more holds the lock of each, and up to four
/// that fill its tables are its own.
const REBUILD_CONNECTIONS: u32 = 4;

/// Connections that append chunks of imports: one per import, and one to spare.
const IMPORT_CONNECTIONS: u32 = 5;

/// How long a request waits for a connection before it is told that the database is unavailable.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(2);

/// How long a request waits for a connection to a replica.
const REPLICA_ACQUIRE_LIMIT: Duration = Duration::from_millis(500);

/// The same for long queries: there are few connections, and the others end.
const BULK_ACQUIRE_LIMIT: Duration = Duration::from_secs(20);

/// The same for a rebuild: others end before it.
const REBUILD_ACQUIRE_LIMIT: Duration = Duration::from_mins(10);

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
    pub notify: PgPool,
}

impl Pools {
    /// Connects lazily.
    ///
    /// # Errors
    /// When the URL is none.
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
            // An index over many rows takes its time, but not for a process that was killed, or a
            // machine that is gone. What is lost in a crash is lost with the note that it was done.
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
            // Others may be many before it; it has time.
            import: pool(
                "customers import",
                IMPORT_CONNECTIONS,
                ACQUIRE_LIMIT,
                &[("lock_timeout", "10s"), ("statement_timeout", "15s")],
            ),
            // What it says need not survive a crash.
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

    /// Waits for what is at work.
    pub async fn close(&self) {
        tokio::join!(
            self.accounts.close(),
            self.read.close(),
            self.bulk.close(),
            self.projector.close(),
            self.rebuild.close(),
            self.import.close(),
            self.notify.close()
        );
    }
}

/// Connections to a replica: for short queries and for long ones. Those that find none soon ask the
/// primary.
///
/// # Errors
/// When the URL is none.
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
    Ok((pool(READ_CONNECTIONS, "5s"), pool(BULK_CONNECTIONS, "300s")))
}

fn address(url: &SecretString, variable: &'static str) -> Result<PgConnectOptions, ConfigError> {
    url.expose_secret().parse::<PgConnectOptions>().map_err(|error| ConfigError {
        variable,
        problem: error.source().map_or_else(|| error.to_string(), ToString::to_string),
    })
}
