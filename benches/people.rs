//! A hundred people at once, on two processes: 80 % of their requests read the youngest or a page, 10 % create
//! a customer, 5 % update one, 5 % read a history. They come at a fixed rate, and the latency of each counts
//! from the moment at which it was due. After a calm run follows one in which a read table is rebuilt, Redis
//! fails over to its replica and one process is killed and started again, each at a quarter of the time. A
//! person whose request fails or is refused with 503 tries the other process, as behind a proxy; a write
//! carries an `Idempotency-Key`.
//!
//! `BENCH_SECONDS` (600, per run), `BENCH_RATE` (1,000 requests per second) and `BENCH_CUSTOMERS` (100,000) set
//! the size. `script/bench people` starts the servers and runs it. It prints a table in Markdown.

#![expect(clippy::unwrap_used, reason = "a benchmark that fails should stop")]

mod service;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::service::{add_account, customers, log, memory, number, quantile, serve};

const PEOPLE: u32 = 100;

/// How long a person tries again.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a person waits before the next attempt.
const PAUSE: Duration = Duration::from_millis(100);

/// One of a hundred, with a session of their own.
struct Person {
    client: Client,
    token: String,
    number: u32,
    /// The customers that this person has created, with the versions that were acknowledged.
    own: Vec<(i64, i64)>,
    round: u32,
}

/// What all people have met in one run.
#[derive(Default)]
struct Met {
    /// By the moment at which the request was due, since the begin of the run, and how long it took.
    took: Mutex<Vec<(Duration, Duration)>>,
    retried: AtomicU64,
    created: AtomicU64,
    /// What has failed to the end, by its text.
    failed: Mutex<BTreeMap<String, u64>>,
}

impl Person {
    /// One request of the mix; an error says what went wrong.
    async fn act(&mut self, urls: &[String; 2], met: &Met) -> Result<(), String> {
        self.round += 1;
        let key = format!("{}-{}", self.number, self.round);
        let person = json!({"name": format!("Person {key}"), "dob": "1990-12-10"});
        let own = self.own.len().checked_sub(1).map(|last| last.min(self.round as usize % 7));
        match (self.round % 20, own) {
            (0 | 10, _) | (_, None) => {
                let answer =
                    self.send(urls, met, Method::POST, "/customers", Some(&person)).await?;
                let id = answer["id"].as_i64().unwrap();
                self.own.push((id, 1));
                met.created.fetch_add(1, Ordering::Relaxed);
            }
            (5, Some(own)) => {
                let path = format!("/customers/{}", self.own[own].0);
                let answer = self.send(urls, met, Method::PUT, &path, Some(&person)).await?;
                self.own[own].1 = answer["version"].as_i64().unwrap();
            }
            (15, Some(own)) => {
                let (id, version) = self.own[own];
                let history = format!("/customers/{id}/history");
                self.send(urls, met, Method::GET, &history, None).await?;
                // What was acknowledged is shown by each process.
                let shown =
                    self.send(urls, met, Method::GET, &format!("/customers/{id}"), None).await?;
                if shown["version"].as_i64().unwrap() < version {
                    return Err(format!("a read shows less than was acknowledged: {shown}"));
                }
            }
            (round, Some(_)) => {
                let path = match round % 3 {
                    0 => "/customers?limit=20",
                    1 => "/customers?numbers=10",
                    _ => "/customers?numbers=50",
                };
                self.send(urls, met, Method::GET, path, None).await?;
            }
        }
        Ok(())
    }

    /// The answer, if need be after further attempts at the other process.
    async fn send(
        &self,
        urls: &[String; 2],
        met: &Met,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, String> {
        let began = Instant::now();
        let key = format!("{}-{}-{}", method, self.number, self.round);
        for attempt in 0.. {
            let url = &urls[(self.number + self.round + attempt) as usize % 2];
            let mut request = self.client.request(method.clone(), format!("{url}{path}"));
            request = request.bearer_auth(&self.token);
            if let Some(body) = body {
                request = request.json(body).header("idempotency-key", &key);
            }
            let problem = match request.send().await {
                Ok(answer) if answer.status().is_success() => match answer.json().await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => error.to_string(),
                },
                Ok(answer) if answer.status() == StatusCode::SERVICE_UNAVAILABLE => {
                    "503".to_owned()
                }
                Ok(answer) => return Err(format!("{method}: {}", answer.status())),
                Err(error) => error.to_string(),
            };
            if began.elapsed() > PATIENCE {
                return Err(problem);
            }
            met.retried.fetch_add(1, Ordering::Relaxed);
            sleep(PAUSE).await;
        }
        unreachable!("it tries until it is out of patience")
    }
}

