//! Reads from a real PostgreSQL replica with streaming replication.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use customers::commands::Bus;
use customers::config::Config;
use customers::demo;
use customers::dev::Servers;
use customers::events::values::Role;
use customers::projections::ALL;
use customers::projections::rebuild::rebuild;
use customers::schema;
use futures_util::future::join_all;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::process::Command;

use crate::harness::{
    Login, Service, With as _, config_on, database, folder, postgres_alone, send, until, variables,
};
use crate::lost_connections::server_of;
use crate::process::{Process, command};
use crate::sessions::verdict;

/// The path of a program of PostgreSQL.
pub fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let folders =
        versions.map(|version| version.path().join("bin")).chain(std::env::split_paths(&path));
    folders
        .map(|folder| folder.join(name))
        .find(|path| path.exists())
        .expect("PostgreSQL is installed")
}

async fn start(folder: &Path) -> Servers {
    Servers::start(postgres_alone(folder, [9; 32])).await.unwrap()
}

/// Starts a streaming standby of the server in the folder `of_primary`.
pub async fn standby_of(of_primary: &Path, url: &str, folder: &Path, settings: &str) -> Servers {
    let data = folder.join("postgres");
    let mut copy = Command::new(program("pg_basebackup"));
    copy.arg("--dbname").arg(url).arg("--pgdata").arg(&data);
    copy.args(["--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast"]);
    assert!(copy.status().await.unwrap().success());
    let file = data.join("postgresql.auto.conf");
    let kept = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{kept}\n{settings}\n")).unwrap();
    std::fs::copy(of_primary.join("postgres.password"), folder.join("postgres.password")).unwrap();
    start(folder).await
}

/// A primary, its streaming replica, and a service that uses both.
struct Pair {
    primary: Servers,
    replica: Servers,
    service: Arc<Service>,
    admin: Login,
}

impl Pair {
    async fn start(settings: &str) -> Self {
        Self::with(settings, |_| ()).await
    }

    async fn with(settings: &str, configure: impl Fn(&mut Config)) -> Self {
        let (of_primary, of_replica) = (folder("primary"), folder("replica"));
        let primary = start(&of_primary).await;
        let url = primary.database_url().unwrap().to_owned();
        schema::migrate(&SecretString::from(url.clone()), None).await.unwrap();
        let replica = standby_of(&of_primary, &url, &of_replica, settings).await;
        let mut config = config_on(&url);
        config.read_database_url = Some(SecretString::from(replica.database_url().unwrap()));
        configure(&mut config);
        let service = Service::with(config).await;
        let admin = service.log_in_as(Role::Admin).await;
        Self { primary, replica, service: Arc::new(service), admin }
    }

    /// The result of a query that counts something in one of the servers.
    async fn count(server: &Servers, query: &str) -> i64 {
        let mut connection = PgConnection::connect(server.database_url().unwrap()).await.unwrap();
        sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap()
    }

    /// Waits until the replica has so many customers, and requests read from it.
    async fn until_replica_has(&self, customers: i64) {
        until("the replica has the customers", async || {
            Self::count(&self.replica, "select count(*) from customers").await == customers
        })
        .await;
        until("the replica is used", async || self.reads_from_replica().await).await;
    }

    async fn on_replica(&self, statement: &str) {
        let url = self.replica.database_url().unwrap();
        PgConnection::connect(url).await.unwrap().execute(statement).await.unwrap();
    }

