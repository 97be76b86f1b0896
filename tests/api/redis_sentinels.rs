//! Three real Sentinels with a master and a replica: the service finds the master, follows a failover under
//! load by itself, and no session that has ended comes back.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use customers::auth::redis::doctor;
use customers::config::Config;
use customers::events::metadata::Metadata;
use customers::events::values::Username;
use redis::aio::MultiplexedConnection;
use rustix::process::Signal;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::harness::{Service, With as _, config, folder, until};
use crate::own_redis::{Redis, free_port, server_program};
use crate::redis_trouble::{Ended, is_ready, open, until_in_sync};
use crate::sessions::{token_alone, token_and_cookie, verdict};

/// The user and password of the Sentinels, and those of Redis.
const SENTINEL_PASSWORD: &str = "sentinel-password";
const REDIS_PASSWORD: &str = "redis-password";

const PASSWORDS: [&str; 4] = ["--masterauth", REDIS_PASSWORD, "--requirepass", REDIS_PASSWORD];

/// How long a Sentinel waits for a master before it takes it for dead.
const DOWN_AFTER_MS: u32 = 1000;

struct Sentinel {
    port: u16,
    _folder: PathBuf,
    child: Child,
}

impl Sentinel {
    fn start(master: &Redis) -> Self {
        Self::start_on(free_port(), master)
    }

    fn start_on(port: u16, master: &Redis) -> Self {
        let folder = folder("sentinel");
        let file = folder.join("sentinel.conf");
        let conf = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nrequirepass {SENTINEL_PASSWORD}\n\
             sentinel sentinel-pass {SENTINEL_PASSWORD}\n\
             sentinel monitor mymaster 127.0.0.1 {} 2\n\
             sentinel auth-pass mymaster {REDIS_PASSWORD}\n\
             sentinel down-after-milliseconds mymaster {DOWN_AFTER_MS}\n\
             sentinel failover-timeout mymaster 6000\n",
            folder.display(),
            master.address().port()
        );
        std::fs::write(&file, conf).unwrap();
        let child = Command::new(server_program())
            .arg(&file)
            .arg("--sentinel")
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { port, _folder: folder, child }
    }

    async fn connect(&self) -> redis::RedisResult<MultiplexedConnection> {
        let url = format!("redis://:{SENTINEL_PASSWORD}@127.0.0.1:{}", self.port);
        redis::Client::open(url).unwrap().get_multiplexed_async_connection().await
    }

    async fn ask(&self, words: &[&str]) -> redis::RedisResult<redis::Value> {
        redis::cmd("SENTINEL").arg(words).query_async(&mut self.connect().await?).await
    }

    /// Waits until clients have connected to it so many times.
    async fn until_asked(&self, times: u32) {
        let mut connection = self.connect().await.unwrap();
        let mut asked = async || {
            let mut info = redis::cmd("INFO");
            let told: String = info.arg("stats").query_async(&mut connection).await.unwrap();
            let count = told.lines().find_map(|l| l.strip_prefix("total_connections_received:"));
            count.unwrap().trim().parse::<u32>().unwrap()
        };
        let before = asked().await;
        until("the Sentinel is asked", async || asked().await >= before + times).await;
    }
}

/// The port of a proxy in front of this one, which lets each client wait longer than a client waits for the
/// other Sentinels after most have answered, and turns all of them away while it is closed.
async fn slow(port: u16, is_closed: Arc<AtomicBool>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            if is_closed.load(Ordering::SeqCst) {
                continue;
            }
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(80)).await;
                let mut sentinel = TcpStream::connect(("127.0.0.1", port)).await?;
                tokio::io::copy_bidirectional(&mut client, &mut sentinel).await
            });
        }
    });
    own
}

fn url_of(ports: &[u16]) -> String {
    let hosts: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    format!("redis+sentinel://:{REDIS_PASSWORD}@{}/mymaster/1", hosts.join(","))
}

/// A master with a replica, and three Sentinels that know each other and the replica.
struct Watched {
    master: Redis,
    replica: Redis,
    sentinels: [Sentinel; 3],
}

