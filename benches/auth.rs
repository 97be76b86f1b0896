//! The cost of authentication: a trivial route with authentication compared with the same route without
//! it; the commands that Redis executes for it; the time of refused log-ins; and other requests during
//! log-ins. `script/bench auth` starts the servers and runs it. It prints tables in Markdown.
//!
//! `BENCH_SECONDS` (3) and `BENCH_ROUNDS` (5) set the length of the run.

#![expect(clippy::unwrap_used, reason = "a benchmark that fails should stop")]

mod service;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use customers::auth::account::Accounts;
use customers::auth::{Auth, Cookie, Purpose};
use customers::clock::Clock;
use customers::config::Config;
use customers::pools::Pools;
use customers::tasks::Tasks;
use futures_util::future::join_all;
use reqwest::Method;
use secrecy::SecretString;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::service::Service;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Serves the two routes in this process, on the library itself.
async fn routes(auth: Auth) -> SocketAddr {
    async fn protected(
        State(auth): State<Auth>,
        headers: HeaderMap,
    ) -> Result<&'static str, StatusCode> {
        let token = headers["authorization"].to_str().unwrap().strip_prefix("Bearer ").unwrap();
        let cookie = Cookie::Own(headers["cookie"].to_str().unwrap());
        auth.authenticate(token, cookie, Purpose::Access, &Arc::default())
            .await
            .map(|_| "ok")
            .map_err(|_| StatusCode::UNAUTHORIZED)
    }
    let router = Router::new()
        .route("/open", get(async || "ok"))
        .route("/protected", get(protected))
        .with_state(auth);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// Sends requests on `connections` connections, one at a time on each, for `time`; returns the time of
/// each.
async fn load(
    address: SocketAddr,
    request: &str,
    connections: usize,
    time: Duration,
) -> Vec<Duration> {
    let until = Instant::now() + time;
    let clients = (0..connections).map(|_| {
        let request = request.to_owned();
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (mut times, mut buffer) = (vec![], [0; 4096]);
            while Instant::now() < until {
                let began = Instant::now();
                stream.write_all(request.as_bytes()).await.unwrap();
                let length = stream.read(&mut buffer).await.unwrap();
                assert!(buffer[..length].starts_with(b"HTTP/1.1 200"), "request refused");
                times.push(began.elapsed());
            }
            times
        })
    });
    join_all(clients).await.into_iter().flat_map(Result::unwrap).collect()
}

/// A quantile, in milliseconds.
fn quantile(times: &mut [Duration], part: f64) -> f64 {
    times.sort();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index"
    )]
    let index = ((times.len() - 1) as f64 * part).round() as usize;
    times[index].as_secs_f64() * 1e3
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// How often Redis has executed each command.
async fn commands(redis: &mut redis::aio::MultiplexedConnection) -> Vec<(String, u64)> {
    let info: String = redis::cmd("INFO").arg("commandstats").query_async(redis).await.unwrap();
    let of = |line: &str| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
    };
    info.lines().filter_map(of).collect()
}

