//! An acknowledged command is in the log exactly once, even if a connection to PostgreSQL is lost or
//! PostgreSQL is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use customers::commands::{Bus, CustomerCommand, ExternalIdChange, IfMatch, Origin};
use customers::demo;
use customers::dev::{Servers, StartError};
use customers::events::customer::CustomerValues;
use customers::events::log::{AppendError, Appender, read};
use customers::events::metadata::Metadata;
use customers::events::values::Role;
use customers::postgres::copy::{CopyEncoder, copy_in, copy_out};
use customers::postgres::server::Demand;
use customers::postgres::transaction::begin;
use customers::postgres::{Pool, Server};
use customers::schema;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use rustix::process::{Pid, Signal, kill_process};
use secrecy::SecretString;
use serde_json::json;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::harness::{
    PATIENCE, Service, With as _, config_on, database, folder, postgres_alone, send, until,
};
use crate::proxy::{Cut, Proxy};

/// The address of the server of a database URL.
pub fn server_of(url: &str) -> SocketAddr {
    let options: PgConnectOptions = url.parse().unwrap();
    let ip = if options.get_host() == "localhost" { "127.0.0.1" } else { options.get_host() };
    format!("{ip}:{}", options.get_port()).parse().unwrap()
}

/// A bus whose appender connects to PostgreSQL through a proxy.
async fn bus_through_proxy(service: &Service) -> (Bus, Appender, Proxy) {
    let url = service.database_url();
    let proxy = Proxy::start(server_of(url)).await;
    let through = url.replace(&server_of(url).to_string(), &proxy.address.to_string());
    let server = Server::new(&through, Demand::Primary).unwrap();
    let appender = Appender::start(server, &[("statement_timeout", "5s")]);
    (Bus::new(appender.clone(), service.pools.short.clone()), appender, proxy)
}

