//! One Redis, or a Redis Cluster, with a time limit on every call: when it is away or frozen, whoever
//! needs it is told so within the limit; and while it stays so, at once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::cluster::{ClusterClient, ClusterClientBuilder, ClusterConfig};
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo};
use redis::{FromRedisValue, RedisError, ScriptInvocation};
use tokio::time::Instant;

use crate::clock;

/// The longest that one call may take: two of them fit into the 500 ms after which whoever needs
/// Redis gets its 503.
const CALL_LIMIT: Duration = Duration::from_millis(250);

/// How long a node of a cluster may take to say which keys are where, before the next one is asked.
const NODE_LIMIT: Duration = Duration::from_millis(500);

/// How long connecting to a node of a cluster may take: calls for the other nodes wait meanwhile.
const CONNECT_LIMIT: Duration = Duration::from_millis(100);

/// How many calls in a row may stay without an answer before Redis is left alone.
const FAILURES: u32 = 8;

/// How long it is left alone; then one call tries it again.
const REST: Duration = Duration::from_millis(200);

/// How long a connection is kept at least, though calls stay without an answer.
const KEPT: Duration = Duration::from_secs(2);

/// A connection that mends itself. Clones share it.
#[derive(Clone)]
pub struct Store {
    server: Server,
    connection: Arc<RwLock<Connection>>,
    breaker: Arc<Breaker>,
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
pub enum StoreError {
    #[error("no answer within {CALL_LIMIT:?}")]
    Late,
    #[error("no answer for a while: left alone for a moment")]
    LeftAlone,
    /// What has ended is not known to it yet, as far as this process knows. It has done nothing.
    #[error("this is another run, {0}")]
    AnotherRun(String),
    /// It follows another one, and may be behind that.
    #[error("this is a replica")]
    Replica,
    #[error(transparent)]
    Redis(#[from] RedisError),
}

impl Store {
    /// Gets ready; does not wait for Redis. Several URLs, with commas between them, are nodes of
    /// one cluster.
    ///
    /// # Errors
    /// When a URL is none of Redis.
    pub fn new(urls: &str, prefix: &str) -> Result<Self, StoreError> {
        let server = match urls.replace(",redis://", "\nredis://") {
            nodes if nodes.contains('\n') => Server::Cluster(Box::new(cluster(nodes.lines())?)),
            url => Server::One(redis::Client::open(url)?),
        };
        // Both connect when they are needed.
        let connection = match &server {
            Server::One(client) => Connection::One(manager(client)?),
            Server::Cluster(client) => Connection::Cluster(
                client.get_pending_async_connection_with_config(ClusterConfig::new()),
            ),
        };
        Ok(Self {
            server,
            connection: Arc::new(RwLock::new(connection)),
            breaker: Arc::new(Breaker::new()),
            prefix: prefix.to_owned(),
        })
    }

    /// A key: the prefix, what it is about in a hash tag (so that all keys of one account are in one
    /// slot of a cluster), and the rest.
    pub(super) fn key(&self, tag: &str, rest: &str) -> String {
        format!("{}:{{{tag}}}:{rest}", self.prefix)
    }

    /// Runs a script.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, StoreError> {
        if !self.breaker.may_call() {
            return Err(StoreError::LeftAlone);
        }
        self.run_anyway(script).await
    }

    /// Runs a script also while Redis is left alone.
    pub(super) async fn run_anyway<T: FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, StoreError> {
        let connection = self.connection();
        let call = async {
            match connection {
                Connection::One(mut one) => script.invoke_async(&mut one).await,
                Connection::Cluster(mut cluster) => script.invoke_async(&mut cluster).await,
            }
        };
        self.watched(call).await
    }

    /// What each master of the cluster says of its replication; `None` if it is no cluster.
    pub(super) async fn masters(&self) -> Result<Option<Vec<String>>, StoreError> {
        let Connection::Cluster(mut cluster) = self.connection() else { return Ok(None) };
        let mut info = redis::cmd("INFO");
        info.arg("replication");
        let all = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
        let said = self.watched(cluster.route_command(info, all)).await?;
        let said: HashMap<String, String> =
            redis::from_redis_value(said).map_err(RedisError::from)?;
        Ok(Some(said.into_values().collect()))
    }

