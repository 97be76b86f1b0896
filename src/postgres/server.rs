//! One server of PostgreSQL, as an URL names it: one or more hosts, of which one accepts writes (or, for
//! reads, is a standby). Each connection gets the settings that the service relies on, whatever role,
//! database and cluster set. They are set after connecting and not in the startup packet, which
//! PgBouncer refuses.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, PgConnection, Row as _};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use super::address::{Address, AddressError, Wanted};
use super::lost::is_lost;

/// How long connecting to one host may take while requests wait for it.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// How long connecting to one host may take otherwise.
pub const PATIENT_LIMIT: Duration = Duration::from_secs(10);

/// How often the server is asked whether it is still the same, and how long it may take to answer.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// The pause between two attempts to find a host.
const SEARCH_EVERY: Duration = Duration::from_millis(200);

/// The settings of every connection. One that the server does not know is left out.
const PINNED: [(&str, &str); 9] = [
    // The names of tables in the statements of the service have no schema.
    ("search_path", "public"),
    // Events are appended, and tables filled, under locks: a snapshot from before the lock shows less.
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_deferrable", "off"),
    ("standard_conforming_strings", "on"),
    // Policies of others apply as PostgreSQL means them; off would refuse tables that have one.
    ("row_security", "on"),
    // Migration 8 compares definitions as PostgreSQL writes them without needless quotes.
    ("quote_all_identifiers", "off"),
    // Pools close idle connections themselves.
    ("idle_session_timeout", "0"),
    ("transaction_timeout", "0"),
    ("array_nulls", "on"),
];

/// Settings by name, for all connections of one purpose.
pub type Settings = &'static [(&'static str, &'static str)];

/// What the server must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// It accepts writes: it is not in recovery.
    Primary,
    /// It is in recovery.
    Standby,
}

/// The server; clones share it.
#[derive(Clone)]
pub struct Server(Arc<Shared>);

struct Shared {
    address: Address,
    demand: Demand,
    /// The index of the host that is used.
    host: AtomicUsize,
    /// Connections that were opened before this moment are used no more.
    valid_since: watch::Sender<Instant>,
    /// Wakes the watch.
    trouble: Notify,
}

/// A running server: the process that answers, and whether it is in recovery.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    in_recovery: bool,
    started_at: String,
}

impl Server {
    /// Parses the URL; does not connect.
    pub fn new(url: &str, demand: Demand) -> Result<Self, AddressError> {
        let address = Address::parse(url)?;
        let contradicts = match demand {
            Demand::Primary => Wanted::Standby,
            Demand::Standby => Wanted::Primary,
        };
        if address.wanted == contradicts {
            return Err(AddressError::wrong_target(demand == Demand::Primary));
        }
        Ok(Self(Arc::new(Shared {
            address,
            demand,
            host: AtomicUsize::new(0),
            valid_since: watch::Sender::new(Instant::now()),
            trouble: Notify::new(),
        })))
    }

    /// The role that connects.
    #[must_use]
    pub fn username(&self) -> &str {
        self.options().get_username()
    }

    fn options(&self) -> &PgConnectOptions {
        &self.0.address.hosts[self.host()]
    }

    /// The index of the host that is used, and the options for a pool of that name.
    pub(super) fn host(&self) -> usize {
        self.0.host.load(Ordering::Relaxed)
    }

    pub(super) fn pool_options(&self, name: &str) -> PgConnectOptions {
        self.options().clone().application_name(name)
    }

    /// Connects to the first host that is what it should be, beginning with the one that is used.
    /// `limit` is for each host.
    pub async fn connect(
        &self,
        name: &str,
        settings: Settings,
        limit: Duration,
    ) -> Result<PgConnection, sqlx::Error> {
        let hosts = &self.0.address.hosts;
        let first = self.host();
        let mut problem = None;
        for at in (first..first + hosts.len()).map(|at| at % hosts.len()) {
            match self.open(hosts[at].clone().application_name(name), settings, limit).await {
                Ok(connection) => {
                    if at != first {
                        self.use_host(at);
                    }
                    return Ok(connection);
                }
                // The first host is the one that the operator knows about.
                Err(error) => problem = problem.or(Some(error)),
            }
        }
        Err(problem.unwrap_or(sqlx::Error::PoolTimedOut))
    }

