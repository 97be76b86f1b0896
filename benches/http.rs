//! The service over HTTP compared with bare axum that sends the same bytes, and with plain inserts: a ladder
//! from the frame to a write, peak rates, and the latency at half of each. `script/bench http` starts the
//! servers and runs it; it needs wrk and pgbench.
//!
//! `BENCH_SECONDS` (4, per row and round), `BENCH_ROUNDS` (3) and `BENCH_CUSTOMERS` (1,000,000) set the size.
//! It prints tables in Markdown, and writes the same figures to `target/bench/http.json`.

#![expect(clippy::unwrap_used, reason = "a benchmark that fails should stop")]

mod service;

use std::iter;
use std::process::Stdio;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::header;
use axum::routing::get;
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use crate::service::load::{Load, is_installed};
use crate::service::{Service, customers, log, number, pgbench, quantile};

const CONNECTIONS: u32 = 64;

/// What a row is compared with.
#[derive(Clone, Copy, PartialEq)]
enum Baseline {
    /// Bare axum with the bytes of the answer.
    Bare(usize),
    Pgbench,
}

struct Row {
    name: &'static str,
    load: Load,
    baseline: Baseline,
    floor: Option<f64>,
    goal: Option<f64>,
}

/// The bodies that bare axum sends, in the order of their paths.
const PATHS: [&str; 3] = ["/list", "/one", "/empty"];

/// Bare axum: answers with bytes that are given in the environment.
async fn serve_bare() {
    let mut router = Router::new();
    for path in PATHS {
        let body = std::env::var(format!("BODY{}", path.replace('/', "_"))).unwrap();
        let answer = async move || ([(header::CONTENT_TYPE, "application/json")], body.clone());
        router = router.route(path, get(answer));
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("http://{}", listener.local_addr().unwrap());
    axum::serve(listener, router).await.unwrap();
}

/// Starts this program again as bare axum, a process like the service.
async fn start_bare(bodies: &[String; 3]) -> (Child, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    for (path, body) in PATHS.iter().zip(bodies) {
        command.env(format!("BODY{}", path.replace('/', "_")), body);
    }
    let bare = command.env("BENCH_BARE", "1").stdout(Stdio::piped()).kill_on_drop(true);
    let mut bare = bare.spawn().unwrap();
    let mut lines = BufReader::new(bare.stdout.take().unwrap()).lines();
    let url = lines.next_line().await.unwrap().unwrap();
    (bare, url)
}

/// Fills the log, and builds the read tables from it.
async fn fill(database_url: &str, customers_wanted: u64) {
    assert!(customers(&["migrate"]).status().await.unwrap().success());
    let mut connection = PgConnection::connect(database_url).await.unwrap();
    // 70 % of the events are creates.
    let events = i64::try_from(customers_wanted * 10 / 7).unwrap();
    log::fill(&mut connection, events).await;
    for projection in ["customers", "customer_history", "customer_search"] {
        let mut rebuild = customers(&["projection", "rebuild", projection]);
        assert!(rebuild.stdout(Stdio::null()).status().await.unwrap().success());
    }
    connection.execute("vacuum analyze").await.unwrap();
    connection.execute(pgbench::TABLE).await.unwrap();
}

fn rows(token: &str, cookie: &str, one: &str) -> Vec<Row> {
    let headers = vec![
        ("Authorization", format!("Bearer {token}")),
        ("Cookie", format!("{}={cookie}", service::COOKIE)),
    ];
    let read = |path: &str| Load {
        method: "GET",
        path: path.to_owned(),
        headers: headers.clone(),
        body: String::new(),
    };
    let mut open = read("/livez");
    open.headers.clear();
    let mut write = read("/customers");
    write.method = "POST";
    write.headers.push(("Content-Type", "application/json".to_owned()));
    r#"{"name":"Ada Lovelace","dob":"1990-12-10"}"#.clone_into(&mut write.body);
    let row = |name, load, baseline, floor, goal| Row { name, load, baseline, floor, goal };
    vec![
        row("frame: `GET /livez`", open, Baseline::Bare(2), Some(0.85), Some(0.95)),
        row(
            "+ session: `GET /session_cookie_experiment`",
            read("/session_cookie_experiment"),
            Baseline::Bare(2),
            Some(0.5),
            Some(0.7),
        ),
        row("+ read: `GET /customers/{id}`", read(one), Baseline::Bare(1), Some(0.3), Some(0.5)),
        row(
            "+ read: `GET /customers?numbers=10`",
            read("/customers?numbers=10"),
            Baseline::Bare(0),
            Some(0.4),
            Some(0.7),
        ),
        row("+ write: `POST /customers`", write, Baseline::Pgbench, Some(0.7), Some(1.0)),
    ]
}

/// Median and spread (the largest difference from it, as a part of it).
fn median(rates: &mut [f64]) -> (f64, f64) {
    rates.sort_by(f64::total_cmp);
    let middle = rates[rates.len() / 2];
    let spread = rates.iter().map(|rate| (rate - middle).abs()).fold(0.0, f64::max);
    (middle, spread / middle)
}

/// The time of an import of so many lines by the command line, alone, and of a COPY of the same rows into a
/// table with the columns and indexes of the read table, in seconds.
async fn import_and_copy(database_url: &str, lines: u64) -> (f64, f64) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("people.csv");
    let person = |number: u64| {
        let (year, month, day) = (1930 + number % 90, 1 + number % 12, 1 + number % 28);
        format!("Person {number},{year}-{month:02}-{day:02}")
    };
    let at = "2026-01-01 00:00:00Z";
    let row = |number: u64| format!("{number},{},1,{at},{at}\n", person(number));
    let line = |number: u64| format!("{}\n", person(number));
    let people: String = iter::once("name,dob\n".to_owned()).chain((0..lines).map(line)).collect();
    let rows: String = (0..lines).map(row).collect();
    std::fs::write(&file, people).unwrap();
    let mut connection = PgConnection::connect(database_url).await.unwrap();
    let table = "create table copied (like customers including all)";
    connection.execute(table).await.unwrap();
    let began = Instant::now();
    let copy =
        "copy copied (id, name, dob, version, created_at, updated_at) from stdin (format csv)";
    let mut copy = connection.copy_in_raw(copy).await.unwrap();
    copy.send(rows.into_bytes()).await.unwrap();
    copy.finish().await.unwrap();
    let copied = began.elapsed();
    connection.execute("drop table copied").await.unwrap();
    let began = Instant::now();
    let mut import = customers(&["import", "--format", "csv"]);
    let import = import.arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(import.status().await.unwrap().success());
    (began.elapsed().as_secs_f64(), copied.as_secs_f64())
}

