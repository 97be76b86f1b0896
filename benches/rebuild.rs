//! The time and memory of a rebuild, compared with a baseline: one SQL statement inside PostgreSQL that
//! fills the same table, and the same indexes. Also the latency of reads during a rebuild.
//! `script/bench rebuild` starts the servers and runs it. It prints tables in Markdown.
//!
//! `BENCH_EVENTS` (1,000,000), `BENCH_ROUNDS` (3) and `BENCH_READS` (500 per second) set its size.

#![expect(clippy::unwrap_used, reason = "a benchmark that fails should stop")]
#![expect(clippy::cast_precision_loss, reason = "counts of some 10,000,000")]

mod service;

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use customers::pools::Pools;
use customers::postgres::Pool;
use customers::projections::customer_history::CustomerHistory;
use customers::projections::customers::Customers;
use customers::projections::rebuild::rebuild;
use customers::projections::status::{self, State};
use customers::projections::verify::verify;
use customers::projections::{ALL, Projection};
use reqwest::Method;
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::time::Instant;

use crate::service::{Service, customers, log};

/// The baseline: the same tables, filled and indexed by SQL alone.
const CUSTOMERS_BY_SQL: [&str; 5] = [
    "drop table if exists by_sql",
    "create table by_sql (like customers)",
    "insert into by_sql
     select last.aggregate_id::bigint, last.payload ->> 'name', (last.payload ->> 'dob')::date,
            last.sequence, first.recorded_at, last.recorded_at
     from (select distinct on (aggregate_id) * from events where aggregate_type = 'customer'
           order by aggregate_id, sequence desc) last
     join events first on first.aggregate_type = 'customer'
                      and first.aggregate_id = last.aggregate_id and first.sequence = 1
     where last.event_type <> 'CustomerDeleted'",
    "alter table by_sql add primary key (id)",
    "create index on by_sql (dob desc, id)",
];

const HISTORY_BY_SQL: [&str; 5] = [
    "drop table if exists by_sql",
    "create table by_sql (like customer_history)",
    "insert into by_sql
     select aggregate_id::bigint, sequence, position, lead(position) over stream, event_type,
            payload ->> 'name', (payload ->> 'dob')::date, first_value(recorded_at) over stream,
            recorded_at, lead(recorded_at) over stream, metadata ->> 'actor', metadata ->> 'role',
            metadata ->> 'request_id', metadata ->> 'ip', metadata ->> 'user_agent',
            metadata ->> 'reason'
     from events where aggregate_type = 'customer'
     window stream as (partition by aggregate_id order by sequence)",
    "alter table by_sql add primary key (customer_id, version)",
    "create index on by_sql (dob desc, customer_id) include (position, until_position)
     where dob is not null",
];

fn variable(name: &str, default: i64) -> i64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

async fn by_sql(pool: &Pool, statements: &[&str]) -> f64 {
    let began = Instant::now();
    for statement in statements {
        pool.execute(*statement).await.unwrap();
    }
    began.elapsed().as_secs_f64()
}

/// The peak memory of this process since the last call, in MiB.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse::<u64>().unwrap() / 1024
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Reads customers all over the log at a fixed rate until `over`. Returns the sorted latencies, each
/// from the time at which the read was due, so that a slow read does not delay the next one; and how
/// many failed.
async fn reads(
    service: &Arc<Service>,
    rate: u64,
    ids: i64,
    over: &Arc<AtomicBool>,
) -> (Vec<Duration>, usize) {
    let began = Instant::now();
    let mut tasks = vec![];
    for number in 0.. {
        let due = began + Duration::from_nanos(1_000_000_000 / rate * number);
        tokio::time::sleep_until(due).await;
        if over.load(Ordering::Relaxed) {
            break;
        }
        let service = Arc::clone(service);
        let id = 1 + i64::try_from(number).unwrap() * 7919 % ids;
        tasks.push(tokio::spawn(async move {
            let answer = service.request(Method::GET, &format!("/customers/{id}")).send().await;
            let status = match answer {
                Ok(answer) => {
                    let status = answer.status().as_u16();
                    answer.bytes().await.map(|_| status).ok()
                }
                Err(_) => None,
            };
            (due.elapsed(), status)
        }));
    }
    let (mut times, mut failed) = (vec![], 0);
    for task in tasks {
        let (time, status) = task.await.unwrap();
        times.push(time);
        // Some customers are deleted.
        failed += usize::from(!matches!(status, Some(200 | 404)));
    }
    times.sort();
    (times, failed)
}