/// Logs all people in: ten accounts with ten sessions each.
async fn people(url: &str) -> Vec<Person> {
    let mut people = vec![];
    for number in 0..PEOPLE {
        let client = Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        let name = format!("person{}", number % 10);
        let body = json!({"username": name, "password": service::PASSWORD});
        let answer = client.post(format!("{url}/login")).json(&body).send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        let token = answer["access_token"].as_str().unwrap().to_owned();
        people.push(Person { client, token, number, own: vec![], round: 0 });
    }
    people
}

/// Lets all people act at the rate, in turn, for that time.
async fn run(
    people: Vec<Person>,
    urls: &[String; 2],
    rate: u64,
    time: Duration,
) -> (Vec<Person>, Met) {
    let met = std::sync::Arc::new(Met::default());
    let began = Instant::now() + Duration::from_millis(200);
    let step = Duration::from_secs(1) / u32::try_from(rate).unwrap();
    let mut acting = JoinSet::new();
    for mut person in people {
        let (urls, met) = (urls.clone(), std::sync::Arc::clone(&met));
        acting.spawn(async move {
            for round in 0.. {
                let since = step * (round * PEOPLE + person.number);
                if since > time {
                    break;
                }
                sleep_until(began + since).await;
                if let Err(problem) = person.act(&urls, &met).await {
                    *met.failed.lock().unwrap().entry(problem).or_default() += 1;
                }
                met.took.lock().unwrap().push((since, (began + since).elapsed()));
            }
            person
        });
    }
    let mut people = acting.join_all().await;
    people.sort_by_key(|person| person.number);
    (people, std::sync::Arc::into_inner(met).unwrap())
}

/// A Redis, or one of its Sentinels, as a process of its own.
struct Redis {
    child: Child,
    port: u16,
}

impl Redis {
    async fn start(folder: &Path, name: &str, arguments: &[&str]) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = folder.join(name);
        std::fs::create_dir(&folder).unwrap();
        let file = folder.join("redis.conf");
        std::fs::write(&file, format!("port {port}\nbind 127.0.0.1\ndir {}\n", folder.display()))
            .unwrap();
        let child = Command::new("redis-server")
            .arg(&file)
            .args(arguments)
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
        Self { child, port }
    }
}

/// A primary, its replica, and three Sentinels.
struct Watched {
    primary: Redis,
    _others: Vec<Redis>,
    url: String,
}

impl Watched {
    async fn start(folder: &Path) -> Self {
        let primary = Redis::start(folder, "primary", &["--appendonly", "yes"]).await;
        let port = primary.port.to_string();
        let replica = ["--appendonly", "yes", "--replicaof", "127.0.0.1", &port];
        let mut others = vec![Redis::start(folder, "replica", &replica).await];
        let monitor = [
            "--sentinel",
            "monitor",
            "mymaster",
            "127.0.0.1",
            &port,
            "2",
            "--sentinel",
            "down-after-milliseconds",
            "mymaster",
            "1000",
            "--sentinel",
            "failover-timeout",
            "mymaster",
            "6000",
        ];
        let mut hosts = vec![];
        for name in ["sentinel1", "sentinel2", "sentinel3"] {
            let mut arguments = vec!["--sentinel"];
            arguments.extend(monitor);
            others.push(Redis::start(folder, name, &arguments).await);
            hosts.push(format!("127.0.0.1:{}", others.last().unwrap().port));
        }
        let url = format!("redis+sentinel://{}/mymaster/0", hosts.join(","));
        Self { primary, _others: others, url }
    }
}

