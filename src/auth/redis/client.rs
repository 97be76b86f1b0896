//! One Redis, a Redis Cluster, or the master that Sentinels name, with a time limit on every call: while
//! Redis is unreachable or frozen a call fails within the limit, and at once when the circuit is open.

use std::sync::{Arc, PoisonError, RwLock};

use redis::aio::ConnectionManager;
use redis::cluster::ClusterConfig;
use redis::cluster_async::ClusterConnection;
use redis::{ErrorKind, FromRedisValue, RedisError, Script, ScriptInvocation};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::call_metrics::CallMetrics;
use super::causes::{Causes, DIAGNOSIS_LIMIT, advice, diagnose};
use super::circuit_breaker::{CircuitBreaker, OPEN_FOR};
use super::sentinels::{Master, find_master};
use super::server::{CALL_LIMIT, RedisServer, manager};
use crate::clock;
use crate::config::redis_url::{Host, Topology};
use crate::config::{Config, ConfigError};
use crate::tasks::Tasks;

/// A connection that reconnects by itself. Clones share it.
#[derive(Clone)]
pub struct RedisClient {
    server: Arc<RedisServer>,
    connected: Arc<RwLock<Connected>>,
    /// Held while the Sentinels are asked.
    searching: Arc<Mutex<()>>,
    breaker: Arc<CircuitBreaker>,
    causes: Arc<Causes>,
    metrics: CallMetrics,
    tasks: Tasks,
    prefix: String,
}

/// The connection; none before the Sentinels were asked for the first time.
struct Connected {
    connection: Option<Connection>,
    /// The master that the Sentinels named.
    master: Option<Master>,
    since: Instant,
}

#[derive(Clone)]
pub(super) enum Connection {
    One(ConnectionManager),
    Cluster(ClusterConnection),
}

#[derive(Debug, thiserror::Error)]
pub enum RedisClientError {
    #[error("no answer within {CALL_LIMIT:?}")]
    Timeout,
    #[error("circuit open: no answer to recent calls")]
    CircuitOpen,
    /// The server is in an epoch that the caller does not trust. The script did nothing.
    #[error("unknown epoch {0}")]
    UnknownEpoch(String),
    /// The server replicates another one, and may lag.
    #[error("the server is a replica")]
    Replica,
    /// No Sentinel names a master.
    #[error("{0}")]
    NoMaster(String),
    /// The user of Redis lacks permissions, or the server lacks commands.
    #[error("the user of Redis lacks: {0}")]
    Forbidden(String),
    #[error(transparent)]
    Redis(#[from] RedisError),
}

impl RedisClient {
    /// Parses the configuration; does not connect. Reconnects run in `tasks`.
    pub fn new(config: &Config, tasks: &Tasks) -> Result<Self, ConfigError> {
        let server = RedisServer::new(config)?;
        // It connects on the first call.
        let connection = match &server.url.topology {
            Topology::Sentinels { .. } => Ok(None),
            Topology::One(host) => {
                server.client(host).and_then(manager).map(Connection::One).map(Some)
            }
            Topology::Socket(path) => {
                server.socket_client(path).and_then(manager).map(Connection::One).map(Some)
            }
            Topology::Cluster(nodes) => server.cluster_client(nodes).map(|client| {
                let config = ClusterConfig::new();
                Some(Connection::Cluster(client.get_pending_async_connection_with_config(config)))
            }),
        };
        let connection =
            connection.map_err(|error| ConfigError::new("REDIS_URL", error.to_string()))?;
        let connected = Connected { connection, master: None, since: Instant::now() };
        Ok(Self {
            server: Arc::new(server),
            connected: Arc::new(RwLock::new(connected)),
            searching: Arc::default(),
            breaker: Arc::new(CircuitBreaker::new()),
            causes: Arc::default(),
            metrics: CallMetrics::new(),
            tasks: tasks.clone(),
            prefix: config.redis_prefix.clone(),
        })
    }

    /// A key: the prefix, its account or address as a hash tag (so that all keys of one account are in
    /// one slot of a cluster), and the rest.
    pub(in crate::auth) fn key(&self, tag: &str, rest: &str) -> String {
        format!("{}:{{{tag}}}:{rest}", self.prefix)
    }

    /// The pattern that all keys match.
    pub(in crate::auth) fn key_pattern(&self) -> String {
        format!("{}:*", self.prefix)
    }