    async fn open(
        &self,
        options: PgConnectOptions,
        settings: Settings,
        limit: Duration,
    ) -> Result<PgConnection, sqlx::Error> {
        let connect = async {
            let mut connection = options.connect().await?;
            self.prepare(&mut connection, Some(settings)).await?;
            Ok(connection)
        };
        let timed_out = || sqlx::Error::Io(std::io::ErrorKind::TimedOut.into());
        timeout(limit, connect).await.unwrap_or_else(|_| Err(timed_out()))
    }

    fn use_host(&self, at: usize) {
        self.0.host.store(at, Ordering::Relaxed);
        tracing::info!(host = self.options().get_host(), "postgres: another host is used");
        self.discard_connections();
    }

    /// A statement that sets the settings: those of the URL, [`PINNED`] and these, for the session or for the
    /// transaction. `set_config` fails where a name or a value is refused.
    pub(super) fn set_statement(&self, settings: Settings, of_transaction: bool) -> String {
        let own = self.0.address.settings.iter().map(|(name, value)| (&**name, &**value, false));
        let pinned = PINNED.into_iter().map(|(name, value)| (name, value, true));
        let given = settings.iter().map(|(name, value)| (*name, *value, false));
        let values: Vec<_> = own
            .chain(pinned)
            .chain(given)
            .map(|(name, value, optional)| {
                format!("({}, {}, {optional})", quoted(name), quoted(value))
            })
            .collect();
        format!(
            "select count(pg_catalog.set_config(name, value, {of_transaction}))
             from (values {}) as setting (name, value, optional)
             where not optional or pg_catalog.current_setting(name, true) is not null",
            values.join(", ")
        )
    }

    /// Sets the settings of a new connection, and refuses a server that is not what it should be. A pooled
    /// connection has no settings of its own: they would stay with the backend, for its next client.
    pub(super) async fn prepare(
        &self,
        connection: &mut PgConnection,
        settings: Option<Settings>,
    ) -> Result<(), sqlx::Error> {
        // One round trip, by the simple protocol.
        let set = settings.map(|settings| self.set_statement(settings, false) + ";");
        let statement = format!(
            "{} select pg_catalog.pg_is_in_recovery()::text, pg_catalog.getdatabaseencoding()::text",
            set.unwrap_or_default()
        );
        let mut rows = connection.fetch_all(statement.as_str()).await?;
        let server = rows.pop().ok_or(sqlx::Error::RowNotFound)?;
        let in_recovery = server.try_get_unchecked::<String, _>(0)? == "true";
        let encoding: String = server.try_get_unchecked(1)?;
        if encoding != "UTF8" {
            return Err(wrong(format!(
                "the database has the encoding {encoding}: create one with encoding 'UTF8'"
            )));
        }
        match (self.0.demand, in_recovery) {
            (Demand::Primary, true) => {
                self.0.trouble.notify_one();
                Err(elsewhere("the server is a standby, which accepts no writes"))
            }
            (Demand::Standby, false) => Err(elsewhere("the server is not a standby")),
            _ => Ok(()),
        }
    }

    /// Whether a connection of this age may still be used.
    pub(super) fn is_valid(&self, age: Duration) -> bool {
        Instant::now().checked_sub(age).is_some_and(|opened_at| self.is_valid_since(opened_at))
    }

    /// Whether a connection that was opened at that moment may still be used.
    #[must_use]
    pub fn is_valid_since(&self, opened_at: Instant) -> bool {
        opened_at >= *self.0.valid_since.borrow()
    }

    /// Lets every pool connect anew: the connections lead to a server that is gone, or another one now.
    pub fn discard_connections(&self) {
        self.0.valid_since.send_replace(Instant::now());
    }

