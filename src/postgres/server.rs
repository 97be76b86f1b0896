//! One server of PostgreSQL, as an URL names it: one or more hosts, of which one accepts writes (or, for
//! reads, is a standby).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Executor as _, PgConnection, Row as _};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use super::address::{Address, AddressError, Wanted};
use super::lost::{concerns_one_connection, is_lost};
use super::settings::{Settings, set_statement};

/// How long connecting to one host may take while requests wait for it.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// How long connecting to one host may take otherwise.
pub const PATIENT_LIMIT: Duration = Duration::from_secs(10);

/// What the server must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// It accepts writes: it is not in recovery, and no setting makes it read-only.
    Primary,
    /// The same behind a pooler in transaction mode. Its connections have no settings of their own: they would
    /// stay with the backend, for its next client.
    PooledPrimary,
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
    /// Grows when another server takes the place of this one: what was asked before gets no answer.
    generation: AtomicU64,
    /// Wakes the watch.
    trouble: Notify,
}

impl Server {
    /// Parses the URL; does not connect.
    pub fn new(url: &str, demand: Demand) -> Result<Self, AddressError> {
        let address = Address::parse(url)?;
        let contradicts = match demand {
            Demand::Primary | Demand::PooledPrimary => Wanted::Standby,
            Demand::Standby => Wanted::Primary,
        };
        if address.wanted == contradicts {
            return Err(AddressError::wrong_target(demand != Demand::Standby));
        }
        Ok(Self::of(address, demand))
    }

    fn of(address: Address, demand: Demand) -> Self {
        Self(Arc::new(Shared {
            address,
            demand,
            host: AtomicUsize::new(0),
            valid_since: watch::Sender::new(Instant::now()),
            generation: AtomicU64::new(0),
            trouble: Notify::new(),
        }))
    }

    /// The same hosts as if a pooler were in front of them.
    pub(super) fn as_pooled(&self) -> Self {
        Self::of(self.0.address.clone(), Demand::PooledPrimary)
    }

    /// The role that connects.
    #[must_use]
    pub fn username(&self) -> &str {
        self.options().get_username()
    }

    /// What the server is for, in log lines.
    pub(super) fn kind(&self) -> &'static str {
        match self.0.demand {
            Demand::Primary => "primary",
            Demand::PooledPrimary => "pooler",
            Demand::Standby => "replica",
        }
    }

    /// Its hosts and its database, without user and password, for log lines.
    #[must_use]
    pub fn shown(&self) -> String {
        let host = |host: &PgConnectOptions| match host.get_socket() {
            Some(folder) => folder.display().to_string(),
            None => format!("{}:{}", host.get_host(), host.get_port()),
        };
        let hosts: Vec<String> = self.0.address.hosts.iter().map(host).collect();
        format!("{}/{}", hosts.join(","), self.options().get_database().unwrap_or_default())
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

    /// A statement that sets these settings, and those of the URL, for the transaction.
    pub(super) fn set_in_transaction(&self, settings: Settings) -> String {
        set_statement(&self.0.address.settings, settings, true)
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
            self.prepare(&mut connection, settings).await?;
            Ok(connection)
        };
        timeout(limit, connect).await.unwrap_or_else(|_| Err(timed_out()))
    }

    fn use_host(&self, at: usize) {
        self.0.host.store(at, Ordering::Relaxed);
        tracing::info!(host = self.options().get_host(), "postgres: another host is used");
        match self.0.demand {
            Demand::Primary => self.mark_replaced(),
            // The other host may be well, too.
            Demand::PooledPrimary | Demand::Standby => self.discard_connections(),
        }
    }

    /// Sets the settings of a new connection, and refuses a server that is not what it should be.
    pub(super) async fn prepare(
        &self,
        connection: &mut PgConnection,
        settings: Settings,
    ) -> Result<(), sqlx::Error> {
        let set = match self.0.demand {
            Demand::Primary | Demand::Standby => {
                set_statement(&self.0.address.settings, settings, false) + ";"
            }
            Demand::PooledPrimary => String::new(),
        };
        // One round trip, by the simple protocol.
        let statement = format!(
            "{set} select pg_catalog.pg_is_in_recovery()::text, \
                          pg_catalog.current_setting('default_transaction_read_only'), \
                          pg_catalog.getdatabaseencoding()::text"
        );
        let mut rows = connection.fetch_all(statement.as_str()).await?;
        let server = rows.pop().ok_or(sqlx::Error::RowNotFound)?;
        let in_recovery = server.try_get_unchecked::<String, _>(0)? == "true";
        let read_only = server.try_get_unchecked::<String, _>(1)? == "on";
        let encoding: String = server.try_get_unchecked(2)?;
        if encoding != "UTF8" {
            return Err(wrong(format!(
                "the database has the encoding {encoding}: create one with encoding 'UTF8'"
            )));
        }
        match (self.0.demand, in_recovery) {
            (Demand::Primary | Demand::PooledPrimary, true) => {
                self.0.trouble.notify_one();
                Err(elsewhere("the server is a standby, which accepts no writes"))
            }
            // Not turned off here: an old primary is fenced by it.
            (Demand::Primary | Demand::PooledPrimary, false) if read_only => {
                self.0.trouble.notify_one();
                Err(elsewhere(
                    "the setting default_transaction_read_only is on, so that no writes are accepted: reset it \
                     for the role, the database or the server",
                ))
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
    /// Statements at work go on.
    pub fn discard_connections(&self) {
        self.0.valid_since.send_replace(Instant::now());
    }

    /// The number of servers that have had this one's place before.
    pub(super) fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    /// Another server has taken the place of this one: lets every pool connect anew, and ends the waiting for
    /// answers of the old one. At one address there may be many standbys, each of which goes on.
    pub(super) fn mark_replaced(&self) {
        self.discard_connections();
        if self.0.demand != Demand::Standby {
            self.0.generation.fetch_add(1, Ordering::Release);
        }
    }

    /// Reports the error of a statement; whether the connection was lost.
    #[must_use]
    pub fn report(&self, error: &sqlx::Error) -> bool {
        let lost = is_lost(error);
        if lost && !concerns_one_connection(error) {
            self.discard_connections();
            self.0.trouble.notify_one();
        }
        lost
    }

    /// Waits for the report of a lost connection, or for what makes the server another one.
    pub(super) async fn trouble(&self) {
        self.0.trouble.notified().await;
    }

    /// Waits until a connection that was opened at that moment is used no more.
    pub async fn replaced(&self, opened_at: Instant) {
        // The sender lives as long as `self`.
        let mut valid_since = self.0.valid_since.subscribe();
        let _ = valid_since.wait_for(|valid_since| opened_at < *valid_since).await;
    }
}

/// Another server may be what this one is not.
fn elsewhere(problem: &str) -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::NotConnected, problem))
}

pub(super) fn timed_out() -> sqlx::Error {
    sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())
}

pub(super) fn wrong(problem: String) -> sqlx::Error {
    sqlx::Error::Configuration(problem.into())
}
