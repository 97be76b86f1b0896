//! Background tasks that end or panic, and logs that cannot be written: the service goes on.

use std::fs::File;
use std::io::pipe;
use std::net::TcpListener;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use customers::commands::Bus;
use customers::demo;
use customers::events::log::StoredEvent;
use customers::events::log::notify::Subscription;
use customers::events::values::Role;
use customers::pools::Pools;
use customers::postgres::Connection;
use customers::projections::customers::Customers;
use customers::projections::projector::Projector;
use customers::projections::{Checksum, Projection, ProjectionError};
use customers::tasks::{Ended, Supervised, Tasks};
use rustix::process::Signal;
use secrecy::SecretString;
use serde_json::json;

use crate::harness::{
    Answer, PATIENCE, Service, With as _, client, config, database, folder, send, until, variables,
};
use crate::process::{Process, command};

/// A database with the account `editor`.
async fn database_with_editor() -> String {
    let service = Service::with(config().await).await;
    service.add_account("editor", Role::Editor).await;
    let url = service.database_url().to_owned();
    service.stop().await;
    url
}

async fn metrics(process: &Process) -> Answer {
    send(process.request(reqwest::Method::GET, "/metrics")).await
}

/// The sum of the series of a metric.
fn sum(metrics: &Answer, name: &str) -> f64 {
    let of = |line: &str| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap();
    metrics.text.lines().filter(|line| line.starts_with(name)).map(of).sum()
}

