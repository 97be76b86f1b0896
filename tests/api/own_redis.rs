//! A Redis server, or a Redis Cluster, that one test owns and can freeze, kill and restart.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::harness::{folder, until};

/// A Redis server on loopback, without a password and with its own data folder.
pub struct Redis {
    port: u16,
    data: PathBuf,
    settings: Vec<String>,
    child: Child,
}

impl Redis {
    /// Starts a server on a free port. `settings` are arguments of `redis-server`.
    pub async fn start(settings: &[&str]) -> Self {
        let data = folder("redis");
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect::<Vec<_>>();
        // Another process may take the free port first; then the server exits and the next port is tried.
        loop {
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let port = free.local_addr().unwrap().port();
            drop(free);
            // The cluster bus of a node listens on its port plus 10,000.
            if port > 55_000 {
                continue;
            }
            let child = spawn(port, &data, &settings);
            let mut redis = Self { port, data: data.clone(), settings: settings.clone(), child };
            if redis.is_up().await {
                return redis;
            }
        }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Sends a command, words separated by spaces, and returns the reply.
    pub async fn ask(&self, line: &str) -> redis::Value {
        self.try_ask(line).await.unwrap()
    }

    /// A connection of the administrator that stays open.
    pub async fn hold(&self) -> Held {
        let client = redis::Client::open(self.url()).unwrap();
        Held(client.get_multiplexed_async_connection().await.unwrap())
    }

    /// The same; an error if the connection is lost.
    pub async fn try_ask(&self, line: &str) -> redis::RedisResult<redis::Value> {
        let at = self.settings.iter().position(|setting| setting == "--requirepass");
        let word = at.map(|at| format!(":{}@", self.settings[at + 1])).unwrap_or_default();
        let url = format!("redis://{word}{}", self.address());
        let client = redis::Client::open(url).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await?;
        let mut words = line.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        command.arg(words.collect::<Vec<_>>()).query_async(&mut connection).await
    }

    /// Whether the reply to `CLUSTER {word}` contains the text.
    async fn shows(&self, word: &str, text: &str) -> bool {
        format!("{:?}", self.ask(&format!("CLUSTER {word}")).await).contains(text)
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// Kills the server, as a crash would.
    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Restarts the server on the same port with its data.
    pub async fn start_again(&mut self) {
        self.child = spawn(self.port, &self.data, &self.settings);
        assert!(self.is_up().await, "redis did not restart");
    }

    /// Waits until the server answers; `false` if it exits instead.
    async fn is_up(&mut self) -> bool {
        let mut ended = false;
        until("redis answers", async || {
            ended = self.child.try_wait().unwrap().is_some();
            ended || self.try_ask("PING").await.is_ok()
        })
        .await;
        !ended
    }
}

/// An open connection.
pub struct Held(redis::aio::MultiplexedConnection);

impl Held {
    /// Sends a command, words separated by spaces.
    pub async fn ask(&self, line: &str) -> redis::Value {
        let mut words = line.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        command.arg(words.collect::<Vec<_>>()).query_async(&mut self.0.clone()).await.unwrap()
    }
}

const CLUSTER_NODE: [&str; 4] = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"];

/// Three masters that share the slots.
pub struct Cluster(pub [Redis; 3]);

impl Cluster {
    pub async fn start() -> Self {
        let nodes = [
            Redis::start(&CLUSTER_NODE).await,
            Redis::start(&CLUSTER_NODE).await,
            Redis::start(&CLUSTER_NODE).await,
        ];
        for (node, slots) in nodes.iter().zip(["0 5460", "5461 10922", "10923 16383"]) {
            node.ask(&format!("CLUSTER ADDSLOTSRANGE {slots}")).await;
            nodes[0].ask(&format!("CLUSTER MEET 127.0.0.1 {}", node.port)).await;
        }
        let cluster = Self(nodes);
        cluster.is_whole().await;
        cluster
    }

    /// Waits until every node sees all three nodes and all slots.
    pub async fn is_whole(&self) {
        for node in &self.0 {
            until("the cluster is whole", async || {
                node.shows("INFO", "cluster_state:ok").await
                    && node.shows("INFO", "cluster_known_nodes:3").await
            })
            .await;
        }
    }

    /// Adds a replica of this master, in sync with it, which is promoted when the master fails.
    pub async fn replica_of(&self, master: usize) -> Redis {
        let [first, ..] = &self.0;
        let replica = Redis::start(&CLUSTER_NODE).await;
        replica.ask(&format!("CLUSTER MEET 127.0.0.1 {}", first.port)).await;
        let id = self.0[master].ask("CLUSTER MYID").await;
        let id = redis::from_redis_value::<String>(id).unwrap();
        until("the replica sees its master", async || replica.shows("NODES", &id).await).await;
        replica.ask(&format!("CLUSTER REPLICATE {id}")).await;
        until("the replica is in sync", async || {
            format!("{:?}", replica.ask("INFO replication").await).contains("master_link_status:up")
        })
        .await;
        for node in &self.0 {
            until("each sees it", async || node.shows("INFO", "cluster_known_nodes:4").await).await;
        }
        replica
    }

    /// The addresses of the masters in the format of `REDIS_URL`.
    pub fn urls(&self) -> String {
        self.0.iter().map(Redis::url).collect::<Vec<_>>().join(",")
    }
}

/// The name of the server's program.
pub fn server_program() -> &'static str {
    ["redis-server", "valkey-server"]
        .into_iter()
        .find(|name| {
            std::env::split_paths(&std::env::var_os("PATH").unwrap())
                .any(|folder| folder.join(name).exists())
        })
        .expect("redis-server or valkey-server is installed")
}

/// A port that is free now.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn spawn(port: u16, data: &PathBuf, settings: &[String]) -> Child {
    Command::new(server_program())
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
        .arg(data)
        .args(settings)
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}
