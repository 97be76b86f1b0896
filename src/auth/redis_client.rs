//! One Redis, or a Redis Cluster, with a time limit on every call: while Redis is unreachable or frozen
//! a call fails within the limit, and at once when the circuit is open.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::cluster::{ClusterClient, ClusterClientBuilder, ClusterConfig};
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo};
use redis::{FromRedisValue, RedisError, ScriptInvocation};

use super::circuit_breaker::CircuitBreaker;
use crate::clock;
use crate::tasks::Tasks;

/// The time limit of one call: two of them fit into the 500 ms after which a request that needs Redis
/// is answered 503.
const CALL_LIMIT: Duration = Duration::from_millis(250);

/// How long a node of a cluster may take to return the slot map, before the next node is asked.
const NODE_LIMIT: Duration = Duration::from_millis(500);

/// How long connecting to a node of a cluster may take: calls for the other nodes wait meanwhile.
const CONNECT_LIMIT: Duration = Duration::from_millis(100);

/// A connection that reconnects by itself. Clones share it.
#[derive(Clone)]
pub struct RedisClient {
    server: Server,
    connection: Arc<RwLock<Connection>>,
    breaker: Arc<CircuitBreaker>,
    tasks: Tasks,
    prefix: String,
}

/// Where to connect.
#[derive(Clone)]
enum Server {
    One(redis::Client),
    Cluster(Box<ClusterClient>),
}

#[derive(Clone)]
enum Connection {
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
    #[error(transparent)]
    Redis(#[from] RedisError),
}

impl RedisClient {
    /// Parses the URL; does not connect. Several URLs, separated by commas, are nodes of one cluster.
    /// Reconnects run in `tasks`.
    pub fn new(urls: &str, prefix: &str, tasks: &Tasks) -> Result<Self, RedisClientError> {
        let server = match urls.replace(",redis://", "\nredis://") {
            nodes if nodes.contains('\n') => Server::Cluster(Box::new(cluster(nodes.lines())?)),
            url => Server::One(redis::Client::open(url)?),
        };
        // Both connect on the first call.
        let connection = match &server {
            Server::One(client) => Connection::One(manager(client)?),
            Server::Cluster(client) => Connection::Cluster(
                client.get_pending_async_connection_with_config(ClusterConfig::new()),
            ),
        };
        Ok(Self {
            server,
            connection: Arc::new(RwLock::new(connection)),
            breaker: Arc::new(CircuitBreaker::new()),
            tasks: tasks.clone(),
            prefix: prefix.to_owned(),
        })
    }

    /// A key: the prefix, its account or address as a hash tag (so that all keys of one account are in
    /// one slot of a cluster), and the rest.
    pub(super) fn key(&self, tag: &str, rest: &str) -> String {
        format!("{}:{{{tag}}}:{rest}", self.prefix)
    }

    /// Runs a script; fails at once while the circuit is open.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, RedisClientError> {
        if !self.breaker.allows_call() {
            return Err(RedisClientError::CircuitOpen);
        }
        self.run_bypassing_breaker(script).await
    }

    /// Runs a script even while the circuit is open.
    pub(super) async fn run_bypassing_breaker<T: FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, RedisClientError> {
        let connection = self.connection();
        let call = async {
            match connection {
                Connection::One(mut one) => script.invoke_async(&mut one).await,
                Connection::Cluster(mut cluster) => script.invoke_async(&mut cluster).await,
            }
        };
        self.limited(call).await
    }

    /// The answer of each master of the cluster to `INFO replication`; `None` for a single server.
    pub(super) async fn masters(&self) -> Result<Option<Vec<String>>, RedisClientError> {
        let Connection::Cluster(mut cluster) = self.connection() else { return Ok(None) };
        let mut info = redis::cmd("INFO");
        info.arg("replication");
        let all = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
        let reply = self.limited(cluster.route_command(info, all)).await?;
        let by_node: HashMap<String, String> =
            redis::from_redis_value(reply).map_err(RedisError::from)?;
        Ok(Some(by_node.into_values().collect()))
    }

    fn connection(&self) -> Connection {
        self.connection.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the call at the time limit, and records in the circuit breaker whether there was an answer.
    async fn limited<T>(
        &self,
        call: impl Future<Output = Result<T, RedisError>>,
    ) -> Result<T, RedisClientError> {
        let answer = clock::within(CALL_LIMIT, call).await;
        let is_answered = match &answer {
            Some(Ok(_)) => true,
            // An error reply of Redis has a code.
            Some(Err(error)) => error.code().is_some(),
            None => false,
        };
        self.breaker.record(is_answered);
        if answer.is_none() && self.breaker.timeout_ends_connection() {
            self.reconnect();
        }
        Ok(answer.ok_or(RedisClientError::Timeout)??)
    }

    /// Replaces the connection: the address may resolve to another Redis by now, because the old server
    /// vanished without closing its connection, or became a replica and kept it open. Until the new
    /// connection is open, the old one serves the nodes of a cluster that still answer.
    pub(super) fn reconnect(&self) {
        let connection = Arc::clone(&self.connection);
        let replace = move |new| {
            *connection.write().unwrap_or_else(PoisonError::into_inner) = new;
        };
        let failed = |error| tracing::warn!(%error, "redis client: reconnect failed");
        match self.server.clone() {
            Server::One(client) => {
                manager(&client).map(Connection::One).map_or_else(failed, replace);
            }
            Server::Cluster(client) => {
                self.tasks.spawn_until_shutdown(async move {
                    let new = client.get_async_connection().await;
                    new.map(Connection::Cluster).map_or_else(failed, replace);
                });
            }
        }
    }
}

/// Connects on the first call. The time limit of an answer is that of the call.
fn manager(client: &redis::Client) -> Result<ConnectionManager, RedisError> {
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(CALL_LIMIT))
        .set_response_timeout(None)
        .set_number_of_retries(1)
        .set_min_delay(Duration::from_millis(20));
    ConnectionManager::new_lazy_with_config(client.clone(), config)
}

fn cluster<'a>(nodes: impl Iterator<Item = &'a str>) -> Result<ClusterClient, RedisError> {
    ClusterClientBuilder::new(nodes)
        .connection_timeout(CONNECT_LIMIT)
        .response_timeout(NODE_LIMIT)
        .retries(2)
        .min_retry_wait(20)
        .build()
}