    /// Whether a read runs a statement on the replica, other than those that compare it.
    async fn reads_from_replica(&self) -> bool {
        let url = self.replica.database_url().unwrap();
        let mut replica = PgConnection::connect(url).await.unwrap();
        let now: DateTime<Utc> =
            sqlx::query_scalar("select clock_timestamp()").fetch_one(&mut replica).await.unwrap();
        send(self.service.get("/customers?numbers=1").login(&self.admin)).await;
        sqlx::query_scalar(
            "select exists (select from pg_stat_activity
                            where application_name = 'customers replica' and query_start > $1
                              and query not like '%from events%')",
        )
        .bind(now)
        .fetch_one(&mut replica)
        .await
        .unwrap()
    }

    /// Renames customer 1; returns the position.
    async fn rename(&self, name: &str) -> i64 {
        let body = json!({"name": name, "dob": "1990-12-10"});
        let changed = send(self.service.put("/customers/1").login(&self.admin).json(&body)).await;
        assert_eq!(changed.status, 200, "{changed:?}");
        changed.position()
    }

    /// The name of customer 1 in four reads, with `Min-Event-Position` if there is a position.
    async fn names(&self, position: Option<i64>) -> Vec<String> {
        let mut names = vec![];
        for (path, pointer) in [
            ("/customers/1", "/name"),
            ("/customers?numbers=1", "/customers/0/name"),
            ("/customers", "/customers/0/name"),
            ("/customers?limit=1", "/customers/0/name"),
        ] {
            let mut read = self.service.get(path).login(&self.admin);
            if let Some(position) = position {
                read = read.header("min-event-position", position.to_string());
            }
            let read = send(read).await;
            assert_eq!(read.status, 200, "{path}: {read:?}");
            names.push(read.body.pointer(pointer).unwrap().as_str().unwrap().to_owned());
        }
        names
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_come_from_the_replica_and_never_show_less_than_they_ask_for() {
    let pair = Pair::start("").await;
    let (service, admin) = (&pair.service, &pair.admin);
    let body = json!({"name": "Ada", "dob": "1990-12-10"});
    let created = send(service.post("/customers").login(admin).json(&body)).await;
    assert_eq!(created.status, 201);
    for n in 0..20 {
        let name = format!("Name {n}");
        let position = pair.rename(&name).await;
        assert_eq!(pair.names(Some(position)).await, vec![name; 4]);
    }
    until("the replica is in sync", async || pair.names(None).await == vec!["Name 19"; 4]).await;

    // While the replay is paused, a read without a position is stale, and a read with a position is not.
    pair.on_replica("select pg_wal_replay_pause()").await;
    until("the replay is paused", async || {
        let mut connection =
            PgConnection::connect(pair.replica.database_url().unwrap()).await.unwrap();
        let state: String = sqlx::query_scalar("select pg_get_wal_replay_pause_state()")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        state == "paused"
    })
    .await;
    let position = pair.rename("Later").await;
    assert_eq!(pair.names(None).await, vec!["Name 19"; 4]);
    assert_eq!(pair.names(Some(position)).await, vec!["Later"; 4]);
    let history = service.get("/customers/1/history?limit=1000").login(admin);
    let history = send(history.header("min-event-position", position.to_string())).await;
    assert_eq!(history.body["history"].as_array().unwrap().len(), 22);
    let moment = send(
        service.get("/customers/1").login(admin).header("min-event-position", position.to_string()),
    )
    .await;
    let moment = moment.body["updated_at"].as_str().unwrap().to_owned();
    let then = send(service.get(&format!("/customers?as_of={moment}")).login(admin)).await;
    assert_eq!(then.body["customers"][0]["name"], "Later");
    let beyond = service.get("/customers/1").login(admin).header("min-event-position", "99999");
    assert_eq!(verdict(beyond).await, "400 malformed");
    // A customer that the replica does not have yet is read from the primary, not answered 404.
    let created = send(service.post("/customers").login(admin).json(&body)).await;
    let path = created.header("location").unwrap().to_owned();
    assert_eq!(send(service.get(&path).login(admin)).await.status, 200);
    pair.on_replica("select pg_wal_replay_resume()").await;
    until("the replica has caught up", async || pair.names(None).await == vec!["Later"; 4]).await;

    // Without the primary, reads without a position are answered.
    let Pair { primary, replica, service, admin } = pair;
    primary.stop().await;
    let read = send(service.get("/customers/1").login(&admin)).await;
    assert_eq!((read.status, &read.body["name"]), (200, &json!("Later")));
    assert_eq!(send(service.get("/customers").login(&admin)).await.status, 200);
    replica.stop().await;
    assert_eq!(verdict(service.get("/customers/1").login(&admin)).await, "503 unavailable");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_cancels_stops_or_is_away_costs_no_read() {
    // With this setting the replica at once cancels each query that blocks its replay.
    let pair = Pair::start("max_standby_streaming_delay = 0").await;
    let admin = pair.admin.clone();
    for n in 0..50 {
        let body = json!({"name": format!("Person {n}"), "dob": "1990-12-10"});
        let created = send(pair.service.post("/customers").login(&admin).json(&body)).await;
        assert_eq!(created.status, 201);
    }
    let over = Arc::new(AtomicBool::new(false));
    let readers = (0..4).map(|_| {
        let (service, admin, over) = (Arc::clone(&pair.service), admin.clone(), Arc::clone(&over));
        tokio::spawn(async move {
            let mut reads = 0;
            while !over.load(Ordering::Relaxed) {
                for path in ["/customers", "/customers/1", "/customers/1/history"] {
                    let read = send(service.get(path).login(&admin)).await;
                    assert_eq!(read.status, 200, "{path}: {read:?}");
                    reads += 1;
                }
            }
            reads
        })
    });
    let readers: Vec<_> = readers.collect();
    // Each swap locks the tables on the replica too, which cancels the queries that read them.
    for round in 0..10 {
        rebuild(ALL[round % 2], &pair.service.pools.rebuild).await.unwrap();
    }
    // The replica stops during reads.
    pair.replica.stop().await;
    for n in 1..=20 {
        let body = json!({"name": "Changed", "dob": "1990-12-10"});
        let path = format!("/customers/{n}");
        let changed = send(pair.service.put(&path).login(&admin).json(&body)).await;
        assert_eq!((changed.status, changed.header("projection-pending")), (200, None));
        let read = send(pair.service.get(&path).login(&admin)).await;
        assert_eq!((read.status, &read.body["name"]), (200, &json!("Changed")));
    }
    over.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.await.unwrap() > 0);
    }
    pair.primary.stop().await;
}