    fn connection(&self) -> Connection {
        self.connection.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn watched<T>(
        &self,
        call: impl Future<Output = Result<T, RedisError>>,
    ) -> Result<T, StoreError> {
        let answer = self.breaker.watch(call).await;
        if matches!(answer, Err(StoreError::Late)) && self.breaker.gives_connection_up() {
            self.reconnect();
        }
        answer
    }

    /// Connects anew: behind a name or an address there may be another Redis by now, while the old one
    /// is gone without a word, or has kept the connection and become its replica. Nodes of a cluster
    /// that do answer are asked by the old connection until there is a new one.
    pub(super) fn reconnect(&self) {
        let connection = Arc::clone(&self.connection);
        let take = move |new| {
            *connection.write().unwrap_or_else(PoisonError::into_inner) = new;
        };
        let failed = |error| tracing::warn!(%error, "cannot connect to Redis anew");
        match self.server.clone() {
            Server::One(client) => {
                manager(&client).map(Connection::One).map_or_else(failed, take);
            }
            Server::Cluster(client) => {
                tokio::spawn(async move {
                    let new = client.get_async_connection().await;
                    new.map(Connection::Cluster).map_or_else(failed, take);
                });
            }
        }
    }
}

/// Connects when it is needed. How long an answer may take is up to whoever waits for it.
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

/// Keeps requests from waiting one by one for a Redis that does not answer any of them.
struct Breaker {
    failures: AtomicU32,
    /// In milliseconds since `start`.
    left_alone_until: AtomicU64,
    /// How many calls stayed without an answer since there is this connection, and since when there is.
    late: AtomicU32,
    connected: AtomicU64,
    start: Instant,
}

impl Breaker {
    fn new() -> Self {
        Self {
            failures: AtomicU32::new(0),
            left_alone_until: AtomicU64::new(0),
            late: AtomicU32::new(0),
            connected: AtomicU64::new(0),
            start: Instant::now(),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn rest(&self) -> u64 {
        self.now() + u64::try_from(REST.as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether this call, which stayed without an answer, is one too many for this connection. Answers
    /// do not count against it: of a cluster, other nodes may give them.
    fn gives_connection_up(&self) -> bool {
        let late = self.late.fetch_add(1, Ordering::Relaxed) + 1;
        let (since, now) = (self.connected.load(Ordering::Relaxed), self.now());
        let is_kept = u128::from(now.saturating_sub(since)) < KEPT.as_millis();
        let gives_up = late >= FAILURES
            && !is_kept
            && self
                .connected
                .compare_exchange(since, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if gives_up {
            self.late.store(0, Ordering::Relaxed);
        }
        gives_up
    }

    /// Whether Redis answers as far as anybody knows, or this is the call that tries it again.
    fn may_call(&self) -> bool {
        if self.failures.load(Ordering::Relaxed) < FAILURES {
            return true;
        }
        let until = self.left_alone_until.load(Ordering::Relaxed);
        let (now, rest) = (self.now(), self.rest());
        let is_first = || {
            self.left_alone_until
                .compare_exchange(until, rest, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        };
        now >= until && is_first()
    }

    /// Ends the call in time and remembers whether there was an answer. An error that Redis itself
    /// gives is one.
    async fn watch<T>(
        &self,
        call: impl Future<Output = Result<T, RedisError>>,
    ) -> Result<T, StoreError> {
        let answer = clock::within(CALL_LIMIT, call).await;
        let is_there = match &answer {
            Some(Ok(_)) => true,
            Some(Err(error)) => error.code().is_some(),
            None => false,
        };
        if is_there {
            self.failures.store(0, Ordering::Relaxed);
        } else {
            self.failures.fetch_add(1, Ordering::Relaxed);
            self.left_alone_until.store(self.rest(), Ordering::Relaxed);
        }
        Ok(answer.ok_or(StoreError::Late)??)
    }
}
