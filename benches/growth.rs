//! The cost of a growing log: the same requests on a log of 10,000 events and on one of 10,000,000, in
//! turn; the time and memory of a rebuild of each; and the time of lists of the past, by how far back
//! they are. `script/bench growth` starts the servers and runs it. It prints tables in Markdown.
//!
//! `BENCH_EVENTS` (10,000,000) sets the size of the large log.

#![expect(clippy::unwrap_used, reason = "a benchmark that fails should stop")]

mod service;

use std::process::Stdio;
use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use serde_json::json;
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::time::Instant;

use crate::service::{Service, customers, log};

/// The sizes of the small log, and of the log of the lists of the past, whose first 1,000,000 events are
/// creates.
const SMALL: i64 = 10_000;
const PAST: i64 = 1_428_572;

/// Requests per kind, log and round; and the number of rounds.
const REQUESTS: i64 = 200;
const ROUNDS: usize = 31;

/// Pages of the feed: near its end, where followers read; one after the other, from a third of the log
/// on; and all over the log, which PostgreSQL does not hold in memory if the log is large.
const FEED_END: &str = "feed, 100 near the end";
const FEED_WALKED: &str = "feed, the next 100";
const FEED_ANYWHERE: &str = "feed, 100 anywhere";

/// A log and a service that serves it.
struct Log {
    events: i64,
    service: Service,
}

/// Creates a database on the server of the environment; returns its URL.
async fn database(name: &str) -> String {
    let url = std::env::var("DATABASE_URL").unwrap();
    let mut connection = PgConnection::connect(&url).await.unwrap();
    connection.execute(format!("create database {name}").as_str()).await.unwrap();
    format!("{}/{name}", url.rsplit_once('/').unwrap().0)
}

/// Runs a process; returns its peak memory, in MiB.
async fn peak_memory_of(url: &str, arguments: &[&str]) -> u64 {
    let mut command = customers(arguments);
    let mut child = command.env("DATABASE_URL", url).stdout(Stdio::null()).spawn().unwrap();
    let path = format!("/proc/{}/status", child.id().unwrap());
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let status = tokio::fs::read_to_string(&path).await.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let now = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        peak = peak.max(now.unwrap_or(0) / 1024);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(child.wait().await.unwrap().success());
    peak
}

impl Log {
    async fn of(name: &str, events: i64) -> Self {
        let url = database(name).await;
        assert!(
            customers(&["migrate"]).env("DATABASE_URL", &url).status().await.unwrap().success()
        );
        let mut connection = PgConnection::connect(&url).await.unwrap();
        log::fill(&mut connection, events).await;
        println!("| {events} events | time, s | maximum memory, MiB |\n|---|---|---|");
        for projection in ["customers", "customer_history", "customer_search"] {
            let began = Instant::now();
            let peak = peak_memory_of(&url, &["projection", "rebuild", projection]).await;
            let seconds = began.elapsed().as_secs_f64();
            println!("| `customers projection rebuild {projection}` | {seconds:.1} | {peak} |");
        }
        println!();
        connection.execute("vacuum analyze").await.unwrap();
        // As after a pause in such a load: the following reads need not evict dirty pages.
        connection.execute("checkpoint").await.unwrap();
        Self { events, service: Service::on(&url).await }
    }

    /// The request of this kind and number.
    fn request(&self, kind: &str, number: i64) -> RequestBuilder {
        let id = 1 + number * 7919 % (self.events * 7 / 10);
        let get = |path: &str| self.service.request(Method::GET, path);
        match kind {
            "youngest 10" => get("/customers?numbers=10"),
            "one history" => get(&format!("/customers/{id}/history")),
            FEED_END => get(&format!("/events?limit=100&after={}", self.events * 99 / 100)),
            FEED_WALKED => {
                let start = self.events / 3;
                get(&format!("/events?limit=100&after={}", (start + number * 100) % self.events))
            }
            FEED_ANYWHERE => get(&format!("/events?limit=100&after={id}")),
            _ => {
                let body = json!({"name": "Somebody", "dob": "1960-12-10"});
                self.service.request(Method::POST, "/customers").json(&body)
            }
        }
    }
}

async fn took(request: RequestBuilder) -> Duration {
    let began = Instant::now();
    let answer = request.send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.status());
    answer.bytes().await.unwrap();
    began.elapsed()
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e3
}

async fn compare(small: &Log, large: &Log) {
    println!(
        "| one request at a time, median, ms | {} events | {} events | ratio | floor | goal |",
        small.events, large.events
    );
    println!("|---|---|---|---|---|---|");
    for kind in [
        "youngest 10",
        "one history",
        FEED_END,
        FEED_WALKED,
        FEED_ANYWHERE,
        "create (append and read table)",
    ] {
        let (mut of_small, mut of_large) = (vec![], vec![]);
        for round in 0..ROUNDS {
            for (log, times) in [(small, &mut of_small), (large, &mut of_large)] {
                for number in 0..REQUESTS {
                    let number = number + i64::try_from(round).unwrap() * REQUESTS;
                    let time = took(log.request(kind, number)).await;
                    // The first round warms up.
                    if round > 0 {
                        times.push(time);
                    }
                }
            }
        }
        let (of_small, of_large) = (median(of_small), median(of_large));
        let ratio = of_large / of_small;
        println!("| {kind} | {of_small:.2} | {of_large:.2} | {ratio:.2}x | 1.2x | 1.1x |");
    }
}

/// Measures lists of the past. The events are one millisecond apart, from 2020 on.
async fn past(log: &Log) {
    println!(
        "| `as_of` at this fraction of {} events, median, ms | the 10 youngest | 100 after the first 1,000 | one customer |",
        log.events
    );
    println!("|---|---|---|---|");
    let start = "2020-01-01T00:00:00Z".parse::<chrono::DateTime<chrono::Utc>>().unwrap();
    for thousandth in [1, 10, 50, 100, 250, 500, 700, 750, 900, 990, 1000] {
        let at = start + chrono::TimeDelta::milliseconds(log.events * thousandth / 1000);
        let at = at.format("%Y-%m-%dT%H:%M:%S%.6fZ");
        let get = |path: &str| log.service.request(Method::GET, path);
        let page = get(&format!("/customers?limit=1000&as_of={at}")).send().await.unwrap();
        let page: serde_json::Value = page.json().await.unwrap();
        let next = page["next"].as_str().unwrap_or_default().to_owned();
        let mut columns = vec![];
        for path in [
            format!("/customers?numbers=10&as_of={at}"),
            format!("/customers?limit=100&as_of={at}&after={next}"),
            format!("/customers/1?as_of={at}"),
        ] {
            let mut times = vec![];
            for _ in 0..9 {
                times.push(took(get(&path)).await);
            }
            columns.push(median(times));
        }
        let [whole, tenth] = [thousandth / 10, thousandth % 10];
        let [youngest, later, one] = columns[..] else { unreachable!("three paths") };
        println!("| {whole}.{tenth} % | {youngest:.2} | {later:.2} | {one:.2} |");
    }
}

#[tokio::main]
async fn main() {
    let events = std::env::var("BENCH_EVENTS").ok().and_then(|text| text.parse().ok());
    let small = Log::of("growth_small", SMALL).await;
    let large = Log::of("growth_large", events.unwrap_or(10_000_000)).await;
    compare(&small, &large).await;
    drop((small, large));
    println!();
    past(&Log::of("growth_past", PAST).await).await;
}
