//! PgBouncer in front of PostgreSQL. Without the program nothing is tested; `script/bootstrap --all` installs
//! it.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use customers::app::{App, StartError};
use customers::clock::Clock;
use customers::events::values::Role;
use customers::postgres::Server;
use customers::postgres::server::{Demand, PATIENT_LIMIT};
use customers::projections::ALL;
use customers::projections::rebuild::rebuild;
use customers::schema;
use secrecy::SecretString;
use serde_json::json;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, PgConnection, Row as _};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::harness::{
    PATIENCE, Service, With as _, client, config_on, database, empty_database, folder, send, until,
    variables,
};
use crate::nginx::{free_port, program};
use crate::process::command;

/// A running PgBouncer, and the URL of the database behind it.
struct PgBouncer {
    _process: Child,
    url: String,
}

impl PgBouncer {
    /// `None` without the program.
    async fn start(database_url: &str, mode: &str) -> Option<Self> {
        Self::with_size(database_url, mode, 80).await
    }

    /// With at most so many backends.
    async fn with_size(database_url: &str, mode: &str, size: u32) -> Option<Self> {
        Self::on_port(free_port(), database_url, mode, size).await
    }

    async fn on_port(port: u16, database_url: &str, mode: &str, size: u32) -> Option<Self> {
        let pgbouncer = program("pgbouncer")?;
        let options: PgConnectOptions = database_url.parse().unwrap();
        let database = options.get_database().unwrap();
        let password = database_url.split_once("://").unwrap().1.split_once('@').unwrap().0;
        let (user, password) = password.split_once(':').unwrap();
        let folder = folder("pgbouncer");
        let configuration = format!(
            "[databases]\n\
             {database} = host=127.0.0.1 port={} dbname={database} user={user} password={password}\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\n\
             listen_port = {port}\n\
             unix_socket_dir =\n\
             auth_type = any\n\
             pool_mode = {mode}\n\
             default_pool_size = {size}\n\
             max_client_conn = 500\n\
             logfile = \n",
            options.get_port()
        );
        let file = folder.join("pgbouncer.ini");
        std::fs::write(&file, configuration).unwrap();
        let mut command = Command::new(pgbouncer);
        command.arg("-q");
        // It refuses to run as root.
        if rustix::process::geteuid().is_root() {
            command.args(["-u", "nobody"]);
            open_to_all(&folder);
        }
        let process = command.arg(&file).kill_on_drop(true).spawn().unwrap();
        let url = format!("postgres://{user}:{password}@127.0.0.1:{port}/{database}");
        let server = Server::new(&url, Demand::Primary).unwrap();
        let answers = async || server.connect("test", &[], PATIENT_LIMIT).await.is_ok();
        until("PgBouncer answers", answers).await;
        Some(Self { _process: process, url })
    }
}

