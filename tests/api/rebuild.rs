//! Rebuilds under load: killed, resumed, swapped in, rolled back.

use std::fmt::{Debug, Write as _};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use customers::clock;
use customers::demo;
use customers::events::values::Role;
use customers::projections::customer_history::CustomerHistory;
use customers::projections::customers::Customers;
use customers::projections::rebuild::{Rebuild, Rebuilt, rebuild, rollback};
use customers::projections::status::{self, State};
use customers::projections::verify::verify;
use customers::projections::{ALL, Projection};
use customers::telemetry;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, PgConnection, Postgres, Transaction};
use tokio::task::JoinHandle;

use crate::harness::{Login, Service, With as _, folder, send, until, variables};
use crate::process::command;
use crate::sessions::verdict;

/// A service with `number` customers, which the read tables show, and an admin.
async fn filled(number: u64) -> (Arc<Service>, Login) {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    let mut file = String::from("name,dob\n");
    for i in 0..number {
        let (name, dob) = demo::person(i);
        writeln!(file, "{name},{dob}").unwrap();
    }
    let import = service.post("/customers/import").header("content-type", "text/csv").body(file);
    let done = send(import.login(&admin)).await;
    assert!(done.text.contains(&format!("\"created\":{number},\"refused\":0")), "{done:?}");
    service.caught_up().await;
    (Arc::new(service), admin)
}

async fn number(service: &Service, question: &str) -> i64 {
    sqlx::query_scalar(question).fetch_one(&service.pools.short).await.unwrap()
}

/// Checks that no state of a rebuild is left; the previous table may exist.
async fn assert_no_rebuild_state(service: &Service) {
    let shadow = "select count(*) from pg_class where relnamespace = 'shadow'::regnamespace";
    let rows = "select (select count(*) from rebuilds) + (select count(*) from rebuild_parts)
                  + (select count(*) from spare_tables where place = 'shadow')
                  + (select count(*) from parked_customers where place = 'shadow')";
    assert_eq!(number(service, shadow).await, 0);
    assert_eq!(number(service, rows).await, 0);
}

async fn assert_verified(service: &Service) {
    service.caught_up().await;
    for projection in ALL {
        let verified = verify(projection, &service.pools.long).await.unwrap();
        assert_eq!((verified.difference, verified.parked), (None, vec![]));
    }
}