/// Prints the row of a run. The memory is that of the processes after a tenth of the time and at its end.
fn report(name: &str, met: &Met, memory: &[(u64, u64)]) {
    let took = met.took.lock().unwrap();
    let mut sorted: Vec<Duration> = took.iter().map(|(_, took)| *took).collect();
    sorted.sort();
    let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|part| quantile(&sorted, part));
    let failed = met.failed.lock().unwrap();
    let memory: Vec<String> =
        memory.iter().map(|(early, late)| format!("{early} > {late}")).collect();
    println!(
        "| {name} | {} | {} | {} | {p50:.2} | {p99:.2} | {p999:.2} | {:.0} | {} |",
        sorted.len(),
        failed.values().sum::<u64>(),
        met.retried.load(Ordering::Relaxed),
        sorted.last().unwrap().as_secs_f64() * 1e3,
        memory.join(", "),
    );
    for (problem, count) in failed.iter().take(10) {
        eprintln!("{name}: failed {count} times: {problem}");
    }
}

/// The customers that were ever created.
async fn created(connection: &mut PgConnection) -> i64 {
    let created = "select count(*) from events where event_type = 'CustomerCreated'";
    sqlx::query_scalar(created).fetch_one(connection).await.unwrap()
}

#[tokio::main]
async fn main() {
    let database_url = std::env::var("DATABASE_URL").unwrap();
    let (time, rate) =
        (Duration::from_secs(number("BENCH_SECONDS", 600)), number("BENCH_RATE", 1000));
    let size = number("BENCH_CUSTOMERS", 100_000);
    let folder = tempfile::tempdir().unwrap();
    let mut redis = Watched::start(folder.path()).await;
    let mut connection = PgConnection::connect(&database_url).await.unwrap();
    let on = |arguments: &[&str]| {
        let mut command = customers(arguments);
        command.env("REDIS_URL", &redis.url);
        // The issuer of the tokens, which both processes accept.
        command.env("CUSTOMERS_PUBLIC_URL", "http://bench");
        command
    };
    assert!(customers(&["migrate"]).status().await.unwrap().success());
    log::fill(&mut connection, i64::try_from(size * 10 / 7).unwrap()).await;
    for projection in ["customers", "customer_history", "customer_search"] {
        let mut rebuild = customers(&["projection", "rebuild", projection]);
        assert!(rebuild.stdout(Stdio::null()).status().await.unwrap().success());
    }
    connection.execute("vacuum analyze").await.unwrap();
    for account in 0..10 {
        add_account(on, &format!("person{account}")).await;
    }
    let (first, first_url) = serve(on(&["serve"])).await;
    let (mut second, second_url) = serve(on(&["serve"])).await;
    let urls = [first_url, second_url];
    let everybody = people(&urls[0]).await;
    println!("{size} customers, {PEOPLE} people, {rate} requests/s for {} s.\n", time.as_secs());
    println!(
        "| run | requests | failed | tried again | p50, ms | p99, ms | p99.9, ms | longest, ms | memory, MiB |\n\
         |---|---|---|---|---|---|---|---|---|"
    );

    let before = created(&mut connection).await;
    let early = async {
        sleep(time / 10).await;
        [memory(&first, "VmRSS:"), memory(&second, "VmRSS:")]
    };
    let ((everybody, met), early) = tokio::join!(run(everybody, &urls, rate, time), early);
    let late = [memory(&first, "VmRSS:"), memory(&second, "VmRSS:")];
    report("calm", &met, &[(early[0], late[0]), (early[1], late[1])]);
    let calm = met.created.load(Ordering::Relaxed);

    let trouble = async {
        sleep(time / 4).await;
        let mut rebuild = customers(&["projection", "rebuild", "customers"]);
        assert!(rebuild.stdout(Stdio::null()).status().await.unwrap().success());
        sleep(time / 4).await;
        redis.primary.child.kill().await.unwrap();
        sleep(time / 4).await;
        second.kill().await.unwrap();
        let mut again = on(&["serve"]);
        again.env("CUSTOMERS_LISTEN", urls[1].strip_prefix("http://").unwrap());
        second = serve(again).await.0;
    };
    let ((_, met), ()) = tokio::join!(run(everybody, &urls, rate, time), trouble);
    let late_in_trouble = memory(&first, "VmRSS:");
    report("in trouble", &met, &[(late[0], late_in_trouble)]);
    let in_trouble = met.created.load(Ordering::Relaxed);
    let after = created(&mut connection).await;
    let acknowledged = i64::try_from(calm + in_trouble).unwrap();
    println!(
        "\n{acknowledged} creates were acknowledged, {} are in the log. The second run has a rebuild of \
         `customers`, `kill -9` of the Redis primary, and `kill -9` of one process.",
        after - before
    );
}