/// The peak rates of a row and of its baseline, one per round.
type Rates = (Vec<f64>, Vec<f64>);

/// What is measured: the service, bare axum, the database of pgbench.
struct Rounds {
    url: String,
    bare: String,
    service: Service,
    time: Duration,
    count: u64,
}

impl Rounds {
    /// The peak rates of each row and of its baseline, in turn.
    async fn rates(&self, rows: &[Row]) -> Vec<Rates> {
        let mut rates = vec![(vec![], vec![]); rows.len()];
        for round in 0..=self.count {
            for (row, (ours, theirs)) in rows.iter().zip(&mut rates) {
                let baseline = match row.baseline {
                    Baseline::Bare(which) => {
                        let headers = row.load.headers.clone();
                        let path = PATHS[which].to_owned();
                        let load = Load { method: "GET", path, headers, body: String::new() };
                        load.peak(&self.bare, CONNECTIONS, self.time).await
                    }
                    Baseline::Pgbench => pgbench::inserts(&self.url, CONNECTIONS, self.time).await,
                };
                let rate = row.load.peak(&self.service.url, CONNECTIONS, self.time).await;
                // The first round warms up.
                if round > 0 {
                    ours.push(rate);
                    theirs.push(baseline);
                }
            }
        }
        rates
    }