impl Watched {
    async fn start() -> Self {
        let (master, replica) = (Redis::start(&PASSWORDS).await, Redis::start(&PASSWORDS).await);
        replica.ask(&format!("REPLICAOF 127.0.0.1 {}", master.address().port())).await;
        until_in_sync(&master).await;
        let sentinels = [(); 3].map(|()| Sentinel::start(&master));
        let watched = Self { master, replica, sentinels };
        for sentinel in &watched.sentinels {
            until("a Sentinel knows the others and the replica", async || {
                let Ok(told) = sentinel.ask(&["MASTER", "mymaster"]).await else { return false };
                let told: HashMap<String, String> = redis::from_redis_value(told).unwrap();
                told["num-other-sentinels"] == "2" && told["num-slaves"] == "1"
            })
            .await;
        }
        watched
    }

    fn ports(&self) -> [u16; 3] {
        self.sentinels.each_ref().map(|sentinel| sentinel.port)
    }

    fn url(&self) -> String {
        url_of(&self.ports())
    }

    /// A planned failover to the replica; waits until each Sentinel names it.
    async fn fail_over(&self) {
        let port = self.replica.address().port().to_string();
        until("the Sentinel accepts it", async || {
            self.sentinels[0].ask(&["FAILOVER", "mymaster"]).await.is_ok()
        })
        .await;
        until("the replica is the master", async || has_role(&self.replica, "master").await).await;
        for sentinel in &self.sentinels {
            until("the Sentinel names the new master", async || {
                let told = sentinel.ask(&["MASTER", "mymaster"]).await.unwrap();
                let told: HashMap<String, String> = redis::from_redis_value(told).unwrap();
                told["port"] == port
            })
            .await;
        }
    }

    async fn config(&self) -> Config {
        Config {
            redis_url: Some(self.url().into()),
            redis_sentinel_password: Some(SENTINEL_PASSWORD.into()),
            ..config().await
        }
    }
}

/// Whether the server has keys in the database of the URL.
async fn is_used(redis: &Redis) -> bool {
    format!("{:?}", redis.ask("INFO keyspace").await).contains("db1:")
}

