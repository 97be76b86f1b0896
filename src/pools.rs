//! Connections to PostgreSQL: one pool per purpose.

use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use crate::config::ConfigError;
use crate::events::log::Appender;
use crate::events::log::notify;
use crate::postgres::server::Demand;
use crate::postgres::settings::Settings;
use crate::postgres::{Pool, Server};
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
    /// The server that all of them lead to.
    pub server: Server,
    /// The pooler through which some of their statements go.
    pub pooler: Option<Server>,
    /// Appends all events; it has a connection of its own.
    pub appender: Appender,
    pub accounts: Pool,
    /// Short queries and small writes.
    pub short: Pool,
    /// Long queries: lists of all customers, comparisons with the log.
    pub long: Pool,
    pub projector: Pool,
    /// Rebuilds.
    pub rebuild: Pool,
    pub import: Pool,
    /// Notifications that the log has grown.
    pub notify: Pool,
}

/// For statements that a client waits for.
const LIMITED: Settings = &[
    ("lock_timeout", "2s"),
    ("statement_timeout", "5s"),
    ("idle_in_transaction_session_timeout", "2s"),
];

/// For the appender. A generic plan: planning each call costs more than a small batch.
const APPEND: Settings = &[
    ("lock_timeout", "2s"),
    ("statement_timeout", "5s"),
    ("idle_in_transaction_session_timeout", "2s"),
    ("plan_cache_mode", "force_generic_plan"),
];

/// For long queries.
const LONG: Settings = &[
    ("lock_timeout", "10s"),
    ("statement_timeout", "300s"),
    ("idle_in_transaction_session_timeout", "60s"),
];

/// An index over many rows takes long, but PostgreSQL must not build it for a process that was killed or
/// a machine that is gone. `synchronous_commit` may be off, because a crash that loses work also loses
/// the record that it was done.
const REBUILD: Settings = &[
    ("lock_timeout", "10s"),
    ("statement_timeout", "1h"),
    ("idle_in_transaction_session_timeout", "60s"),
    ("synchronous_commit", "off"),
    ("client_connection_check_interval", "1s"),
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "4"),
];

/// Many commands may hold the append lock before a chunk, and an import can wait.
const IMPORT: Settings = &[
    ("lock_timeout", "10s"),
    ("statement_timeout", "15s"),
    ("idle_in_transaction_session_timeout", "60s"),
];

/// `synchronous_commit` may be off: a notification need not survive a crash.
const NOTIFY: Settings = &[
    ("lock_timeout", "2s"),
    ("statement_timeout", "5s"),
    ("idle_in_transaction_session_timeout", "60s"),
    ("synchronous_commit", "off"),
];

/// A commit need not wait for the disk: a crash that loses it also loses its checkpoint, and the
/// projector applies the events again.
///
/// A plan is kept for as long as the connection. One that was made on an empty log would read all of it for each
/// page, until PostgreSQL has counted its rows; so a page is read by the index in any case.
const PROJECTOR: Settings = &[
    ("lock_timeout", "2s"),
    ("statement_timeout", "5s"),
    ("idle_in_transaction_session_timeout", "2s"),
    ("synchronous_commit", "off"),
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_sort", "off"),
];

/// For short queries on a replica.
const REPLICA: Settings = &[
    ("lock_timeout", "2s"),
    ("statement_timeout", "5s"),
    ("idle_in_transaction_session_timeout", "60s"),
];

impl Pools {
    /// Makes the pools, which connect lazily; fails if the URL is invalid.
    pub fn new(url: &SecretString) -> Result<Self, ConfigError> {
        let server = server(url, "DATABASE_URL", Demand::Primary)?;
        let projectors = u32::try_from(projections::ALL.len()).unwrap_or(u32::MAX);
        let pool = |name, max, wait, settings| Pool::new(&server, name, max, wait, settings);
        Ok(Self {
            appender: Appender::start(server.clone(), APPEND),
            accounts: pool("customers accounts", ACCOUNT_CONNECTIONS, ACQUIRE_LIMIT, LIMITED),
            short: pool("customers read", SHORT_CONNECTIONS, ACQUIRE_LIMIT, LIMITED),
            long: pool("customers bulk", LONG_CONNECTIONS, LONG_ACQUIRE_LIMIT, LONG),
            rebuild: pool(
                rebuild::APPLICATION_NAME,
                REBUILD_CONNECTIONS,
                REBUILD_ACQUIRE_LIMIT,
                REBUILD,
            ),
            import: pool("customers import", IMPORT_CONNECTIONS, ACQUIRE_LIMIT, IMPORT),
            notify: pool("customers growth", notify::CONNECTIONS, ACQUIRE_LIMIT, NOTIFY),
            projector: pool("customers projector", projectors, ACQUIRE_LIMIT, PROJECTOR),
            pooler: None,
            server,
        })
    }

    /// Sends reads, log-ins and small statements through a pooler in transaction mode.
    pub fn with_pooler(self, url: &SecretString) -> Result<Self, ConfigError> {
        let pooler = server(url, "DATABASE_POOL_URL", Demand::PooledPrimary)?;
        let accounts = self.accounts.with_pooler(&pooler, ACCOUNT_CONNECTIONS, ACQUIRE_LIMIT);
        let short = self.short.with_pooler(&pooler, SHORT_CONNECTIONS, ACQUIRE_LIMIT);
        Ok(Self { accounts, short, pooler: Some(pooler), ..self })
    }

    /// All pools.
    pub fn all(&self) -> impl Iterator<Item = &Pool> {
        let Self { accounts, short, long, projector, rebuild, import, notify, .. } = self;
        [accounts, short, long, projector, rebuild, import, notify].into_iter()
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
pub fn replica(url: &SecretString) -> Result<(Pool, Pool), ConfigError> {
    let server = server(url, "DATABASE_READ_URL", Demand::Standby)?;
    let pool = |max, settings| {
        Pool::new(&server, "customers replica", max, REPLICA_ACQUIRE_LIMIT, settings)
    };
    Ok((pool(SHORT_CONNECTIONS, REPLICA), pool(LONG_CONNECTIONS, LONG)))
}

/// The server of a URL; the error names the variable.
pub fn server(
    url: &SecretString,
    variable: &'static str,
    demand: Demand,
) -> Result<Server, ConfigError> {
    Server::new(url.expose_secret(), demand)
        .map_err(|error| ConfigError::new(variable, error.to_string()))
}