/// Reads and writes without a pause until `over`, and checks each response.
async fn read_and_write(
    service: Arc<Service>,
    login: Login,
    over: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
) {
    for n in 0.. {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let id = 1 + u64::from(u16::from_be_bytes(clock::random_bytes())) % 1000;
        let path = format!("/customers/{id}");
        let body = json!({"name": format!("Changed {n}"), "dob": "1990-12-10"});
        let changed = send(service.put(&path).login(&login).json(&body)).await;
        assert_eq!(changed.status, 200, "{changed:?}");
        let read = service.get(&path).login(&login);
        let read = send(read.header("min-event-position", changed.position().to_string())).await;
        assert_eq!(read.status, 200, "{read:?}");
        assert_eq!(read.text, changed.text, "a reader saw an older state");
        let list = send(service.get("/customers?numbers=10").login(&login)).await;
        assert_eq!((list.status, &list.body["number"]), (200, &json!(10)));
        done.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_that_is_killed_at_any_moment_is_taken_up_again_and_nobody_notices() {
    let rounds = if std::env::var_os("CUSTOMERS_TEST_LONG").is_some() { 20 } else { 4 };
    let (service, admin) = filled(21_000).await;
    let (over, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let worker = read_and_write(Arc::clone(&service), admin, Arc::clone(&over), Arc::clone(&done));
    let worker = tokio::spawn(worker);
    let mut killed = 0;
    for round in 0..rounds {
        let projection: &'static dyn Projection = ALL[round % 2];
        let mut process =
            command(&["projection", "rebuild", projection.name()], &folder("rebuild"));
        let mut process =
            process.envs(variables(service.database_url())).stdout(Stdio::null()).spawn().unwrap();
        let part = f64::from(u16::from_be_bytes(clock::random_bytes())) / f64::from(u16::MAX);
        until("the rebuild has come far enough or has ended", async || {
            let at = status::of(projection, &service.pools.short).await.unwrap().rebuild;
            let far = at
                .is_some_and(|at| telemetry::as_f64(at.done) >= part * telemetry::as_f64(at.total));
            far || process.try_wait().unwrap().is_some()
        })
        .await;
        if process.try_wait().unwrap().is_none() {
            kill_process(Pid::from_raw(process.id().unwrap().cast_signed()).unwrap(), Signal::KILL)
                .unwrap();
            process.wait().await.unwrap();
            killed += 1;
        }
    }
    assert!(killed > 0, "no rebuild was killed");
    for projection in ALL {
        // PostgreSQL takes a while to notice that the killed process has ended.
        until("no rebuild is running", async || {
            let status = status::of(projection, &service.pools.short).await.unwrap();
            status.state != State::Rebuilding
        })
        .await;
        let rebuilt = rebuild(projection, &service.pools.rebuild).await.unwrap();
        assert_eq!(rebuilt.changed, 0);
    }
    let before = done.load(Ordering::Relaxed);
    until("reads and writes continue", async || done.load(Ordering::Relaxed) > before).await;
    over.store(true, Ordering::Relaxed);
    worker.await.unwrap();
    assert_no_rebuild_state(&service).await;
    assert_verified(&service).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_says_how_many_rows_it_changed_and_there_is_a_way_back() {
    let (service, admin) = filled(100).await;
    let pool = &service.pools.rebuild;
    let error = rollback(&Customers, pool).await.unwrap_err().to_string();
    assert_eq!(error, "the projection has no previous table");
    let mut owner = PgConnection::connect(service.database_url()).await.unwrap();
    owner.execute("update customers set name = 'Eve' where id = 7").await.unwrap();
    owner.execute("delete from customers where id = 8").await.unwrap();
    let Rebuilt { changed, .. } = rebuild(&Customers, pool).await.unwrap();
    assert_eq!(changed, 2);
    assert_verified(&service).await;
    let body = json!({"name": "Later", "dob": "2020-01-01"});
    let later = send(service.post("/customers").login(&admin).json(&body)).await;
    assert_eq!((later.status, later.header("projection-pending")), (201, None));

    // The rollback serves the table with the mistakes, caught up with the log.
    assert_eq!(rollback(&Customers, pool).await.unwrap(), later.position());
    let youngest = send(service.get("/customers?numbers=1").login(&admin)).await;
    assert_eq!(youngest.body["customers"][0]["name"], "Later");
    let eve = send(service.get("/customers/7").login(&admin)).await;
    assert_eq!(eve.body["name"], "Eve");
    assert_eq!(verdict(service.get("/customers/8").login(&admin)).await, "404 not-found");
    // A second rollback serves the rebuilt table again.
    rollback(&Customers, pool).await.unwrap();
    assert_verified(&service).await;
    assert_no_rebuild_state(&service).await;
}

/// Waits until `expected` connections wait for a lock.
async fn until_waiting(service: &Service, what: &str, expected: i64) {
    let waits = "select count(*) from pg_stat_activity
                 where datname = current_database() and wait_event_type = 'Lock'";
    until(what, async || number(service, waits).await == expected).await;
}

/// Waits until the rebuild has ended, and checks the tables and that no state is left.
async fn until_rebuilt(service: &Service) {
    until("the rebuild has ended", async || {
        let status = status::of(&Customers, &service.pools.short).await.unwrap();
        status.state == State::Following
    })
    .await;
    assert_verified(service).await;
    assert_no_rebuild_state(service).await;
}

async fn stop(running: JoinHandle<impl Debug>) {
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
}

/// Begins a rebuild and drops it; returns a transaction that still holds the rows of the attempt, as after
/// a kill.
async fn interrupted_rebuild(service: &Service) -> Transaction<'static, Postgres> {
    drop(Rebuild::begin(&Customers, &service.pools.rebuild).await.unwrap());
    let mut left = service.pools.long.once().begin().await.unwrap();
    left.execute("select from rebuilds for share").await.unwrap();
    left
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_of_a_rebuild_that_was_stopped_changes_nothing_in_the_next() {
    let (service, admin) = filled(50).await;
    let pool = &service.pools.rebuild;
    // The attempt is stopped when its only partition is about to begin.
    let mut kept = service.pools.long.once().begin().await.unwrap();
    let begun = Rebuild::begin(&Customers, pool).await.unwrap();
    kept.execute("select from rebuilds for update").await.unwrap();
    let running = tokio::spawn(begun.run());
    until_waiting(&service, "the partition is about to begin", 1).await;
    stop(running).await;
    // A later attempt writes a new fencing token.
    kept.execute("update rebuilds set resumed_at = clock_timestamp()").await.unwrap();
    kept.commit().await.unwrap();
    until("the partition has ended", async || {
        let ended = "select count(*) from pg_stat_activity
                     where datname = current_database() and application_name = 'customers rebuild'
                       and state <> 'idle'";
        number(&service, ended).await == 0
    })
    .await;
    let filled = "select count(*) from rebuild_parts where events is not null";
    assert_eq!(number(&service, filled).await, 0);
    assert_eq!(number(&service, "select count(*) from shadow.customers").await, 0);

    let ada = json!({"name": "Ada", "dob": "1990-12-10"});
    assert_eq!(send(service.post("/customers").login(&admin).json(&ada)).await.status, 201);
    service.caught_up().await;
    assert_eq!(rebuild(&Customers, pool).await.unwrap().changed, 0);
    assert_verified(&service).await;
    assert_no_rebuild_state(&service).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_of_a_stopped_rebuild_that_are_at_work_are_waited_for() {
    let (service, _) = filled(50).await;
    let pool = &service.pools.rebuild;
    let begun = Rebuild::begin(&Customers, pool).await.unwrap();
    let mut kept = service.pools.long.once().begin().await.unwrap();
    kept.execute("lock table shadow.customers in share mode").await.unwrap();
    let running = tokio::spawn(begun.run());
    until_waiting(&service, "the partition is running", 1).await;
    stop(running).await;
    let next = rebuild(&Customers, pool);
    let free = async {
        until_waiting(&service, "the next attempt waits", 2).await;
        kept.commit().await.unwrap();
    };
    let (next, ()) = tokio::join!(next, free);
    assert_eq!(next.unwrap().changed, 0);
    assert_verified(&service).await;
    assert_no_rebuild_state(&service).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_of_a_rebuild_and_does_not_end_is_said() {
    let (service, admin) = filled(50).await;
    let left = interrupted_rebuild(&service).await;
    let path = "/projections/customers/rebuild";
    let refused = send(service.post(path).login(&admin)).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{refused:?}");
    assert_eq!(refused.body["type"], "/problems/unavailable");
    let rolled_back = rollback(&Customers, &service.pools.rebuild).await.unwrap_err();
    assert!(rolled_back.to_string().contains("retry later"), "{rolled_back}");
    left.commit().await.unwrap();
    assert_eq!(send(service.post(path).login(&admin)).await.status, 202);
    until_rebuilt(&service).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_that_was_asked_for_goes_on_when_the_client_has_gone() {
    let (service, admin) = filled(50).await;
    let left = interrupted_rebuild(&service).await;
    let request = service.post("/projections/customers/rebuild").login(&admin);
    let asked = tokio::spawn(request.send());
    until_waiting(&service, "the request waits for the earlier attempt", 1).await;
    stop(asked).await;
    left.commit().await.unwrap();
    until_rebuilt(&service).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_reader_delays_the_swap_and_nothing_else() {
    let (service, admin) = filled(200).await;
    let mut reader = PgConnection::connect(service.database_url()).await.unwrap();
    let mut reading = reader.begin().await.unwrap();
    reading.execute("select from customers limit 1").await.unwrap();
    let path = "/projections/customers/rebuild";
    for _ in 0..2 {
        let begun = send(service.post(path).login(&admin)).await;
        assert_eq!(begun.status, 202);
        assert_eq!(begun.body, json!({"name": "customers", "state": "rebuilding"}));
    }
    let told = async || -> Value {
        let told = send(service.get("/projections").login(&admin)).await;
        assert_eq!(told.status, 200);
        told.body["projections"][0].clone()
    };
    until("the tables are filled", async || {
        let told = told().await;
        assert_eq!(told["state"], "rebuilding");
        told["rebuild"]["done"] == told["rebuild"]["total"]
    })
    .await;
    let told_now = told().await;
    assert!(told_now["rebuild"]["per_second"].as_f64().unwrap() > 0.0, "{told_now}");
    assert!(told_now["rebuild"]["seconds_left"].is_number(), "{told_now}");
    for n in 0..20 {
        let body = json!({"name": format!("Person {n}"), "dob": "2020-01-01"});
        let changed = send(service.put("/customers/5").login(&admin).json(&body)).await;
        assert_eq!((changed.status, changed.header("projection-pending")), (200, None));
        let read = send(service.get("/customers/5").login(&admin)).await;
        assert_eq!(read.text, changed.text);
    }
    assert_eq!(told().await["state"], "rebuilding");
    reading.commit().await.unwrap();
    until("the rebuild has ended", async || told().await["state"] == "following").await;
    assert_eq!(told().await["rebuild"], Value::Null);
    let body = json!({"name": "After", "dob": "2020-01-01"});
    let changed = send(service.put("/customers/5").login(&admin).json(&body)).await;
    assert_eq!((changed.status, changed.header("projection-pending")), (200, None));
    let list = send(service.get("/customers?numbers=1").login(&admin)).await;
    assert_eq!(list.body["customers"][0]["name"], "After");
    assert_no_rebuild_state(&service).await;
    assert_verified(&service).await;
    for name in ["nothing", "Customers", "%ff", "customers%00"] {
        let unknown = service.post(&format!("/projections/{name}/rebuild")).login(&admin);
        assert_eq!(verdict(unknown).await, "404 not-found", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_is_rebuilt_with_all_of_its_indexes() {
    let (service, _) = filled(50).await;
    let indexes =
        "select string_agg(replace(indexdef, 'previous.', 'served.'), ';' order by indexdef)
                   from pg_indexes where tablename = 'customer_history' and schemaname = ";
    let of = async |schema: &str| -> String {
        let question = format!("{indexes}'{schema}'");
        sqlx::query_scalar(&question).fetch_one(&service.pools.short).await.unwrap()
    };
    let (table, before) = (of("public").await, of("served").await);
    assert!(before.contains("customer_history_youngest"), "{before}");
    rebuild(&CustomerHistory, &service.pools.rebuild).await.unwrap();
    assert_eq!(of("public").await, table);
    assert_eq!(of("served").await, before);
    assert_eq!(of("previous").await, before);
    let same: bool = sqlx::query_scalar(
        "select bool_and(coalesce(a.relacl, acldefault('r', a.relowner))
                         = coalesce(b.relacl, acldefault('r', b.relowner)))
         from pg_class a, pg_class b
         where a.oid = 'served.customer_history'::regclass
           and b.oid = 'previous.customer_history'::regclass",
    )
    .fetch_one(&service.pools.short)
    .await
    .unwrap();
    assert!(same, "the privileges have changed");
    assert_verified(&service).await;
}

#[tokio::test]
async fn the_checksum_sees_two_names_of_one_length_that_were_swapped() {
    let service = Service::start().await;
    let bus =
        customers::commands::Bus::new(service.pools.appender.clone(), service.pools.short.clone());
    demo::create(&bus, 20, || ()).await.unwrap();
    service.caught_up().await;
    let mut db = service.pools.short.acquire().await.unwrap();
    for projection in ALL {
        let before = projection.checksum(&mut db).await.unwrap();
        // A row for each word of a name: all these have two.
        let is_search = projection.name() == "customer_search";
        assert_eq!(before.rows, if is_search { 40 } else { 20 });
        let (table, key) = (projection.table(), projection.key()[0]);
        let swap = format!(
            "with two as (
                 select min(a.{key}) as one, max(b.{key}) as other
                 from {table} a join {table} b on a.{key} < b.{key} and a.name <> b.name
                      and length(a.name) = length(b.name)
                 group by a.{key}, b.{key} limit 1
             )
             update {table} t set name = s.name from {table} s, two
             where (t.{key}, s.{key}) in ((one, other), (other, one))
               and t.name is not null and s.name is not null"
        );
        assert_eq!(sqlx::query(&swap).execute(&mut db).await.unwrap().rows_affected(), 2);
        let swapped = projection.checksum(&mut db).await.unwrap();
        assert_eq!(swapped.rows, before.rows);
        assert_ne!(swapped.sum, before.sum, "{table}");
    }
}
