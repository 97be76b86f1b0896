//! One honest client beside one hostile account with many connections: how many of the honest requests
//! fail, and how long they take. `script/bench abuse` starts the servers and runs it. It prints a table in
//! Markdown. The limits are those of production, and the two clients have addresses of their own.
//!
//! `BENCH_SECONDS` (10, per row), `BENCH_CONNECTIONS` (200) and `BENCH_CUSTOMERS` (200,000) set its size.

#![expect(clippy::unwrap_used, reason = "a benchmark that fails should stop")]

mod service;

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::service::{PASSWORD, customers, number};

/// The rate of the honest client.
const HONEST_PERIOD: Duration = Duration::from_millis(50);

/// The ways to be hostile, each on every connection.
const ATTACKS: [&str; 8] = [
    "lists its sessions",
    "reads all customers, slowly",
    "sends an import, slowly",
    "lists a past moment",
    "opens streams and reads nothing",
    "reads pages of 1,000",
    "logs in",
    "guesses passwords",
];

/// One of the two clients.
#[derive(Clone)]
struct Party {
    client: Client,
    url: String,
    address: &'static str,
    name: &'static str,
    token: String,
    /// A moment at which all customers were there.
    moment: String,
}

impl Party {
    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.url));
        request.bearer_auth(&self.token).header("x-forwarded-for", self.address)
    }

    /// Logs in as soon as the rate of log-ins allows it, if the session has ended.
    async fn log_in(&mut self) {
        let answer = self.request(Method::GET, "/customers?numbers=0").send().await.unwrap();
        if answer.status().as_u16() != 401 {
            return;
        }
        let body = json!({"username": self.name, "password": PASSWORD});
        loop {
            let answer = self.request(Method::POST, "/login").json(&body).send().await.unwrap();
            if answer.status().is_success() {
                let answer: Value = answer.json().await.unwrap();
                answer["access_token"].as_str().unwrap().clone_into(&mut self.token);
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// A connection with a small receive window, after the head of a request.
    async fn raw(&self, head: &str) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(4096)?;
        let address = self.url.strip_prefix("http://").unwrap().parse().unwrap();
        let mut stream = socket.connect(address).await?;
        let (token, from) = (&self.token, self.address);
        let head = format!(
            "{head} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {token}\r\n\
             x-forwarded-for: {from}\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        Ok(stream)
    }
}

/// Answers of the hostile client by status; 0 for a connection that was cut.
type Counts = Arc<Mutex<BTreeMap<u16, u64>>>;

fn count(counts: &Counts, status: u16) {
    *counts.lock().unwrap().entry(status).or_default() += 1;
}

/// The status of a raw answer, and then one kilobyte per second until the connection is cut.
async fn read_slowly(mut stream: TcpStream, counts: &Counts) {
    let mut head = [0; 12];
    let status = match stream.read_exact(&mut head).await {
        Ok(_) => std::str::from_utf8(&head[9..]).unwrap().parse().unwrap(),
        Err(_) => 0,
    };
    count(counts, status);
    let mut piece = [0; 1024];
    while status == 200 && matches!(stream.read(&mut piece).await, Ok(1..)) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// One hostile connection, for ever.
async fn attack(kind: &'static str, party: Party, counts: Counts) {
    loop {
        let moment = &party.moment;
        let request = match kind {
            "lists its sessions" => party.request(Method::GET, "/sessions"),
            "lists a past moment" => {
                party.request(Method::GET, &format!("/customers?as_of={moment}&numbers=50000"))
            }
            "reads pages of 1,000" => party.request(Method::GET, "/customers?limit=1000"),
            "logs in" => {
                let body = json!({"username": party.name, "password": PASSWORD});
                party.request(Method::POST, "/login").json(&body)
            }
            "guesses passwords" => {
                let body = json!({"username": "honest", "password": "a guess at it"});
                party.request(Method::POST, "/login").json(&body)
            }
            "reads all customers, slowly" | "opens streams and reads nothing" => {
                let path =
                    if kind.starts_with("reads") { "/customers" } else { "/events/stream?after=0" };
                if let Ok(mut stream) = party.raw(&format!("GET {path}")).await
                    && stream.write_all(b"\r\n").await.is_ok()
                {
                    read_slowly(stream, &counts).await;
                }
                continue;
            }
            _ => {
                if let Ok(mut stream) = party.raw("POST /customers/import").await {
                    let rest =
                        "content-type: text/csv\r\ncontent-length: 1000000\r\n\r\nname,dob\n";
                    let mut sent = stream.write_all(rest.as_bytes()).await;
                    let mut head = [0; 12];
                    while sent.is_ok() {
                        let answered =
                            tokio::time::timeout(Duration::from_secs(1), stream.read(&mut head));
                        if let Ok(read) = answered.await {
                            let status = read.ok().filter(|length| *length == 12);
                            let status = status.and_then(|_| std::str::from_utf8(&head[9..]).ok());
                            count(&counts, status.and_then(|text| text.parse().ok()).unwrap_or(0));
                            break;
                        }
                        sent = stream.write_all(b"x").await;
                    }
                }
                continue;
            }
        };
        match request.send().await {
            Ok(answer) => {
                count(&counts, answer.status().as_u16());
                let _ = answer.bytes().await;
            }
            Err(_) => count(&counts, 0),
        }
    }
}

/// What the honest client saw.
struct Seen {
    times: Vec<Duration>,
    failures: BTreeMap<String, u64>,
}

/// 20 requests per second: a customer, the youngest ten, a create, in turn. A request that waits delays no
/// later one.
async fn honest(party: &Party, seconds: u64) -> Seen {
    let mut ticks = interval(HONEST_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut requests = JoinSet::new();
    let mut number = 0;
    while Instant::now() < until {
        ticks.tick().await;
        number += 1;
        let request = match number % 3 {
            0 => party.request(Method::GET, &format!("/customers/{}", number % 1000 + 1)),
            1 => party.request(Method::GET, "/customers?numbers=10"),
            _ => {
                let body = json!({"name": "Ada Lovelace", "dob": "1990-12-10"});
                party.request(Method::POST, "/customers").json(&body)
            }
        };
        requests.spawn(async move {
            let began = Instant::now();
            let failure = match request.send().await {
                Ok(answer) if answer.status().is_success() => None,
                Ok(answer) => Some(answer.status().as_u16().to_string()),
                Err(error) => Some(error.to_string()),
            };
            (began.elapsed(), failure)
        });
    }
    let mut seen = Seen { times: vec![], failures: BTreeMap::new() };
    for (time, failure) in requests.join_all().await {
        seen.times.push(time);
        if let Some(failure) = failure {
            *seen.failures.entry(failure).or_default() += 1;
        }
    }
    seen.times.sort();
    seen
}

fn quantile(times: &[Duration], percent: usize) -> f64 {
    times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3
}

/// Runs one row; returns its p99.
async fn row(name: &str, party: &Party, seconds: u64, alone: Option<f64>, counts: &Counts) -> f64 {
    let seen = honest(party, seconds).await;
    let (median, p99) = (quantile(&seen.times, 50), quantile(&seen.times, 99));
    let ratio = alone.map_or_else(String::new, |alone| format!("{:.1}x", p99 / alone));
    let failures: u64 = seen.failures.values().sum();
    let hostile = counts.lock().unwrap();
    let hostile: Vec<String> =
        hostile.iter().map(|(status, number)| format!("{status}: {number}")).collect();
    println!(
        "| {name} | {} | {failures} {} | {median:.1} | {p99:.1} | {ratio} | {} |",
        seen.times.len(),
        seen.failures.keys().cloned().collect::<Vec<_>>().join(" "),
        hostile.join(", ")
    );
    p99
}

/// Adds an account with the password of all benchmarks.
async fn add(command: &dyn Fn(&[&str]) -> Command, name: &str, role: &str) {
    let arguments = ["account", "add", name, "--role", role, "--password-stdin"];
    let mut add = command(&arguments).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut stdin = add.stdin.take().unwrap();
    stdin.write_all(PASSWORD.as_bytes()).await.unwrap();
    drop(stdin);
    assert!(add.wait().await.unwrap().success());
}

#[tokio::main]
async fn main() {
    let (seconds, connections) = (number("BENCH_SECONDS", 10), number("BENCH_CONNECTIONS", 200));
    let people = number("BENCH_CUSTOMERS", 200_000);
    let limited = |arguments: &[&str]| {
        let mut command = customers(arguments);
        for limit in ["RATE_LIMIT", "ACCOUNT_LIMIT", "LOGIN_LIMIT", "SESSION_RATE"] {
            command.env_remove(format!("CUSTOMERS_{limit}"));
        }
        command.env("CUSTOMERS_TRUSTED_PROXIES", "127.0.0.0/8");
        command
    };
    assert!(limited(&["migrate"]).status().await.unwrap().success());
    add(&limited, "honest", "editor").await;
    // Of all roles, so that no attack ends with 403.
    add(&limited, "hostile", "admin").await;
    let number = people.to_string();
    let mut demo = limited(&["demo", "--customers", &number]);
    assert!(demo.stdout(Stdio::null()).stderr(Stdio::null()).status().await.unwrap().success());
    let mut serve = limited(&["serve"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(serve.stdout.take().unwrap()).lines();
    let url = lines.next_line().await.unwrap().unwrap();
    let url = url.strip_prefix("address ").unwrap().to_owned();
    let party = |name, address| Party {
        client: Client::builder().no_proxy().build().unwrap(),
        url: url.clone(),
        address,
        name,
        token: String::new(),
        moment: String::new(),
    };
    let (mut good, mut bad) = (party("honest", "192.0.2.1"), party("hostile", "198.51.100.1"));
    good.log_in().await;
    bad.log_in().await;
    // The read tables show everybody, and the moment is over.
    let all = format!("/customers?numbers={people}");
    loop {
        let answer = bad.request(Method::GET, &all).send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        if answer["number"] == people {
            let newest = answer["customers"].as_array().unwrap().iter();
            let newest = newest.map(|customer| customer["created_at"].as_str().unwrap()).max();
            newest.unwrap().clone_into(&mut bad.moment);
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    println!("{people} customers, {connections} hostile connections, {seconds} s per row.\n");
    println!(
        "| the hostile account | honest requests | failed | median, ms | p99, ms | p99 to alone | hostile answers by status |"
    );
    println!("|---|---|---|---|---|---|---|");
    let nothing = Counts::default();
    honest(&good, 1).await;
    let alone = row("is away", &good, seconds, None, &nothing).await;
    let every: Vec<&'static str> = ATTACKS.to_vec();
    let rows = ATTACKS.iter().map(|attack| (*attack, vec![*attack]));
    for (name, kinds) in rows.chain([("does all of it", every)]) {
        let counts = Counts::default();
        let mut attacks = JoinSet::new();
        for (connection, kind) in (0..connections).zip(kinds.iter().copied().cycle()) {
            let mut party = bad.clone();
            if connection % 7 == 0 {
                party.client = Client::builder().no_proxy().build().unwrap();
            }
            attacks.spawn(attack(kind, party, counts.clone()));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        row(name, &good, seconds, Some(alone), &counts).await;
        attacks.shutdown().await;
        // A log-in may have ended the session.
        tokio::time::sleep(Duration::from_secs(2)).await;
        bad.log_in().await;
    }
}