fn origin(key: Option<String>) -> Origin {
    Origin { metadata: Metadata::of_program("test"), key }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_cut_between_commit_and_answer_changes_no_answer() {
    let service = Service::start().await;
    let (bus, _, proxy) = bus_through_proxy(&service).await;
    let (name, dob) = demo::person(1);
    let mut created = bus.create(CustomerValues::new(name, dob), origin(None)).await.unwrap();
    for round in 0..40_u64 {
        let cut = if round % 2 == 0 { Cut::NextAnswer } else { Cut::NextRequest };
        let key = (round % 4 < 2).then(|| format!("k{round}"));
        let before = read::head(&service.pools.short).await.unwrap();
        proxy.arm(cut);
        let (name, dob) = demo::person(round);
        let written = if round % 3 == 0 {
            let if_match = IfMatch::OneOf(vec![created.version()]);
            let command = CustomerCommand::Update {
                name,
                dob,
                external_id: ExternalIdChange::Keep,
                if_match,
            };
            bus.change(created.id, command, origin(key)).await.unwrap()
        } else {
            bus.create(CustomerValues::new(name, dob), origin(key)).await.unwrap()
        };
        assert!(!proxy.is_armed(), "{round}: no connection was cut");
        let expected = if round % 3 == 0 { created.version() + 1 } else { 1 };
        assert_eq!((written.position, written.version()), (before + 1, expected), "{round}");
        assert_eq!(read::head(&service.pools.short).await.unwrap(), before + 1, "{round}");
        if round % 3 == 0 {
            created = written;
        }
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_when_the_process_stops_still_comes_into_the_log() {
    let service = Service::start().await;
    let (bus, appender, _) = bus_through_proxy(&service).await;
    let creates: Vec<_> = (0..1000)
        .map(|i| {
            let bus = bus.clone();
            let (name, dob) = demo::person(i);
            tokio::spawn(
                async move { bus.create(CustomerValues::new(name, dob), origin(None)).await },
            )
        })
        .collect();
    let pool = service.pools.short.clone();
    until("some are in the log", async || read::head(&pool).await.unwrap() > 0).await;
    appender.stop().await;
    let head = read::head(&service.pools.short).await.unwrap();
    let mut written = 0;
    for create in creates {
        match create.await.unwrap() {
            Ok(_) => written += 1,
            Err(customers::commands::BusError::Append(AppendError::Stopped)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(head, written, "the log and the acknowledged commands differ");
    service.stop().await;
}

/// The process id of the server, from its `postmaster.pid`.
fn postmaster(folder: &Path) -> Pid {
    fn find(folder: &Path) -> Option<std::path::PathBuf> {
        std::fs::read_dir(folder).ok()?.flatten().find_map(|entry| {
            let path = entry.path();
            if path.ends_with("postmaster.pid") { Some(path) } else { find(&path) }
        })
    }
    let text = std::fs::read_to_string(find(folder).unwrap()).unwrap();
    Pid::from_raw(text.lines().next().unwrap().parse().unwrap()).unwrap()
}

/// Starts PostgreSQL on this data folder, once the watchdog of a killed server has released it.
async fn start(folder: &Path, secret: [u8; 32]) -> Servers {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match Servers::start(postgres_alone(folder, secret)).await {
            Err(StartError::InUse { .. }) if tokio::time::Instant::now() < deadline => {
                tokio::task::yield_now().await;
            }
            started => return started.unwrap(),
        }
    }
}

/// Concurrent writers that create customers until they are stopped. Each returns the acknowledged names.
struct Writers {
    tasks: Vec<tokio::task::JoinHandle<BTreeSet<String>>>,
    done: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Writers {
    fn start(bus: &Bus) -> Self {
        let (done, stop, next) = (Arc::default(), Arc::default(), Arc::new(AtomicUsize::new(0)));
        let tasks = (0..16).map(|_| {
            let (bus, next) = (bus.clone(), Arc::clone(&next));
            let (done, stop): (Arc<AtomicUsize>, Arc<AtomicBool>) =
                (Arc::clone(&done), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut acknowledged = BTreeSet::new();
                while !stop.load(Ordering::Relaxed) {
                    let (_, dob) = demo::person(1);
                    let name = format!("Person {}", next.fetch_add(1, Ordering::Relaxed));
                    let parsed = customers::events::values::Name::parse(&name).unwrap();
                    if bus.create(CustomerValues::new(parsed, dob), origin(None)).await.is_ok() {
                        acknowledged.insert(name);
                        done.fetch_add(1, Ordering::Relaxed);
                    } else {
                        tokio::task::yield_now().await;
                    }
                }
                acknowledged
            })
        });
        Self { tasks: tasks.collect(), done, stop }
    }

    async fn progress(&self, what: &str) {
        let before = self.done.load(Ordering::Relaxed);
        until(what, async || self.done.load(Ordering::Relaxed) > before + 100).await;
    }

    async fn end(self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = BTreeSet::new();
        for task in self.tasks {
            all.extend(task.await.unwrap());
        }
        all
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_when_postgresql_is_killed_under_load() {
    let rounds = if std::env::var_os("CUSTOMERS_TEST_LONG").is_some() { 10 } else { 2 };
    let folder = folder("killed");
    let start = || start(&folder, [7; 32]);
    let mut servers = start().await;
    let url = servers.database_url().unwrap().to_owned();
    schema::migrate(&SecretString::from(url.clone()), None).await.unwrap();
    // A restarted PostgreSQL has a new port; the proxy keeps the address that the service uses.
    let proxy = Proxy::start(server_of(&url)).await;
    let proxied = url.replace(&server_of(&url).to_string(), &proxy.address.to_string());
    assert_ne!(proxied, url);
    let pools = customers::pools::Pools::new(&SecretString::from(proxied)).unwrap();
    let writers = Writers::start(&Bus::new(pools.appender.clone(), pools.short.clone()));
    for _ in 0..rounds {
        writers.progress("the load runs").await;
        kill_process(postmaster(&folder), Signal::KILL).unwrap();
        drop(servers);
        servers = start().await;
        proxy.move_to(server_of(servers.database_url().unwrap()));
    }
    writers.progress("the load runs again").await;
    let acknowledged = writers.end().await;

    let stored: Vec<(String, i64)> =
        sqlx::query_as("select payload ->> 'name', count(*) from events group by 1")
            .fetch_all(&pools.short)
            .await
            .unwrap();
    let stored: BTreeMap<String, i64> = stored.into_iter().collect();
    let lost: Vec<_> = acknowledged.iter().filter(|name| !stored.contains_key(*name)).collect();
    assert_eq!(lost, Vec::<&String>::new());
    let doubled: Vec<_> = stored.iter().filter(|(_, count)| **count != 1).collect();
    assert_eq!(doubled, Vec::<(&String, &i64)>::new());
    let gaps: i64 = sqlx::query_scalar("select max(position) - count(*) from events")
        .fetch_one(&pools.short)
        .await
        .unwrap();
    assert_eq!(gaps, 0);
    servers.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_never_shows_less_than_it_asks_for_after_postgresql_crashed_behind_a_write() {
    let rounds = if std::env::var_os("CUSTOMERS_TEST_LONG").is_some() { 10 } else { 3 };
    let folder = folder("crashed");
    let start = || start(&folder, [8; 32]);
    let mut servers = start().await;
    let url = servers.database_url().unwrap().to_owned();
    schema::migrate(&SecretString::from(url.clone()), None).await.unwrap();
    let proxy = Proxy::start(server_of(&url)).await;
    let proxied = url.replace(&server_of(&url).to_string(), &proxy.address.to_string());
    let service = Service::with(config_on(&proxied)).await;
    let admin = service.log_in_as(Role::Admin).await;
    let ada = json!({"name": "Ada", "dob": "1990-12-10"});
    assert_eq!(send(service.post("/customers").login(&admin).json(&ada)).await.status, 201);
    let mut lagging = 0;
    for round in 0..rounds {
        let body = json!({"name": format!("Round {round}"), "dob": "1990-12-10"});
        let mut written = None;
        until("PostgreSQL accepts a write", async || {
            let answer = send(service.put("/customers/1").login(&admin).json(&body)).await;
            let done = answer.status == 200;
            written = done.then_some(answer);
            done
        })
        .await;
        let written = written.unwrap();
        kill_process(postmaster(&folder), Signal::KILL).unwrap();
        drop(servers);
        servers = start().await;
        let direct = servers.database_url().unwrap().to_owned();
        // The checkpoint that this process reports must not exceed the one in the database.
        let mut connection = PgConnection::connect(&direct).await.unwrap();
        let reported = service.projector.checkpoint().max(service.history.checkpoint());
        let stored: i64 = sqlx::query_scalar("select min(checkpoint) from projections")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        lagging += u32::from(stored < written.position());
        assert!(reported <= stored, "the process reports {reported}, the database has {stored}");
        proxy.move_to(server_of(&direct));
        for path in ["/customers/1", "/customers?numbers=1", "/customers/1/history"] {
            until("the read is answered", async || {
                let read = service.get(path).login(&admin);
                let position = written.position().to_string();
                let read = send(read.header("min-event-position", position)).await;
                if read.status == 200 {
                    assert!(read.text.contains(&format!("Round {round}")), "{path}: {read:?}");
                }
                read.status == 200
            })
            .await;
        }
    }
    println!("{lagging} of {rounds} crashes lost a page of a projection");
    service.stop().await;
    servers.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_was_idle_for_too_long_costs_no_other_connection() {
    let url = database().await;
    let server = Server::new(&url, Demand::Primary).unwrap();
    let limits = &[("idle_in_transaction_session_timeout", "100ms")];
    let pool = Pool::new(&server, "idle", 2, PATIENCE, limits);
    let before = tokio::time::Instant::now();
    let mut idle = begin(&pool).await.unwrap();
    let mut watching = PgConnection::connect(&url).await.unwrap();
    until("its backend has ended", async || {
        let idle = "select count(*) from pg_stat_activity where application_name = 'idle'";
        sqlx::query_scalar::<_, i64>(idle).fetch_one(&mut watching).await.unwrap() == 0
    })
    .await;
    let error = idle.execute("select 1").await.unwrap_err();
    assert!(server.report(&error), "{error:?}");
    assert!(server.is_valid_since(before), "all connections are discarded after {error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_dropped_half_way_leaves_no_connection_in_its_middle() {
    let url = database().await;
    let server = Server::new(&url, Demand::Primary).unwrap();
    let pool = Pool::new(&server, "copies", 1, PATIENCE, &[]);
    let mut owner = PgConnection::connect(&url).await.unwrap();
    owner.execute("create table copied (id bigint)").await.unwrap();
    for polls in 1..40 {
        let mut transaction = begin(&pool).await.unwrap();
        let mut rows = CopyEncoder::default();
        for id in 0..2_000_i64 {
            rows.row(1);
            rows.field(id).unwrap();
        }
        let into = "copy copied from stdin (format binary)";
        let out = "copy (select n from generate_series(1, 20000) n) to stdout (format binary)";
        let mut copy: BoxFuture<'_, _> = if polls % 2 == 0 {
            copy_in(&mut transaction, into, rows).boxed()
        } else {
            copy_out(&mut transaction, out, |_| {}).boxed()
        };
        for _ in 0..polls {
            if futures_util::poll!(&mut copy).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(copy);
        drop(transaction);
        let mut next = begin(&pool).await.unwrap_or_else(|error| panic!("{polls} polls: {error}"));
        let answer: i64 =
            sqlx::query_scalar("select 41::bigint + 1").fetch_one(&mut *next).await.unwrap();
        assert_eq!(answer, 42, "{polls} polls");
        next.commit().await.unwrap();
    }
    let copied: i64 =
        sqlx::query_scalar("select count(*) from copied").fetch_one(&mut owner).await.unwrap();
    assert_eq!(copied, 0, "what was dropped is rolled back");
}