/// The names of customer 1 in 20 reads.
async fn reads(service: &Service, admin: &Login) -> Vec<String> {
    let mut names = vec![];
    for _ in 0..20 {
        let read = send(service.get("/customers/1").login(admin)).await;
        assert_eq!(read.status, 200, "{read:?}");
        names.push(read.body["name"].as_str().unwrap().to_owned());
    }
    names.dedup();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_no_replica_of_this_log_is_not_read() {
    let ada = json!({"name": "Ada", "dob": "1990-12-10"});
    let pair = Pair::start("").await;
    let other = json!({"name": "Other", "dob": "1990-12-10"});
    let created = send(pair.service.post("/customers").login(&pair.admin).json(&other)).await;
    assert_eq!(created.status, 201);
    let restored = pair.primary.database_url().unwrap().to_owned();
    let standby = pair.replica.database_url().unwrap().to_owned();
    for (url, is_standby) in [(restored, false), (standby.clone(), true)] {
        let mut config = config_on(&database().await);
        config.read_database_url = Some(SecretString::from(url));
        let service = Service::with(config).await;
        let admin = service.log_in_as(Role::Admin).await;
        assert_eq!(send(service.post("/customers").login(&admin).json(&ada)).await.status, 201);
        assert_eq!(reads(&service, &admin).await, ["Ada"]);
        if is_standby {
            let mut on_standby = PgConnection::connect(&standby).await.unwrap();
            until("the standby was compared", async || {
                let compared = "select count(*) from pg_stat_activity
                    where application_name = 'customers replica watch' and query like '%command_id%'";
                let count: i64 =
                    sqlx::query_scalar(compared).fetch_one(&mut on_standby).await.unwrap();
                count > 0
            })
            .await;
            assert_eq!(reads(&service, &admin).await, ["Ada"]);
        }
        service.stop().await;
    }
    pair.replica.stop().await;
    pair.primary.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_lags_too_far_is_left_and_taken_again() {
    let pair = Pair::with("", |config| config.replica_max_lag = Duration::from_millis(300)).await;
    let ada = json!({"name": "Ada", "dob": "1990-12-10"});
    let created = send(pair.service.post("/customers").login(&pair.admin).json(&ada)).await;
    assert_eq!(created.status, 201);
    let is_used = async || pair.reads_from_replica().await;
    until("the replica is used", is_used).await;
    let mut on_replica = PgConnection::connect(pair.replica.database_url().unwrap()).await.unwrap();
    until("the replica has the customer", async || {
        let count = "select count(*) from customers";
        sqlx::query_scalar::<_, i64>(count).fetch_one(&mut on_replica).await.unwrap() == 1
    })
    .await;
    pair.on_replica("select pg_wal_replay_pause()").await;
    pair.rename("Later").await;
    // Reads without a position, which may show what the replica shows.
    until("the replica is left", async || pair.names(None).await == vec!["Later"; 4]).await;
    pair.on_replica("select pg_wal_replay_resume()").await;
    until("the replica is used again", is_used).await;
    pair.replica.stop().await;
    pair.primary.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_replicas_one_that_answers_is_used() {
    let pair = Pair::with("", |config| {
        let url = config.read_database_url.take().unwrap().expose_secret().to_owned();
        let host = server_of(&url).to_string();
        // Nothing listens at port 1.
        let two = url.replace(&host, &format!("127.0.0.1:1,{host}"));
        config.read_database_url = Some(SecretString::from(two));
    })
    .await;
    until("the replica is used", async || pair.reads_from_replica().await).await;
    pair.replica.stop().await;
    pair.primary.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_read_again_counts_once() {
    let pair = Pair::with("", |config| config.account_limit = 100).await;
    until("the replica is used", async || pair.reads_from_replica().await).await;
    let began = std::time::Instant::now();
    let mut limited = 0;
    for _ in 0..60 {
        // The replica has no such customer, so the primary is asked, too.
        let read = send(pair.service.get("/customers/4711").login(&pair.admin)).await;
        limited += u32::from(read.status == 429);
    }
    // A new second would give new credit, and prove nothing.
    assert!(limited == 0 || began.elapsed().as_secs() > 5, "{limited} of 60 were refused");
    pair.replica.stop().await;
    pair.primary.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_database_has_not_caused_is_not_read_again() {
    // A list that is too large for the memory is refused, because there is no room in the spool.
    let pair = Pair::with("", |config| config.spool_limit = 1).await;
    let pools = &pair.service.pools;
    let bus = Bus::new(pools.appender.clone(), pools.short.clone());
    demo::create(&bus, 4000, || ()).await.unwrap();
    pair.until_replica_has(4000).await;
    let long_list = pair.service.get("/customers").login(&pair.admin);
    assert_eq!(verdict(long_list).await, "503 overloaded");
    // Nor is a request that the client got wrong.
    let malformed = pair.service.get("/customers?as_of=yesterday").login(&pair.admin);
    assert_eq!(verdict(malformed).await, "400 malformed");
    let long_lists =
        "select count(*) from pg_stat_activity where application_name = 'customers bulk'";
    assert_eq!(Pair::count(&pair.primary, long_lists).await, 0, "the primary was read, too");
    pair.replica.stop().await;
    pair.primary.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_promoted_is_left_before_it_lags() {
    let hour = Duration::from_hours(1);
    let pair = Pair::with("", |config| config.replica_max_lag = hour).await;
    let ada = json!({"name": "Ada", "dob": "1990-12-10"});
    let created = send(pair.service.post("/customers").login(&pair.admin).json(&ada)).await;
    assert_eq!(created.status, 201);
    pair.until_replica_has(1).await;
    // So that reads need no new connection, which would be refused.
    until("there are connections enough", async || {
        // Pages, which no two requests share.
        let page = || send(pair.service.get("/customers?limit=1").login(&pair.admin));
        let reads = (0..16).map(|_| page());
        assert!(join_all(reads).await.iter().all(|read| read.status == 200));
        let open = "select count(*) from pg_stat_activity
                    where application_name = 'customers replica'";
        Pair::count(&pair.replica, open).await >= 4
    })
    .await;
    pair.on_replica("select pg_promote()").await;
    pair.rename("Later").await;
    // Reads without a position.
    until("it is left", async || reads(&pair.service, &pair.admin).await == ["Later"]).await;
    pair.replica.stop().await;
    pair.primary.stop().await;
}

/// The values of `customers_replica_up` and `customers_replica_lag_seconds`.
async fn up_and_lag(process: &Process) -> (f64, f64) {
    let metrics = send(process.request(reqwest::Method::GET, "/metrics")).await;
    let value = |name: &str| -> f64 {
        let line = metrics.text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap().parse().unwrap()
    };
    (value("customers_replica_up"), value("customers_replica_lag_seconds"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_away_or_is_none_is_down_and_keeps_its_last_lag() {
    for is_promoted in [true, false] {
        let pair = Pair::start("").await;
        let mut serve = command(&["serve"], &folder("replica"));
        serve.envs(variables(pair.primary.database_url().unwrap()));
        serve.env("DATABASE_READ_URL", pair.replica.database_url().unwrap());
        let process = Process::start(serve).await;
        until("it is up", async || up_and_lag(&process).await.0 > 0.5).await;
        let ready = send(process.request(reqwest::Method::GET, "/readyz")).await;
        let running = ready.body["checks"]["tasks"]["running"].as_array().unwrap();
        assert!(running.contains(&json!("replica watch")), "{running:?}");
        let Pair { primary, replica, .. } = pair;
        let replica = if is_promoted {
            assert_eq!(Pair::count(&replica, "select pg_promote()::int::bigint").await, 1);
            Some(replica)
        } else {
            replica.stop().await;
            None
        };
        until("it is down", async || up_and_lag(&process).await.0 < 0.5).await;
        assert!(up_and_lag(&process).await.1.is_finite());
        process.kill().await;
        if let Some(replica) = replica {
            replica.stop().await;
        }
        primary.stop().await;
    }
}