    /// The pattern of the keys of this installation; those of another with a prefix that begins with this one
    /// and a colon do not match.
    pub(super) fn scan_pattern(&self) -> String {
        format!("{}:{{*", self.prefix)
    }

    pub(in crate::auth) fn is_cluster(&self) -> bool {
        matches!(self.server.url.topology, Topology::Cluster(_))
    }

    /// The number of the database.
    pub(super) fn database(&self) -> i64 {
        self.server.url.database
    }

    /// Runs a script; fails at once while the circuit is open.
    pub(in crate::auth) async fn run<T: FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, RedisClientError> {
        if !self.breaker.allows_call() {
            return Err(RedisClientError::CircuitOpen);
        }
        self.run_bypassing_breaker(script).await
    }

    /// Runs a script even while the circuit is open.
    pub(in crate::auth) async fn run_bypassing_breaker<T: FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, RedisClientError> {
        self.limited(async {
            Ok(match self.connection().await? {
                Connection::One(mut one) => script.invoke_async(&mut one).await?,
                Connection::Cluster(mut cluster) => script.invoke_async(&mut cluster).await?,
            })
        })
        .await
    }

    /// Loads a script into Redis, or into each master of the cluster.
    pub(in crate::auth) async fn load(&self, script: &Script) -> Result<(), RedisClientError> {
        let script = script.prepare_invoke();
        self.limited(async {
            match self.connection().await? {
                Connection::One(mut one) => script.load_async(&mut one).await?,
                Connection::Cluster(mut cluster) => script.load_async(&mut cluster).await?,
            };
            Ok(())
        })
        .await
    }

    pub(super) async fn connection(&self) -> Result<Connection, RedisClientError> {
        let connection =
            self.connected.read().unwrap_or_else(PoisonError::into_inner).connection.clone();
        match connection {
            Some(connection) => Ok(connection),
            None => self.connect_to_master(false).await,
        }
    }

    /// Connects to another server if the Sentinels name another master, and stays with the present one if
    /// none of them answers. Does nothing without Sentinels.
    pub(in crate::auth) async fn follow_master(&self) {
        if matches!(self.server.url.topology, Topology::Sentinels { .. })
            && let Err(error) = self.connect_to_master(false).await
        {
            self.log(&error);
        }
    }

    /// The connection to the master that the Sentinels name: the present one if it leads there, unless the
    /// caller wants a new one.
    async fn connect_to_master(&self, wants_new: bool) -> Result<Connection, RedisClientError> {
        let Topology::Sentinels { sentinels, master } = &self.server.url.topology else {
            return Err(RedisClientError::NoMaster("no Sentinels are configured".to_owned()));
        };
        let _searching = self.searching.lock().await;
        let named = find_master(&self.server, sentinels, master).await;
        let named = named.map_err(RedisClientError::NoMaster)?;
        let master = {
            let mut connected = self.connected.write().unwrap_or_else(PoisonError::into_inner);
            let known = connected.master.as_ref();
            let master = Master::next(known, named, Instant::now());
            let stays = known.is_some_and(|known| known.host == master.host);
            if let Some(present) = connected.connection.clone()
                && stays
                && !wants_new
            {
                connected.master = Some(master);
                return Ok(present);
            }
            master
        };
        let Host { name, port } = &master.host;
        let connection = Connection::One(manager(self.server.client(&master.host)?)?);
        tracing::info!(%name, port, "redis: connecting to the master that the Sentinels name");
        self.replace(connection.clone(), Some(master));
        Ok(connection)
    }

    fn replace(&self, connection: Connection, master: Option<Master>) {
        let connected = Connected { connection: Some(connection), master, since: Instant::now() };
        *self.connected.write().unwrap_or_else(PoisonError::into_inner) = connected;
    }

    /// Ends the call at the time limit, and records in the circuit breaker whether there was an answer.
    pub(super) async fn limited<T>(
        &self,
        call: impl Future<Output = Result<T, RedisClientError>>,
    ) -> Result<T, RedisClientError> {
        let began = Instant::now();
        let span = tracing::debug_span!("redis", otel.kind = "client", db.system.name = "redis");
        let answer = clock::within(CALL_LIMIT, call).instrument(span).await;
        let answer = answer.unwrap_or(Err(RedisClientError::Timeout));
        let is_answered = match &answer {
            Ok(_) => true,
            // An error reply of Redis has a code.
            Err(RedisClientError::Redis(error)) => error.code().is_some(),
            Err(_) => false,
        };
        self.metrics.record(answer.is_ok(), is_answered, began.elapsed());
        self.breaker.record(is_answered);
        match &answer {
            Ok(_) => {
                if let Some(away) = self.causes.answered() {
                    // As loud as the trouble before.
                    tracing::warn!(?away, "redis: answers again");
                }
            }
            Err(RedisClientError::Timeout) if self.breaker.timeout_ends_connection() => {
                self.reconnect();
            }
            // A connection whose log-in was refused does not try again by itself.
            Err(error) if is_refused(error) && self.is_old() => self.reconnect(),
            Err(_) => {}
        }
        if let Err(error) = &answer {
            self.log(error);
        }
        answer
    }