/// Writes until lines of the log are lost, and a while longer; each write is shown.
async fn assert_serves_without_its_log(process: Process, what: &str) {
    let login = process.log_in("editor").await;
    let create = async || {
        let body = json!({"name": "Ada", "dob": "1990-12-10"});
        let create = process.request(reqwest::Method::POST, "/customers").login(&login);
        let created = send(create.json(&body)).await;
        let shown = (created.status, created.header("projection-pending"));
        assert_eq!(shown, (201, None), "{what}: {created:?}");
    };
    until("lines are lost", async || {
        // Many for each scrape, which takes longer than a create.
        for _ in 0..10 {
            create().await;
        }
        sum(&metrics(&process).await, "customers_log_lines_lost_total") > 0.0
    })
    .await;
    for _ in 0..20 {
        create().await;
    }
    let ready = send(process.request(reqwest::Method::GET, "/readyz")).await;
    assert_eq!((ready.status, &ready.body["checks"]["tasks"]["down"]), (200, &json!([])), "{what}");
    assert!(sum(&metrics(&process).await, "customers_task_restarts_total") < 1.0, "{what}");
    assert_eq!(process.end(Signal::TERM).await, Some(0), "{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_line_that_cannot_be_written_is_lost_and_nothing_else() {
    let url = database_with_editor().await;
    let (closed, unread) = (pipe().unwrap(), pipe().unwrap());
    drop(closed.0);
    let full = File::options().write(true).open("/dev/full").unwrap();
    // What reads nothing stays open until the end.
    let _reader = unread.0;
    for (what, stderr) in [
        ("closed", Stdio::from(closed.1)),
        ("full", Stdio::from(full)),
        ("never read", Stdio::from(unread.1)),
    ] {
        let mut serve = command(&["serve"], &folder("tasks"));
        serve.envs(variables(&url)).env("CUSTOMERS_LOG", "trace").stderr(stderr);
        assert_serves_without_its_log(Process::start(serve).await, what).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_whose_standard_output_is_closed_or_full_serves() {
    let url = database().await;
    let closed = pipe().unwrap();
    drop(closed.0);
    let full = File::options().write(true).open("/dev/full").unwrap();
    for stdout in [Stdio::from(closed.1), Stdio::from(full)] {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let mut serve = command(&["serve"], &folder("tasks"));
        serve.envs(variables(&url)).env("CUSTOMERS_LISTEN", &address).stdout(stdout);
        let mut child = serve.stderr(Stdio::inherit()).spawn().unwrap();
        until("it is ready", async || {
            assert!(child.try_wait().unwrap().is_none(), "the process has ended");
            let asked = client().get(format!("http://{address}/readyz")).send().await;
            asked.is_ok_and(|answer| answer.status() == 200)
        })
        .await;
        child.kill().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_cannot_print_its_error_still_exits_with_its_code() {
    for (arguments, variable, code) in [
        (&["serve"][..], ("CUSTOMERS_RATE_LIMIT", "many"), 2),
        (&["migrate"][..], ("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none"), 1),
    ] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut process = command(arguments, &folder("tasks"));
        let status = process.env(variable.0, variable.1).stderr(full).status().await.unwrap();
        assert_eq!(status.code(), Some(code), "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_panics_or_ends_is_started_again() {
    let tasks = Tasks::default();
    let starts = Arc::new(AtomicU32::new(0));
    tasks.supervise("fragile", {
        let starts = Arc::clone(&starts);
        move || {
            let start = starts.fetch_add(1, Ordering::Relaxed);
            assert_ne!(start, 0, "panics before it has a future");
            async move {
                match start {
                    1 => panic!("panics while it runs"),
                    2 => {}
                    _ => std::future::pending().await,
                }
            }
        }
    });
    until("it is started for the fourth time", async || starts.load(Ordering::Relaxed) == 4).await;
    // Three failures in a row: it is down until it has run for a while.
    let fragile = || vec!["fragile".to_owned()];
    assert_eq!(tasks.running_and_down(), (vec![], fragile()));
    until("it has come back", async || tasks.running_and_down() == (fragile(), vec![])).await;
    assert!(tasks.shut_down(PATIENCE).await, "shutdown drops it");
    assert_eq!(starts.load(Ordering::Relaxed), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_is_done_is_not_started_again() {
    let (supervised, mut starts) = (Supervised::new("short"), 0);
    supervised
        .run(|| {
            starts += 1;
            async { Ended::Done }
        })
        .await;
    assert_eq!((starts, supervised.is_down()), (1, false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_appends_is_done_when_the_appender_is_gone() {
    let pools = Pools::new(&SecretString::from(database().await)).unwrap();
    let tasks = Tasks::default();
    let _appends = Subscription::start(&pools.appender, pools.notify.clone(), &tasks);
    // As at the end of a command, which drops all that it has in any order.
    drop(pools);
    until("nothing is left to do for them", async || {
        let (running, down) = tasks.running_and_down();
        assert_eq!(down, Vec::<String>::new());
        running == ["notify listen"]
    })
    .await;
    assert!(tasks.shut_down(PATIENCE).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_does_not_come_back_makes_the_process_unready_by_name() {
    let service = Service::start().await;
    assert_eq!(send(service.get("/readyz")).await.status, 200);
    // The task that listens has no connections any more.
    service.pools.notify.close().await;
    until("it is unready", async || send(service.get("/readyz")).await.status == 503).await;
    let told = send(service.get("/readyz")).await;
    assert_eq!(told.body["checks"]["tasks"]["down"], json!(["notify listen"]));
    assert_eq!(told.body["checks"]["postgres"], "ok");
    let metrics = send(service.get("/metrics")).await;
    let restarts = sum(&metrics, r#"customers_task_restarts_total{task="notify listen"}"#);
    assert!(restarts >= 3.0, "{restarts}");
    service.stop().await;
}

/// The projection `customers`, whose code panics twice.
struct Panicking(AtomicU32);

#[async_trait]
impl Projection for Panicking {
    fn name(&self) -> &'static str {
        Customers.name()
    }

    fn version(&self) -> i32 {
        Customers.version()
    }

    fn pace(&self) -> Duration {
        Customers.pace()
    }

    fn table(&self) -> &'static str {
        Customers.table()
    }

    fn key(&self) -> &'static [&'static str] {
        Customers.key()
    }

    async fn apply(
        &self,
        db: &mut Connection,
        page: &[StoredEvent],
    ) -> Result<(), ProjectionError> {
        assert!(self.0.fetch_add(1, Ordering::Relaxed) >= 2, "a bug");
        Customers.apply(db, page).await
    }

    async fn backfill(
        &self,
        db: &mut Connection,
        streams: &[StoredEvent],
    ) -> Result<Checksum, ProjectionError> {
        Customers.backfill(db, streams).await
    }

    async fn checksum(&self, db: &mut Connection) -> Result<Checksum, ProjectionError> {
        Customers.checksum(db).await
    }

    async fn compare(
        &self,
        db: &mut Connection,
        streams: &[StoredEvent],
    ) -> Result<(i64, Option<String>), ProjectionError> {
        Customers.compare(db, streams).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_projector_that_panics_goes_on_where_it_was() {
    static PANICKING: Panicking = Panicking(AtomicU32::new(0));
    let pools = Pools::new(&SecretString::from(database().await)).unwrap();
    let tasks = Tasks::default();
    let appends = Subscription::start(&pools.appender, pools.notify.clone(), &tasks);
    let projector = Projector::start(&PANICKING, pools.projector.clone(), appends, &tasks);
    let bus = Bus::new(pools.appender.clone(), pools.short.clone());
    demo::create(&bus, 3, || ()).await.unwrap();
    assert!(projector.wait_for_position(3, PATIENCE).await, "the projector has not gone on");
    let names: i64 =
        sqlx::query_scalar("select count(*) from customers").fetch_one(&pools.short).await.unwrap();
    assert_eq!((names, PANICKING.0.load(Ordering::Relaxed) >= 3), (3, true));
    assert!(tasks.shut_down(PATIENCE).await);
}