async fn authentication(service: &Service, cookie: &str) {
    let [database, redis] = ["DATABASE_URL", "REDIS_URL"].map(|name| std::env::var(name).unwrap());
    let pools = Pools::new(&SecretString::from(database.clone())).unwrap();
    let accounts = Accounts::new(pools.accounts.clone(), pools.appender.clone());
    let prefix = database.rsplit('/').next().unwrap().to_owned();
    let keys = std::env::temp_dir().join("bench-keys").display().to_string();
    let config = Config::from_lookup(|name| match name {
        "REDIS_URL" => Some(redis.clone()),
        "CUSTOMERS_REDIS_PREFIX" => Some(prefix.clone()),
        "CUSTOMERS_KEYS_DIR" => Some(keys.clone()),
        "CUSTOMERS_PUBLIC_URL" => Some(service.url.clone()),
        "CUSTOMERS_ACCOUNT_LIMIT" => Some("1000000".to_owned()),
        _ => None,
    });
    let auth =
        Auth::new(&config.unwrap(), "bench", accounts, Clock::system(), &Tasks::default()).unwrap();
    let address = routes(auth).await;
    let head = format!(
        "HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {}\r\ncookie: {cookie}\r\n\r\n",
        service.token
    );
    let request = |path: &str| format!("GET {path} {head}");
    let (seconds, rounds) = (number("BENCH_SECONDS", 3), number("BENCH_ROUNDS", 5));
    let time = Duration::from_secs(seconds);
    println!(
        "| concurrent requests | open, /s | protected, /s | ratio | open, median ms | protected, median ms | p99 ms |"
    );
    println!("|---|---|---|---|---|---|---|");
    for connections in [1, 64] {
        let (mut rates, mut times) = ([vec![], vec![]], [vec![], vec![]]);
        for round in 0..=rounds {
            for (which, path) in ["/open", "/protected"].into_iter().enumerate() {
                let took = load(address, &request(path), connections, time).await;
                // The first round warms up.
                if round > 0 {
                    #[expect(clippy::cast_precision_loss, reason = "a rate")]
                    rates[which].push(took.len() as f64 / time.as_secs_f64());
                    times[which].extend(took);
                }
            }
        }
        let [open, protected] = rates.map(median);
        let [mut of_open, mut of_protected] = times;
        let (open_ms, protected_ms) =
            (quantile(&mut of_open, 0.5), quantile(&mut of_protected, 0.5));
        let p99 = quantile(&mut of_protected, 0.99);
        println!(
            "| {connections} | {open:.0} | {protected:.0} | {:.2}x | {open_ms:.3} | {protected_ms:.3} | {p99:.3} |",
            protected / open
        );
    }

    let client = redis::Client::open(redis.as_str()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let before = commands(&mut connection).await;
    let requests = load(address, &request("/protected"), 1, Duration::from_secs(1)).await.len();
    let after = commands(&mut connection).await;
    println!("\nRedis executed these commands for {requests} sequential requests:\n");
    println!("| command | calls | per request |");
    println!("|---|---|---|");
    for (name, count) in after {
        let count =
            count - before.iter().find(|(other, _)| *other == name).map_or(0, |(_, count)| *count);
        #[expect(clippy::cast_precision_loss, reason = "a ratio")]
        let each = count as f64 / requests as f64;
        if each >= 0.01 {
            println!("| `{name}` | {count} | {each:.2} |");
        }
    }
}

async fn log_ins(service: &Service) {
    let attempt = async |name: &str| {
        let body = json!({"username": name, "password": "a wrong password"});
        let began = Instant::now();
        let answer = service.request(Method::POST, "/login").json(&body).send().await.unwrap();
        assert_eq!(answer.status(), 401);
        began.elapsed()
    };
    let (mut unknown, mut wrong) = (vec![], vec![]);
    for number in 0..100 {
        unknown.push(attempt(&format!("nobody{number}")).await);
        wrong.push(attempt("bench").await);
    }
    println!("\n| refused log-in, 100 of each kind in turn | median, ms | p95, ms |");
    println!("|---|---|---|");
    for (what, mut times) in [("unknown user name", unknown), ("wrong password", wrong)] {
        println!(
            "| {what} | {:.1} | {:.1} |",
            quantile(&mut times, 0.5),
            quantile(&mut times, 0.95)
        );
    }
}

async fn livez_during_log_ins(service: &Service) {
    let alive = async || {
        let began = Instant::now();
        let answer = service.request(Method::GET, "/livez").send().await.unwrap();
        assert_eq!(answer.status(), 200);
        began.elapsed()
    };
    let mut idle = vec![];
    for _ in 0..500 {
        idle.push(alive().await);
    }
    service.reset_peak_memory();
    let before = service.peak_memory();
    let credentials = json!({"username": "bench", "password": service::PASSWORD});
    let logging_in = (0..200).map(|_| {
        let log_in = service.request(Method::POST, "/login").json(&credentials).send();
        tokio::spawn(async move { log_in.await.unwrap().status().as_u16() })
    });
    let mut logging_in = join_all(logging_in.collect::<Vec<_>>());
    let (began, mut meanwhile) = (Instant::now(), vec![]);
    let statuses = loop {
        tokio::select! {
            statuses = &mut logging_in => break statuses,
            time = alive() => meanwhile.push(time),
        }
    };
    let took = began.elapsed().as_secs_f64();
    let succeeded = statuses.into_iter().filter(|status| matches!(status, Ok(200))).count();
    println!("\n| `/livez` | requests | median, ms | p99, ms |");
    println!("|---|---|---|---|");
    for (what, mut times) in [("idle", idle), ("during 200 concurrent log-ins", meanwhile)] {
        let (half, p99) = (quantile(&mut times, 0.5), quantile(&mut times, 0.99));
        println!("| {what} | {} | {half:.2} | {p99:.2} |", times.len());
    }
    println!(
        "\n{succeeded} of 200 log-ins succeeded, in {took:.1} s. The process used {before} MiB before and {} MiB at most.",
        service.peak_memory()
    );
}

#[tokio::main]
async fn main() {
    let mut service = Service::start().await;
    let body = json!({"username": "bench", "password": service::PASSWORD});
    let answer = service.request(Method::POST, "/login").json(&body).send().await.unwrap();
    let cookie = answer.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap();
    let cookie = cookie.split_once('=').unwrap().1.to_owned();
    let answer: serde_json::Value = answer.json().await.unwrap();
    answer["access_token"].as_str().unwrap().clone_into(&mut service.token);
    authentication(&service, &cookie).await;
    log_ins(&service).await;
    livez_during_log_ins(&service).await;
}