/// Whether the server has this role. Sentinel cuts its connections when it promotes it.
async fn has_role(redis: &Redis, role: &str) -> bool {
    let told = redis.try_ask("ROLE").await;
    told.is_ok_and(|told| format!("{told:?}").contains(role))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_under_load_revives_no_session_and_service_resumes_by_itself() {
    let watched = Watched::start().await;
    let service = Arc::new(Service::with(watched.config().await).await);
    let ended = Ended::open(&service).await;
    let login = open(&service, "busy").await;
    until_in_sync(&watched.master).await;
    // The replica gets none of what follows: it is behind when it becomes the master.
    watched.replica.signal(Signal::STOP);
    ended.end(&service).await;
    let (stop, admitted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..8)
        .map(|number| {
            let (service, stop, admitted) =
                (Arc::clone(&service), Arc::clone(&stop), Arc::clone(&admitted));
            let (kept, out) = (login.clone(), ended.logged_out.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let began = Instant::now();
                    if number % 2 == 0 {
                        let told = token_alone(&service, &kept).await;
                        assert!(["200", "503 unavailable"].contains(&told.as_str()), "{told}");
                        admitted.fetch_add(usize::from(told == "200"), Ordering::SeqCst);
                    } else {
                        let told = token_alone(&service, &out).await;
                        let expected = ["401 unauthenticated", "503 unavailable"];
                        assert!(expected.contains(&told.as_str()), "a session came back: {told}");
                    }
                    // The service promises 500 ms; the rest of the limit is for a busy machine.
                    assert!(began.elapsed().as_millis() < 5000, "{:?}", began.elapsed());
                }
            })
        })
        .collect();
    until("the clients are served", async || admitted.load(Ordering::SeqCst) > 50).await;
    watched.master.signal(Signal::STOP);
    let began = Instant::now();
    watched.replica.signal(Signal::CONT);
    until("the replica is the master", async || has_role(&watched.replica, "master").await).await;
    let promoted = Instant::now();
    until("the session is accepted again", async || token_alone(&service, &login).await == "200")
        .await;
    println!("promoted after {:?}, served {:?} later", promoted - began, promoted.elapsed());
    assert!(promoted.elapsed().as_secs() < 8, "{:?}", promoted.elapsed());
    ended.stay_ended(&service).await;
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    // The old master comes back, and becomes a replica.
    watched.master.signal(Signal::CONT);
    until("the old master is a replica", async || has_role(&watched.master, "slave").await).await;
    ended.stay_ended(&service).await;
    assert_eq!(token_alone(&service, &ended.bound).await, "401 token-replay");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_failover_and_sentinels_that_are_away_are_survived() {
    let mut watched = Watched::start().await;
    let config = watched.config().await;
    for check in doctor::inspect(&config).await.unwrap() {
        assert_eq!(check.advice, None, "{}", check.name);
    }
    let service = Service::with(config.clone()).await;
    let login = open(&service, "ada").await;
    assert_eq!(token_and_cookie(&service, &login).await, "200");
    until_in_sync(&watched.master).await;
    // The connections to the old master stay open.
    watched.sentinels[0].ask(&["FAILOVER", "mymaster"]).await.unwrap();
    until("the replica is the master", async || has_role(&watched.replica, "master").await).await;
    until("the session is accepted", async || token_and_cookie(&service, &login).await == "200")
        .await;
    // With one of three Sentinels left, and with none, the service works on.
    for sentinel in &mut watched.sentinels[1..] {
        sentinel.child.kill().await.unwrap();
    }
    let other = Service::with(config).await;
    until("a new process finds the master", async || is_ready(&other).await).await;
    other.stop().await;
    watched.sentinels[0].child.kill().await.unwrap();
    for _ in 0..20 {
        assert_eq!(token_and_cookie(&service, &login).await, "200");
    }
    // The log is still applied to Redis.
    let name = Username::parse("ada").unwrap();
    service.accounts().disable(&name, Metadata::of_program("test")).await.unwrap();
    until("the session has ended", async || {
        token_and_cookie(&service, &login).await == "401 unauthenticated"
    })
    .await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinel_that_was_cut_off_never_leads_to_the_old_master() {
    let watched = Watched::start().await;
    // One that knows neither the others nor the failover, and answers first.
    let old = Redis::start(&PASSWORDS).await;
    let cut_off = Sentinel::start(&old);
    until("it answers", async || cut_off.ask(&["MASTER", "mymaster"]).await.is_ok()).await;
    watched.fail_over().await;
    let (mut ports, others_are_away) = (vec![cut_off.port], Arc::new(AtomicBool::new(false)));
    for port in watched.ports() {
        ports.push(slow(port, Arc::clone(&others_are_away)).await);
    }
    let config = Config { redis_url: Some(url_of(&ports).into()), ..watched.config().await };
    let service = Service::with(config).await;
    let login = open(&service, "ada").await;
    assert_eq!(token_alone(&service, &login).await, "200");
    // For a while only that one answers.
    others_are_away.store(true, Ordering::SeqCst);
    cut_off.until_asked(3).await;
    assert_eq!(token_alone(&service, &login).await, "200");
    assert!(is_used(&watched.replica).await);
    assert!(!is_used(&old).await, "the old master was used");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_that_were_set_up_anew_are_believed_after_a_while() {
    let mut watched = Watched::start().await;
    watched.fail_over().await;
    let service = Service::with(watched.config().await).await;
    // The event is applied to each Redis.
    let login = open(&service, "ada").await;
    assert_eq!(verdict(service.delete("/logout").token(&login)).await, "200");
    // Their configuration epochs begin at 0 again.
    let other = Redis::start(&PASSWORDS).await;
    for sentinel in &mut watched.sentinels {
        sentinel.child.kill().await.unwrap();
        *sentinel = Sentinel::start_on(sentinel.port, &other);
    }
    until("the other Redis is used", async || is_used(&other).await).await;
    until("the service is ready", async || is_ready(&service).await).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_sentinels_refuse_is_named() {
    let watched = Watched::start().await;
    let right = watched.config().await;
    let advice = async |config: &Config| {
        let checks = doctor::inspect(config).await.unwrap();
        checks.into_iter().find_map(|check| check.advice).unwrap_or_default()
    };
    let told = advice(&Config { redis_sentinel_password: None, ..right.clone() }).await;
    assert!(told.contains("no Sentinel names the master mymaster"), "{told}");
    assert!(told.contains("CUSTOMERS_REDIS_SENTINEL_PASSWORD"), "{told}");
    let url = watched.url().replace("/mymaster/", "/another/");
    let told = advice(&Config { redis_url: Some(url.into()), ..right.clone() }).await;
    assert!(told.contains("No such master with that name"), "{told}");
    let url = watched.url().replace(REDIS_PASSWORD, "wrong");
    let told = advice(&Config { redis_url: Some(url.into()), ..right }).await;
    assert!(told.contains("WRONGPASS"), "{told}");
}
