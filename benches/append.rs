//! Appends per second, compared with plain inserts. `script/bench append` starts the servers and runs
//! it. It measures the rows in turn, round by round, so that other load on the machine affects all rows
//! alike, and prints tables in Markdown.
//!
//! `BENCH_ROUNDS` (5) and `BENCH_SECONDS` (4, per row and round) set the length of the run.

#![expect(clippy::unwrap_used, reason = "a benchmark that fails should stop")]
#![expect(clippy::cast_precision_loss, reason = "counts of some 100,000")]

mod service;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use customers::commands::customer::Customer;
use customers::commands::{Bus, CustomerCommand, ExternalIdChange, IfMatch};
use customers::demo;
use customers::events::customer::CustomerValues;
use customers::events::metadata::Metadata;
use customers::events::values::CustomerId;
use customers::pools::Pools;
use customers::schema;
use postgres_es::{PostgresCqrs, PostgresEventRepository};
use secrecy::SecretString;
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection as _, Executor as _, PgConnection, PgPool};
use tokio::time::Instant;

use crate::service::log::METADATA;
use crate::service::{number, pgbench};

/// How many customers are updated at each version, and how many updates each gets in a round.
const UPDATED: i64 = 50;
const UPDATES_OF_EACH: i64 = 20;

/// The version of the long streams.
const LONG: i64 = 10_000;

/// The table of postgres-es.
const CQRS_TABLE: &str = "
    create table cqrs_events (
        aggregate_type text not null, aggregate_id text not null,
        sequence bigint not null check (sequence >= 0), event_type text not null,
        event_version text not null, payload json not null, metadata json not null,
        primary key (aggregate_type, aggregate_id, sequence)
    );
";

/// Customers from 1000000001 on at version 1, and from 2000000001 on at version 10,000; the ids of
/// creates stay below these.
const STREAMS: &str = "
    insert into events
    select row_number() over () + coalesce((select max(position) from events), 0), 'customer',
           (base + id)::text, sequence,
           case when sequence = 1 then 'CustomerCreated' else 'CustomerUpdated' end, '1',
           json_build_object('type', case when sequence = 1 then 'CustomerCreated' else 'CustomerUpdated' end,
                             'name', 'Ada ' || sequence, 'dob', '1990-12-10'),
           $1::json, gen_random_uuid(),
           coalesce((select max(recorded_at) from events), now())
               + row_number() over () * interval '1 microsecond'
    from (values (1000000000::bigint, 1::bigint), (2000000000, $2)) as kind (base, length),
         generate_series(1, $3) id, generate_series(1, length) sequence
    order by sequence, base, id";

/// The connections and counters of the benchmark.
struct Bench {
    url: String,
    pools: Pools,
    bus: Bus,
    /// A second bus with its own pools: another process, from the point of view of the database.
    other: Bus,
    cqrs: Arc<PostgresCqrs<Customer>>,
    time: Duration,
    next: AtomicU64,
}

/// One row of the table.
struct Row {
    name: &'static str,
    workload: Workload,
    /// The index of the row that it is compared with.
    baseline: Option<usize>,
    floor: &'static str,
    goal: &'static str,
}

enum Workload {
    Pgbench { clients: u32 },
    Cqrs { in_flight: usize },
    Creates { in_flight: usize },
    Updates { base: i64, cache: Cache },
}

#[derive(Clone, Copy)]
enum Cache {
    Warm,
    Cold,
    /// Two buses in turn: each has a version that the other one has replaced.
    Stale,
}

