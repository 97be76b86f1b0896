//! One server of PostgreSQL, as an URL names it: one or more hosts, of which one accepts writes (or, for
//! reads, is a standby).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Executor as _, PgConnection, Row as _};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use super::address::{Address, AddressError, Wanted};
use super::lost::is_lost;
use super::settings::{Settings, set_statement};

/// How long connecting to one host may take while requests wait for it.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// How long connecting to one host may take otherwise.
pub const PATIENT_LIMIT: Duration = Duration::from_secs(10);

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

    /// A statement that sets these settings, and those of the URL, for the transaction.
    pub(super) fn set_in_transaction(&self, settings: Settings) -> String {
        set_statement(&self.0.address.settings, settings, true)
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

    /// Sets the settings of a new connection, and refuses a server that is not what it should be. A pooled
    /// connection has no settings of its own: they would stay with the backend, for its next client.
    pub(super) async fn prepare(
        &self,
        connection: &mut PgConnection,
        settings: Option<Settings>,
    ) -> Result<(), sqlx::Error> {
        // One round trip, by the simple protocol.
        let of_url = &self.0.address.settings;
        let set = settings.map(|settings| set_statement(of_url, settings, false) + ";");
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

    /// Waits for the report of a lost connection, or for what makes the server another one.
    pub(super) async fn trouble(&self) {
        self.0.trouble.notified().await;
    }
}

/// Another server may be what this one is not.
fn elsewhere(problem: &str) -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::NotConnected, problem))
}

fn wrong(problem: String) -> sqlx::Error {
    sqlx::Error::Configuration(problem.into())
}