/// Prints one row; returns the p99 in ms.
fn print_reads(what: &str, (times, failed): &(Vec<Duration>, usize)) -> f64 {
    let at = |thousandth: usize| times[(times.len() - 1) * thousandth / 1000].as_secs_f64() * 1e3;
    println!(
        "| {what} | {} | {:.2} | {:.2} | {:.1} | {failed} |",
        times.len(),
        at(500),
        at(990),
        at(1000)
    );
    at(990)
}

#[tokio::main]
async fn main() {
    let events = variable("BENCH_EVENTS", 1_000_000);
    let rounds = variable("BENCH_ROUNDS", 3);
    let rate = variable("BENCH_READS", 500).unsigned_abs();
    let url = SecretString::from(std::env::var("DATABASE_URL").unwrap());
    customers::schema::migrate(&url, None).await.unwrap();
    let pools = Pools::new(&url).unwrap();
    let pool = &pools.rebuild;
    let mut connection = PgConnection::connect(url.expose_secret()).await.unwrap();
    log::fill(&mut connection, events).await;
    let stored: i64 =
        sqlx::query_scalar("select count(*) from events").fetch_one(pool).await.unwrap();

    time(pool, stored, rounds).await;
    live_reads(pool, events * 7 / 10, rate).await;
}

/// The time and memory of a rebuild.
async fn time(pool: &Pool, stored: i64, rounds: i64) {
    println!("A log of {stored} events; medians of {rounds} rounds in turn.\n");
    println!(
        "| projection | by SQL in PostgreSQL, s | rebuild, s | events/s | ratio | floor | goal | memory, MiB |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let kinds: [(&'static dyn Projection, &[&str]); 2] =
        [(&Customers, &CUSTOMERS_BY_SQL), (&CustomerHistory, &HISTORY_BY_SQL)];
    for (projection, statements) in kinds {
        let (mut sql, mut rebuilds) = (vec![], vec![]);
        peak_memory();
        let mut memory = 0;
        for _ in 0..rounds {
            pool.execute("checkpoint").await.unwrap();
            sql.push(by_sql(pool, statements).await);
            pool.execute("checkpoint").await.unwrap();
            let began = Instant::now();
            rebuild(projection, pool).await.unwrap();
            rebuilds.push(began.elapsed().as_secs_f64());
            memory = memory.max(peak_memory());
        }
        let (sql, rebuilt) = (median(sql), median(rebuilds));
        println!(
            "| {} | {sql:.1} | {rebuilt:.1} | {:.0} | {:.2}x | 2x | 1.2x | {memory} |",
            projection.name(),
            stored as f64 / rebuilt,
            rebuilt / sql,
        );
    }
    pool.execute("drop table by_sql").await.unwrap();
    for projection in ALL {
        assert_eq!(verify(projection, pool).await.unwrap().difference, None);
    }
}

/// The latency of reads during a rebuild.
async fn live_reads(pool: &Pool, ids: i64, rate: u64) {
    let service = Arc::new(Service::start().await);
    let over = Arc::new(AtomicBool::new(false));
    let idle = async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        over.store(true, Ordering::Relaxed);
    };
    let (idle, ()) = tokio::join!(reads(&service, rate, ids, &over), idle);
    over.store(false, Ordering::Relaxed);
    let by_command = async {
        for projection in ALL {
            let mut command = customers(&["projection", "rebuild", projection.name()]);
            assert!(command.stdout(Stdio::null()).status().await.unwrap().success());
        }
        over.store(true, Ordering::Relaxed);
    };
    let (by_command, ()) = tokio::join!(reads(&service, rate, ids, &over), by_command);
    over.store(false, Ordering::Relaxed);
    let by_request = async {
        for projection in ALL {
            let path = format!("/projections/{}/rebuild", projection.name());
            let begun = service.request(Method::POST, &path).send().await.unwrap();
            assert_eq!(begun.status(), 202);
            while status::of(projection, pool).await.unwrap().state != State::Following {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        over.store(true, Ordering::Relaxed);
    };
    let (by_request, ()) = tokio::join!(reads(&service, rate, ids, &over), by_request);
    println!(
        "\n| `GET /customers/{{id}}`, {rate}/s | requests | median, ms | p99, ms | maximum, ms | failed |"
    );
    println!("|---|---|---|---|---|---|");
    let before = print_reads("idle", &idle);
    let command =
        print_reads("while `customers projection rebuild` rebuilds both projections", &by_command);
    let request = print_reads("while the service itself rebuilds both projections", &by_request);
    let (command, request) = (command / before, request / before);
    println!("\np99 {command:.1}x and {request:.1}x of idle (floor 3x, goal 2x)");
}