fn rows() -> Vec<Row> {
    use Workload::{Cqrs, Creates, Pgbench, Updates};
    let row = |name, workload, baseline, floor, goal| Row { name, workload, baseline, floor, goal };
    let (short, long) = (1_000_000_000, 2_000_000_000);
    vec![
        row("pgbench, 1-row insert, 64 clients", Pgbench { clients: 64 }, None, "", ""),
        row("pgbench, 1-row insert, 1 client", Pgbench { clients: 1 }, None, "", ""),
        row("cqrs-es + postgres-es, 64 in flight", Cqrs { in_flight: 64 }, Some(0), "", ""),
        row("cqrs-es + postgres-es, 1 in flight", Cqrs { in_flight: 1 }, Some(1), "", ""),
        row("creates, 128 in flight", Creates { in_flight: 128 }, Some(0), "1.5x", "2x"),
        row("creates, 32 in flight", Creates { in_flight: 32 }, Some(0), "", ""),
        row("creates, 1 in flight", Creates { in_flight: 1 }, Some(1), "0.4x", "0.6x"),
        row(
            "updates at version 1, warm",
            Updates { base: short, cache: Cache::Warm },
            None,
            "",
            "",
        ),
        row(
            "updates at version 10,000, warm",
            Updates { base: long, cache: Cache::Warm },
            Some(7),
            "0.83x",
            "0.95x",
        ),
        row(
            "updates at version 1, cold",
            Updates { base: short, cache: Cache::Cold },
            None,
            "",
            "",
        ),
        row(
            "updates at version 10,000, cold",
            Updates { base: long, cache: Cache::Cold },
            Some(9),
            "0.83x",
            "0.95x",
        ),
        row(
            "updates at version 1, two processes in turn",
            Updates { base: short, cache: Cache::Stale },
            None,
            "",
            "",
        ),
        row(
            "updates at version 10,000, two processes in turn",
            Updates { base: long, cache: Cache::Stale },
            Some(11),
            "0.83x",
            "0.95x",
        ),
    ]
}

#[tokio::main]
async fn main() {
    let url = std::env::var("DATABASE_URL").unwrap();
    let rounds = number("BENCH_ROUNDS", 5);
    let bench = Bench::prepare(url).await;
    println!("{}\n", bench.machine().await);
    bench.table("append", rounds).await;

    let mut old_snapshot = PgConnection::connect(&bench.url).await.unwrap();
    old_snapshot.execute("begin isolation level repeatable read").await.unwrap();
    old_snapshot.execute("select count(*) from customers").await.unwrap();
    bench.table("append, while another session holds an old snapshot", rounds.div_ceil(2)).await;
    old_snapshot.execute("commit").await.unwrap();
}

impl Bench {
    async fn prepare(url: String) -> Self {
        let secret = SecretString::from(url.clone());
        schema::migrate(&secret, None).await.unwrap();
        let pools = Pools::new(&secret).unwrap();
        let other = Pools::new(&secret).unwrap();
        pools.long.execute(pgbench::TABLE).await.unwrap();
        pools.long.execute(CQRS_TABLE).await.unwrap();
        sqlx::query(STREAMS)
            .bind(METADATA)
            .bind(LONG)
            .bind(UPDATED)
            .execute(&pools.long)
            .await
            .unwrap();
        pools.long.execute("vacuum analyze events").await.unwrap();
        let pool: PgPool = PgPoolOptions::new().max_connections(64).connect(&url).await.unwrap();
        let repository = PostgresEventRepository::new(pool).with_tables("cqrs_events", "none");
        let store = cqrs_es::persist::PersistedEventStore::new_event_store(repository);
        Self {
            bus: Bus::new(pools.appender.clone(), pools.short.clone()),
            other: Bus::new(other.appender.clone(), other.short.clone()),
            cqrs: Arc::new(cqrs_es::CqrsFramework::new(store, vec![], ())),
            time: Duration::from_secs(number("BENCH_SECONDS", 4)),
            next: AtomicU64::new(0),
            url,
            pools,
        }
    }

    async fn machine(&self) -> String {
        let settings: (String, String, String, String) = sqlx::query_as(
            "select current_setting('server_version'), current_setting('fsync'),
                    current_setting('synchronous_commit'), current_setting('full_page_writes')",
        )
        .fetch_one(&self.pools.short)
        .await
        .unwrap();
        let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name\t: "));
        let cores = std::thread::available_parallelism().unwrap();
        format!(
            "{cores} cores of {}; PostgreSQL {}, fsync {}, synchronous_commit {}, full_page_writes {}",
            model.unwrap_or("an unknown model"),
            settings.0,
            settings.1,
            settings.2,
            settings.3
        )
    }