    /// Whether the connection is older than the pause between two trial calls.
    fn is_old(&self) -> bool {
        let connected = self.connected.read().unwrap_or_else(PoisonError::into_inner);
        connected.since.elapsed() >= OPEN_FOR
    }

    /// Logs a failure, unless it was logged a short while ago.
    fn log(&self, error: &RedisClientError) {
        let cause = error.to_string();
        let warn = |cause: &str| {
            tracing::warn!(advice = advice(cause), "redis: a call failed: {cause}");
        };
        if !is_vague(error) {
            if self.causes.failed(&cause) {
                warn(&cause);
            }
        } else if self.causes.may_ask() {
            let client = self.clone();
            let is_lost = !is_refused(error);
            self.tasks.spawn_until_shutdown(async move {
                // A log-in that is accepted by now has no cause any more.
                let cause = client.diagnose().await.or_else(|| is_lost.then_some(cause));
                if let Some(cause) = cause.filter(|cause| client.causes.failed(cause)) {
                    warn(&cause);
                }
            });
        }
    }

    /// What Redis says to a new client, to its log-in, and to what a cluster is asked first: the crate hides
    /// it. `None` if there is no complaint.
    pub(super) async fn diagnose(&self) -> Option<String> {
        let hosts = match &self.server.url.topology {
            Topology::Sentinels { .. } => {
                let connected = self.connected.read().unwrap_or_else(PoisonError::into_inner);
                connected.master.iter().map(|master| master.host.clone()).collect()
            }
            Topology::One(host) => vec![host.clone()],
            Topology::Cluster(nodes) => nodes.clone(),
            Topology::Socket(_) => vec![],
        };
        for host in hosts {
            if let Some(Err(error)) =
                clock::within(DIAGNOSIS_LIMIT, diagnose(&self.server, &host)).await
            {
                return Some(error.to_string());
            }
        }
        None
    }

    /// Replaces the connection: the address may resolve to another Redis by now, because the old server
    /// vanished without closing its connection, or became a replica and kept it open. Until the new
    /// connection is open, the old one serves the nodes of a cluster that still answer.
    pub(in crate::auth) fn reconnect(&self) {
        let failed = |error: &dyn std::fmt::Display| {
            tracing::warn!(%error, "redis: no new connection");
        };
        let client = match &self.server.url.topology {
            Topology::One(host) => self.server.client(host),
            Topology::Socket(path) => self.server.socket_client(path),
            Topology::Cluster(_) | Topology::Sentinels { .. } => {
                let client = self.clone();
                self.tasks.spawn_until_shutdown(async move {
                    if let Err(error) = client.connect_anew().await
                        && client.causes.failed(&error.to_string())
                    {
                        failed(&error);
                    }
                });
                return;
            }
        };
        match client.and_then(manager) {
            Ok(manager) => self.replace(Connection::One(manager), None),
            Err(error) => failed(&error),
        }
    }

    /// A new connection to a cluster or to the master that the Sentinels name.
    async fn connect_anew(&self) -> Result<(), RedisClientError> {
        if let Topology::Cluster(nodes) = &self.server.url.topology {
            let new = self.server.cluster_client(nodes)?.get_async_connection().await?;
            self.replace(Connection::Cluster(new), None);
            return Ok(());
        }
        self.connect_to_master(true).await.map(drop)
    }
}

/// Whether the crate hides what the server said.
pub(super) fn is_vague(error: &RedisClientError) -> bool {
    let is_lost = |error: &RedisError| {
        error.is_connection_dropped() || error.kind() == ErrorKind::ClusterConnectionNotFound
    };
    is_refused(error) || matches!(error, RedisClientError::Redis(error) if is_lost(error))
}

/// Whether Redis refused the log-in.
fn is_refused(error: &RedisClientError) -> bool {
    matches!(error, RedisClientError::Redis(error) if error.kind() == ErrorKind::AuthenticationFailed)
}