fn open_to_all(folder: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_pgbouncer_in_session_mode_everything_works_with_its_limits() {
    let direct = database().await;
    let Some(pooler) = PgBouncer::start(&direct, "session").await else {
        eprintln!("pgbouncer: not installed, left out");
        return;
    };
    let service = Service::with(config_on(&pooler.url)).await;
    let limits =
        "select current_setting('statement_timeout') || ' ' || current_setting('lock_timeout')
                      || ' ' || current_setting('idle_in_transaction_session_timeout')";
    for (pool, expected) in [
        (&service.pools.short, "5s 2s 2s"),
        (&service.pools.long, "5min 10s 1min"),
        (&service.pools.import, "15s 10s 1min"),
    ] {
        let shown: String = sqlx::query_scalar(limits).fetch_one(pool).await.unwrap();
        assert_eq!(shown, expected);
    }
    let admin = service.log_in_as(Role::Admin).await;
    let ada = json!({"name": "Ada", "dob": "1990-12-10"});
    assert_eq!(send(service.post("/customers").login(&admin).json(&ada)).await.status, 201);
    let import = service.post("/customers/import").header("content-type", "text/csv");
    let imported = send(import.body("name,dob\nGrace,1985-12-09\n").login(&admin)).await;
    assert_eq!(imported.status, 200, "{imported:?}");
    for path in ["/customers", "/customers/1", "/customers/1/history", "/events", "/readyz"] {
        assert_eq!(send(service.get(path).login(&admin)).await.status, 200, "{path}");
    }
    for projection in ALL {
        rebuild(projection, &service.pools.rebuild).await.unwrap();
    }
    // A create that cannot get its lock ends with its limit, and is not carried out later.
    let mut owner = PgConnection::connect(&direct).await.unwrap();
    owner.execute("begin; lock table locks.append in exclusive mode").await.unwrap();
    let refused = send(service.post("/customers").login(&admin).json(&ada)).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    owner.execute("rollback").await.unwrap();
    let created = send(service.post("/customers").login(&admin).json(&ada)).await;
    assert_eq!((created.status, created.position()), (201, refused_after(&mut owner).await));
    service.stop().await;
}

/// The position of the last event.
async fn refused_after(owner: &mut PgConnection) -> i64 {
    let count: (i64, i64) = sqlx::query_as(
        "select max(position), count(*) filter (where event_type = 'CustomerCreated') from events",
    )
    .fetch_one(owner)
    .await
    .unwrap();
    assert_eq!(count.1, 3, "the refused create was carried out");
    count.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pgbouncer_in_transaction_mode_is_refused_at_start_with_the_cure() {
    let Some(pooler) = PgBouncer::start(&database().await, "transaction").await else {
        eprintln!("pgbouncer: not installed, left out");
        return;
    };
    let started = App::build(config_on(&pooler.url), Clock::system());
    let started = tokio::time::timeout(Duration::from_mins(1), started).await.unwrap();
    let Err(error) = started else { panic!("it started") };
    assert!(matches!(error, StartError::TransactionPooled), "{error:?}");
    assert!(error.to_string().contains("session mode"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_and_log_ins_go_through_a_pooler_in_transaction_mode() {
    let direct = database().await;
    // Four backends for all clients, so that they change hands all the time.
    let Some(pooler) = PgBouncer::with_size(&direct, "transaction", 4).await else {
        eprintln!("pgbouncer: not installed, left out");
        return;
    };
    let mut config = config_on(&direct);
    config.pool_database_url = Some(SecretString::from(pooler.url.clone()));
    let service = Service::with(config).await;
    let admin = service.log_in_as(Role::Admin).await;
    let ada = json!({"name": "Ada", "dob": "1990-12-10"});
    assert_eq!(send(service.post("/customers").login(&admin).json(&ada)).await.status, 201);
    service.caught_up().await;
    let paths = [
        "/customers/1",
        "/customers?numbers=1",
        "/customers",
        "/customers/1/history",
        "/customers/1?version=1",
        "/events",
        "/projections",
        "/readyz",
    ];
    let requests = (0..200).map(|n| {
        let path = paths[n % paths.len()];
        let request = service.get(path).login(&admin);
        async move {
            let answer = send(request).await;
            assert_eq!(answer.status, 200, "{path}: {answer:?}");
        }
    });
    futures_util::future::join_all(requests).await;
    for _ in 0..20 {
        service.log_in("admin").await;
        assert_eq!(send(service.post("/customers").login(&admin).json(&ada)).await.status, 201);
    }
    // Its settings reach each statement, and stay with no backend for the next client.
    let shown =
        "select current_setting('statement_timeout') || ' ' || current_setting('search_path')";
    for _ in 0..8 {
        let shown: String =
            sqlx::query_scalar(shown).fetch_one(&service.pools.short).await.unwrap();
        assert_eq!(shown, "5s public");
    }
    let options: PgConnectOptions = pooler.url.parse().unwrap();
    let mut other = options.extra_float_digits(None).connect().await.unwrap();
    for _ in 0..8 {
        let row = other.fetch_one("select current_setting('statement_timeout')").await.unwrap();
        assert_eq!(row.get::<String, _>(0), "0");
    }
    // It really went there: without the pooler these requests open some 20 connections.
    let ended: i64 = sqlx::query_scalar(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity
         where datname = current_database() and application_name in ('customers read', 'customers accounts')",
    )
    .fetch_one(&service.pools.long)
    .await
    .unwrap();
    assert!((1..=10).contains(&ended), "{ended} backends");
    for path in paths {
        let answer = send(service.get(path).login(&admin)).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_starts_before_its_pooler_waits_for_it_and_names_it() {
    if program("pgbouncer").is_none() {
        eprintln!("pgbouncer: not installed, left out");
        return;
    }
    let (direct, port) = (database().await, free_port());
    let (start, host) = direct.split_once('@').unwrap();
    let url = format!("{start}@127.0.0.1:{port}/{}", host.split_once('/').unwrap().1);
    let mut serve = command(&["serve"], &folder("serve"));
    serve.envs(variables(&direct)).env("DATABASE_POOL_URL", &url);
    let mut serve = serve.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(serve.stderr.take().unwrap()).lines();
    let waiting = async {
        loop {
            let line = told.next_line().await.unwrap().expect("the process has ended");
            if line.contains("start: waiting") {
                return line;
            }
        }
    };
    let line = tokio::time::timeout(PATIENCE, waiting).await.unwrap();
    assert!(line.contains("DATABASE_POOL_URL"), "{line}");
    let _pooler = PgBouncer::on_port(port, &direct, "transaction", 4).await.unwrap();
    let mut printed = BufReader::new(serve.stdout.take().unwrap()).lines();
    let address = tokio::time::timeout(PATIENCE, printed.next_line()).await.unwrap().unwrap();
    let address = address.unwrap().strip_prefix("address ").unwrap().to_owned();
    assert_eq!(send(client().get(format!("{address}/readyz"))).await.status, 200);
    serve.kill().await.unwrap();

    // What no wait can mend stops the start, with the name of the variable.
    let separator = if url.contains('?') { '&' } else { '?' };
    let wrong = format!("{url}{separator}options=-c%20jitt=off");
    let mut serve = command(&["serve"], &folder("serve"));
    serve.envs(variables(&direct)).env("DATABASE_POOL_URL", &wrong);
    let ended = tokio::time::timeout(PATIENCE, serve.output()).await.unwrap().unwrap();
    let told = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{told}");
    let last = told.lines().last().unwrap();
    assert!(last.contains("DATABASE_POOL_URL: ") && last.contains("jitt"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_in_front_of_another_database_is_refused() {
    // Not a copy of the other one, whose log has the same identity.
    let other = empty_database().await;
    schema::migrate(&SecretString::from(other.clone()), None).await.unwrap();
    let Some(pooler) = PgBouncer::start(&other, "transaction").await else {
        eprintln!("pgbouncer: not installed, left out");
        return;
    };
    let own = database().await;
    let Some(own_pooler) = PgBouncer::start(&own, "transaction").await else { return };
    for (pooler, expected) in [
        (&own_pooler, "ok    the pooler leads to this log"),
        (&pooler, "FAIL  the pooler leads to this log: its log is another one"),
    ] {
        let mut doctor = command(&["doctor"], &folder("doctor"));
        doctor.envs(variables(&own)).env("DATABASE_POOL_URL", &pooler.url);
        let told = String::from_utf8(doctor.output().await.unwrap().stdout).unwrap();
        assert!(told.contains(expected), "{told}");
    }
    let mut config = config_on(&own);
    config.pool_database_url = Some(SecretString::from(pooler.url.clone()));
    let Err(error) = App::build(config, Clock::system()).await else { panic!("it started") };
    assert!(matches!(error, StartError::OtherDatabase), "{error:?}");
}