    /// Measures every row in each round; prints the medians.
    async fn table(&self, title: &str, rounds: u64) {
        let rows = rows();
        let mut rates = vec![vec![]; rows.len()];
        for _ in 0..rounds {
            for (row, rates) in rows.iter().zip(&mut rates) {
                rates.push(self.measure(&row.workload).await);
            }
        }
        let seconds = self.time.as_secs();
        println!(
            "| {title}: {rounds} rounds of {seconds} s | per second | spread | against | floor | goal |"
        );
        println!("|---|---|---|---|---|---|");
        let medians: Vec<f64> = rates.iter_mut().map(|rates| median(rates)).collect();
        for (number, row) in rows.iter().enumerate() {
            let spread =
                (rates[number][rates[number].len() - 1] - rates[number][0]) / medians[number];
            let mark = if spread > 0.1 { " (!)" } else { "" };
            let against = row.baseline.map(|other| {
                format!("{:.2}x {}", medians[number] / medians[other], rows[other].name)
            });
            println!(
                "| {} | {:.0} | {:.0} %{mark} | {} | {} | {} |",
                row.name,
                medians[number],
                spread * 100.0,
                against.unwrap_or_default(),
                row.floor,
                row.goal
            );
        }
        println!();
    }

    async fn measure(&self, workload: &Workload) -> f64 {
        match *workload {
            Workload::Pgbench { clients } => pgbench::inserts(&self.url, clients, self.time).await,
            Workload::Cqrs { in_flight } => {
                self.in_flight(in_flight, |bench, n| {
                    let cqrs = Arc::clone(&bench.cqrs);
                    async move {
                        let (name, dob) = demo::person(n);
                        let metadata: HashMap<String, String> =
                            serde_json::from_str(METADATA).unwrap();
                        let command = CustomerCommand::Create(CustomerValues::new(name, dob));
                        let id = format!("{n}");
                        cqrs.execute_with_metadata(&id, command, metadata).await.unwrap();
                    }
                })
                .await
            }
            Workload::Creates { in_flight } => {
                self.in_flight(in_flight, |bench, n| {
                    let bus = bench.bus.clone();
                    async move {
                        let (name, dob) = demo::person(n);
                        bus.create(CustomerValues::new(name, dob), metadata()).await.unwrap();
                    }
                })
                .await
            }
            Workload::Updates { base, cache } => self.updates(base, cache).await,
        }
    }

    /// Runs `in_flight` commands at once for the time of a row; returns the rate per second.
    async fn in_flight<F>(&self, in_flight: usize, command: impl Fn(&Self, u64) -> F) -> f64
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let began = Instant::now();
        let (mut running, mut done) = (tokio::task::JoinSet::new(), 0_u64);
        while began.elapsed() < self.time {
            while running.len() < in_flight {
                running.spawn(command(self, self.next.fetch_add(1, Ordering::Relaxed)));
            }
            running.join_next().await.unwrap().unwrap();
            done += 1;
        }
        let rate = done as f64 / began.elapsed().as_secs_f64();
        while let Some(left) = running.join_next().await {
            left.unwrap();
        }
        rate
    }

    /// Updates the customers from `base` on one after the other; returns the rate per second.
    async fn updates(&self, base: i64, cache: Cache) -> f64 {
        let mut bus = self.bus.clone();
        if matches!(cache, Cache::Warm) {
            self.update_all(&bus, base).await;
        }
        let began = Instant::now();
        for round in 0..UPDATES_OF_EACH {
            match cache {
                Cache::Warm => {}
                // A new bus has an empty cache.
                Cache::Cold => {
                    bus = Bus::new(self.pools.appender.clone(), self.pools.short.clone());
                }
                Cache::Stale if round % 2 == 0 => bus = self.other.clone(),
                Cache::Stale => bus = self.bus.clone(),
            }
            self.update_all(&bus, base).await;
        }
        (UPDATED * UPDATES_OF_EACH) as f64 / began.elapsed().as_secs_f64()
    }

    async fn update_all(&self, bus: &Bus, base: i64) {
        for id in 1..=UPDATED {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            let (name, dob) = demo::person(n);
            let command = CustomerCommand::Update {
                name,
                dob,
                external_id: ExternalIdChange::Keep,
                if_match: IfMatch::Any,
            };
            let id = CustomerId::new(base + id).unwrap();
            bus.change(id, command, metadata()).await.unwrap();
        }
    }
}

fn median(rates: &mut [f64]) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn metadata() -> Metadata {
    serde_json::from_str(METADATA).unwrap()
}