    /// Prints the table, with the latency at half of each rate, and returns the same figures.
    async fn report(&self, rows: Vec<Row>, rates: Vec<Rates>) -> Vec<Value> {
        println!(
            "| what | /s | baseline, /s | ratio | floor | goal | spread | p50, ms | p99, ms | p99.9, ms |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|");
        let mut figures = vec![];
        for (row, (mut ours, mut theirs)) in rows.into_iter().zip(rates) {
            let ((rate, spread), (baseline, _)) = (median(&mut ours), median(&mut theirs));
            let mut took = row.load.at_rate(&self.service.url, rate / 2.0, self.time * 2).await;
            took.sort();
            let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|part| quantile(&took, part));
            let shown = |part: Option<f64>| part.map(|part| format!("{part}x")).unwrap_or_default();
            println!(
                "| {} | {rate:.0} | {baseline:.0} | {:.2}x | {} | {} | {:.0} % | {p50:.2} | {p99:.2} | {p999:.2} |",
                row.name,
                rate / baseline,
                shown(row.floor),
                shown(row.goal),
                spread * 100.0,
            );
            figures.push(json!({
                "what": row.name, "rate": rate, "baseline": baseline, "ratio": rate / baseline, "floor": row.floor,
                "goal": row.goal, "rates": ours, "baselines": theirs, "p50_ms": p50, "p99_ms": p99, "p999_ms": p999,
            }));
        }
        figures
    }
}

#[tokio::main]
async fn main() {
    if std::env::var_os("BENCH_BARE").is_some() {
        return serve_bare().await;
    }
    for program in ["wrk", "pgbench"] {
        assert!(is_installed(program), "{program} is not installed");
    }
    let url = std::env::var("DATABASE_URL").unwrap();
    let size = number("BENCH_CUSTOMERS", 1_000_000);
    fill(&url, size).await;
    let service = Service::start().await;
    let body = json!({"username": "bench", "password": service::PASSWORD});
    let answer = service.request(reqwest::Method::POST, "/login").json(&body).send().await.unwrap();
    let cookie = answer.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap();
    let cookie = cookie.split_once('=').unwrap().1.to_owned();
    let answer: Value = answer.json().await.unwrap();
    let token = answer["access_token"].as_str().unwrap().to_owned();
    let text = async |path: &str| {
        service.request(reqwest::Method::GET, path).send().await.unwrap().text().await.unwrap()
    };
    let list = text("/customers?numbers=10").await;
    let youngest: Value = serde_json::from_str(&list).unwrap();
    let one = format!("/customers/{}", youngest["customers"][0]["id"]);
    let rows = rows(&token, &cookie, &one);
    let bodies = [list, text(&one).await, "{}".to_owned()];
    let (_bare, bare) = start_bare(&bodies).await;

    let rounds = Rounds {
        url: url.clone(),
        bare,
        service,
        time: Duration::from_secs(number("BENCH_SECONDS", 4)),
        count: number("BENCH_ROUNDS", 3),
    };
    let rates = rounds.rates(&rows).await;
    println!(
        "{size} customers, {CONNECTIONS} connections, median of {} rounds of {} s in turn; latency at half of \
         the rate, from the moment at which a request was due.\n",
        rounds.count,
        rounds.time.as_secs()
    );
    let figures = rounds.report(rows, rates).await;
    let (import, copy) = import_and_copy(&url, size).await;
    println!(
        "\n| {size} lines, alone | s | by COPY, s | ratio | floor | goal |\n|---|---|---|---|---|---|"
    );
    println!("| `customers import` | {import:.1} | {copy:.1} | {:.1}x | 4x | 2x |", import / copy);
    let commit = Command::new("git").args(["rev-parse", "HEAD"]).output().await.unwrap().stdout;
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let settings: Vec<(String, String)> = sqlx::query_as(
        "select name, setting from pg_settings
         where source = 'command line' or name in ('fsync', 'synchronous_commit', 'server_version')",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let figures = json!({
        "commit": String::from_utf8_lossy(&commit).trim(), "customers": size, "connections": CONNECTIONS,
        "seconds": rounds.time.as_secs(), "rounds": rounds.count,
        "import_s": import, "copy_s": copy,
        "postgres": settings.into_iter().collect::<std::collections::BTreeMap<_, _>>(), "rows": figures,
    });
    std::fs::create_dir_all("target/bench").unwrap();
    std::fs::write("target/bench/http.json", format!("{figures:#}\n")).unwrap();
}