    /// Reports the error of a statement; whether the connection was lost.
    #[must_use]
    pub fn report(&self, error: &sqlx::Error) -> bool {
        let lost = is_lost(error);
        if lost {
            self.discard_connections();
            self.0.trouble.notify_one();
        }
        lost
    }

    /// Waits until the connections that were open before are used no more.
    pub async fn replaced(&self) {
        // The sender lives as long as `self`.
        let _ = self.0.valid_since.subscribe().changed().await;
    }

    /// Asks the server once a second whether it is still the one that it was, for as long as the process
    /// runs. When it has become a standby, or its address leads to another server, all pools connect
    /// anew.
    pub async fn watch(self) {
        let mut seen: Option<Identity> = None;
        loop {
            let found = timeout(WATCH_EVERY, self.identify()).await;
            let Ok(Ok((mut connection, identity))) = found else {
                if let Ok(Err(error)) = found {
                    tracing::debug!(%error, "postgres: watch failed");
                }
                tokio::time::sleep(SEARCH_EVERY).await;
                continue;
            };
            if seen.as_ref().is_some_and(|seen| *seen != identity) {
                tracing::warn!("postgres: another server answers, all connections are replaced");
                self.discard_connections();
            }
            while let Ok(Ok(now)) = timeout(WATCH_EVERY, identity_of(&mut connection)).await {
                if now != identity {
                    tracing::warn!(
                        "postgres: the server became a standby, all connections are replaced"
                    );
                    self.discard_connections();
                    break;
                }
                let _ = timeout(WATCH_EVERY, self.0.trouble.notified()).await;
            }
            seen = Some(identity);
        }
    }

    async fn identify(&self) -> Result<(PgConnection, Identity), sqlx::Error> {
        let mut connection = self.connect("customers watch", &[], WATCH_EVERY).await?;
        let identity = identity_of(&mut connection).await?;
        Ok((connection, identity))
    }

    /// Whether a proxy gives the statements of one connection to several backends (PgBouncer in transaction
    /// or statement mode). Settings, prepared statements and `LISTEN` would get lost.
    pub async fn is_transaction_pooled(&self) -> Result<bool, sqlx::Error> {
        let mut first = self.connect("customers check", &[], PATIENT_LIMIT).await?;
        let mut second = self.connect("customers check", &[], PATIENT_LIMIT).await?;
        let mut backends = std::collections::BTreeSet::new();
        for _ in 0..3 {
            // A transaction of the other connection takes the backend that the first one has just used.
            backends.insert(backend_of(&mut first).await?);
            second.execute("begin").await?;
            backends.insert(-backend_of(&mut second).await?);
            backends.insert(backend_of(&mut first).await?);
            second.execute("commit").await?;
        }
        let (own, other): (Vec<i32>, Vec<i32>) = backends.into_iter().partition(|pid| *pid > 0);
        first.close().await?;
        second.close().await?;
        Ok(own.len() > 1 || other.len() > 1 || own.iter().any(|pid| other.contains(&-pid)))
    }
}

async fn backend_of(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    let row = connection.fetch_one("select pg_catalog.pg_backend_pid()::text").await?;
    let pid: String = row.try_get_unchecked(0)?;
    pid.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

async fn identity_of(connection: &mut PgConnection) -> Result<Identity, sqlx::Error> {
    let statement = "select pg_catalog.pg_is_in_recovery()::text, \
                            pg_catalog.pg_postmaster_start_time()::text";
    let row = connection.fetch_one(statement).await?;
    Ok(Identity {
        in_recovery: row.try_get_unchecked::<String, _>(0)? == "true",
        started_at: row.try_get_unchecked(1)?,
    })
}

fn quoted(text: &str) -> String {
    // With `E` a backslash means the same whatever standard_conforming_strings is.
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// Another server may be what this one is not.
fn elsewhere(problem: &str) -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::NotConnected, problem))
}

fn wrong(problem: String) -> sqlx::Error {
    sqlx::Error::Configuration(problem.into())
}
