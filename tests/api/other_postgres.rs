//! PostgreSQL as others run it: connections that die, servers that change, settings of roles and databases.

use std::time::Duration;

use customers::app::App;
use customers::clock::Clock;
use customers::dev::Servers;
use customers::events::values::Role;
use customers::schema::{self, Migrated, guards};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use secrecy::SecretString;
use serde_json::json;
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio_util::sync::CancellationToken;

use crate::guards::role;
use crate::harness::{
    PASSWORD, Service, With as _, client, config_on, database, empty_database, folder,
    postgres_alone, send, unique_name, until,
};
use crate::lost_connections::server_of;
use crate::proxy::Proxy;
use crate::replica::standby_of;

/// Ends every connection of the service.
async fn end_connections(admin: &mut PgConnection) -> i64 {
    sqlx::query_scalar(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity
         where datname = current_database() and application_name like 'customers%'",
    )
    .fetch_one(admin)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_of_any_route_fails_for_a_connection_that_died() {
    let service = Service::start().await;
    let mut admin = service.log_in_as(Role::Admin).await;
    let mut owner = PgConnection::connect(service.database_url()).await.unwrap();
    let ada = json!({"name": "Ada", "dob": "1990-12-10"});
    assert_eq!(send(service.post("/customers").login(&admin).json(&ada)).await.status, 201);
    service.caught_up().await;
    let moment = "2099-01-01T00:00:00Z";
    assert_eq!(
        send(service.get(&format!("/customers?as_of={moment}")).login(&admin)).await.status,
        400
    );
    let now = send(service.get("/customers/1").login(&admin)).await.body["updated_at"].clone();
    let now = now.as_str().unwrap();
    let mut ended = 0;
    // End all connections before each request.
    for round in 0..3 {
        for path in [
            "/customers",
            "/customers?numbers=1",
            "/customers?limit=1",
            &format!("/customers?as_of={now}"),
            "/customers/1",
            "/customers/1?version=1",
            "/customers/1/history",
            "/events",
            "/projections",
            "/sessions",
            "/readyz",
        ] {
            let read = send(service.get(path).login(&admin)).await;
            assert_eq!(read.status, 200, "{round} {path}: {read:?}");
            ended += end_connections(&mut owner).await;
        }
        let log_in = json!({"username": "admin", "password": PASSWORD});
        let line = "name,dob\nGrace,1985-12-09\n";
        let writes = [
            (service.post("/customers").json(&ada), 201),
            (
                service
                    .put("/customers/1")
                    .json(&json!({"name": format!("Ada {round}"), "dob": "1990-12-10"})),
                200,
            ),
            (service.post("/customers/import").header("content-type", "text/csv").body(line), 200),
            (service.post("/login").json(&log_in), 200),
            (service.post("/password").json(&json!({"old": PASSWORD, "new": PASSWORD})), 200),
            (service.post("/projections/customers/rebuild"), 202),
            (service.request(Method::DELETE, "/sessions"), 200),
        ];
        for (request, status) in writes {
            let request = request.login(&admin);
            let path = request.try_clone().unwrap().build().unwrap().url().path().to_owned();
            let written = send(request).await;
            assert_eq!(written.status, status, "{round} {path}: {written:?}");
            ended += end_connections(&mut owner).await;
        }
        admin = service.log_in("admin").await;
    }
    assert!(ended > 100, "only {ended} connections were ended");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_of_postgresql_the_first_request_of_each_route_is_answered() {
    let folder = folder("restarted");
    let servers = Servers::start(postgres_alone(&folder, [3; 32])).await.unwrap();
    let url = servers.database_url().unwrap().to_owned();
    schema::migrate(&SecretString::from(url.clone()), None).await.unwrap();
    let proxy = Proxy::start(server_of(&url)).await;
    let service = Service::with(config_on(&proxy.url(&url))).await;
    let admin = service.log_in_as(Role::Admin).await;
    let ada = json!({"name": "Ada", "dob": "1990-12-10"});
    assert_eq!(send(service.post("/customers").login(&admin).json(&ada)).await.status, 201);
    let paths = [
        "/customers/1",
        "/customers",
        "/readyz",
        "/events",
        "/projections",
        "/customers/1/history",
    ];
    for path in paths {
        assert_eq!(send(service.get(path).login(&admin)).await.status, 200);
    }
    servers.stop().await;
    let servers = Servers::start(postgres_alone(&folder, [3; 32])).await.unwrap();
    proxy.move_to(server_of(servers.database_url().unwrap()));
    for path in paths {
        let read = send(service.get(path).login(&admin)).await;
        assert_eq!(read.status, 200, "{path}: {read:?}");
    }
    service.stop().await;
    servers.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_starts_before_postgresql_waits_for_it_and_says_so() {
    let folder = folder("late");
    let servers = Servers::start(postgres_alone(&folder, [4; 32])).await.unwrap();
    let url = servers.database_url().unwrap().to_owned();
    schema::migrate(&SecretString::from(url.clone()), None).await.unwrap();
    servers.stop().await;
    let proxy = Proxy::start(server_of(&url)).await;
    let mut config = config_on(&proxy.url(&url));
    // The address must be known before the service has started.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    config.listen = free.local_addr().unwrap();
    drop(free);
    let address = config.listen;
    let starting = tokio::spawn(App::build(config, Clock::system()));
    let get = |path: &str| client().get(format!("http://{address}{path}"));
    until("it listens", async || get("/livez").send().await.is_ok()).await;
    assert_eq!(send(get("/livez")).await.status, 200);
    let unready = send(get("/readyz")).await;
    assert_eq!((unready.status, &unready.body["checks"]["postgres"]), (503, &json!("unavailable")));
    let refused = send(get("/customers")).await;
    assert_eq!((refused.status, &refused.body["type"]), (503, &json!("/problems/unavailable")));
    let servers = Servers::start(postgres_alone(&folder, [4; 32])).await.unwrap();
    proxy.move_to(server_of(servers.database_url().unwrap()));
    let app = starting.await.unwrap().unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(app.run(stop.clone(), Duration::from_secs(5)));
    assert_eq!(send(get("/readyz")).await.status, 200);
    stop.cancel();
    running.await.unwrap();
    servers.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_address_leads_to_another_primary_the_service_follows_it() {
    let (of_old, of_new) = (folder("old"), folder("new"));
    let old = Servers::start(postgres_alone(&of_old, [9; 32])).await.unwrap();
    let url = old.database_url().unwrap().to_owned();
    schema::migrate(&SecretString::from(url.clone()), None).await.unwrap();
    let new = standby_of(&of_old, &url, &of_new, "").await;
    let proxy = Proxy::start(server_of(&url)).await;
    let service = Service::with(config_on(&proxy.url(&url))).await;
    let admin = service.log_in_as(Role::Admin).await;
    let create = async || {
        let ada = json!({"name": "Ada", "dob": "1990-12-10"});
        send(service.post("/customers").login(&admin).json(&ada)).await.status
    };
    assert_eq!(create().await, 201);
    // The standby has it all, takes over, and the old primary stays up, read-only.
    let mut on_old = PgConnection::connect(&url).await.unwrap();
    let mut on_new = PgConnection::connect(new.database_url().unwrap()).await.unwrap();
    until("the standby has the log", async || {
        let head = "select coalesce(max(position), 0) from events";
        let heads: (i64, i64) = (
            sqlx::query_scalar(head).fetch_one(&mut on_old).await.unwrap(),
            sqlx::query_scalar(head).fetch_one(&mut on_new).await.unwrap(),
        );
        heads.0 == heads.1
    })
    .await;
    on_new.execute("select pg_promote()").await.unwrap();
    on_old.execute("alter system set default_transaction_read_only = on").await.unwrap();
    on_old.execute("select pg_reload_conf()").await.unwrap();
    proxy.move_to(server_of(new.database_url().unwrap()));
    let began = std::time::Instant::now();
    // The old one may take a write before its backends have read the setting.
    until("a write is accepted by the new primary", async || {
        let count = "select count(*) from events where event_type = 'CustomerCreated'";
        let created = create().await == 201;
        let count: i64 = sqlx::query_scalar(count).fetch_one(&mut on_new).await.unwrap();
        created && count == 2
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    service.stop().await;
    new.stop().await;
    old.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_hosts_the_one_that_accepts_writes_is_used() {
    let (of_first, of_second) = (folder("first"), folder("second"));
    let first = Servers::start(postgres_alone(&of_first, [9; 32])).await.unwrap();
    let url = first.database_url().unwrap().to_owned();
    schema::migrate(&SecretString::from(url.clone()), None).await.unwrap();
    let second = standby_of(&of_first, &url, &of_second, "").await;
    let host = |url: &str| server_of(url).to_string();
    // The standby comes first.
    let both = format!("{},{}", host(second.database_url().unwrap()), host(&url));
    let both = url.replace(&host(&url), &both) + "?target_session_attrs=read-write";
    let service = Service::with(config_on(&both)).await;
    let admin = service.log_in_as(Role::Admin).await;
    let create = async || {
        let ada = json!({"name": "Ada", "dob": "1990-12-10"});
        send(service.post("/customers").login(&admin).json(&ada)).await.status
    };
    assert_eq!(create().await, 201);
    let mut on_second = PgConnection::connect(second.database_url().unwrap()).await.unwrap();
    until("the standby has the customer", async || {
        sqlx::query_scalar::<_, i64>("select count(*) from customers")
            .fetch_one(&mut on_second)
            .await
            .unwrap()
            == 1
    })
    .await;
    first.stop().await;
    on_second.execute("select pg_promote()").await.unwrap();
    until("a write is accepted", async || create().await == 201).await;
    assert_eq!(send(service.get("/customers/1").login(&admin)).await.status, 200);
    service.stop().await;
    second.stop().await;
}

/// Settings of roles and databases out there.
const SETTINGS: [(&str, &str); 17] = [
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_deferrable", "on"),
    ("search_path", "\"$user\", pg_temp"),
    ("statement_timeout", "'200ms'"),
    ("lock_timeout", "'1ms'"),
    ("idle_session_timeout", "'300ms'"),
    ("idle_in_transaction_session_timeout", "'100ms'"),
    ("datestyle", "'German, DMY'"),
    ("timezone", "'Asia/Kathmandu'"),
    ("intervalstyle", "sql_standard"),
    ("standard_conforming_strings", "off"),
    ("bytea_output", "escape"),
    ("quote_all_identifiers", "on"),
    ("extra_float_digits", "-15"),
    ("array_nulls", "off"),
    ("row_security", "off"),
    ("client_min_messages", "debug1"),
];

/// A role that owns a new database, with foreign settings, and a schema of its own name.
async fn foreign_owner() -> (String, String) {
    let url = empty_database().await;
    let (name, of_role) = role(&url).await;
    let mut admin = PgConnection::connect(&url).await.unwrap();
    let database = url.rsplit_once('/').unwrap().1.split('?').next().unwrap().to_owned();
    for statement in [
        format!("alter database {database} owner to {name}"),
        format!("alter schema public owner to {name}"),
        format!("create schema {name} authorization {name}"),
    ] {
        admin.execute(statement.as_str()).await.unwrap();
    }
    for (setting, value) in SETTINGS {
        admin.execute(format!("alter role {name} set {setting} = {value}").as_str()).await.unwrap();
    }
    (name, of_role)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_of_role_and_database_change_nothing() {
    let (name, url) = foreign_owner().await;
    schema::migrate(&SecretString::from(url.clone()), None).await.unwrap();
    let service = Service::with(config_on(&url)).await;
    let elsewhere: i64 =
        sqlx::query_scalar("select count(*) from pg_class where relnamespace = $1::regnamespace")
            .bind(&name)
            .fetch_one(&service.pools.short)
            .await
            .unwrap();
    assert_eq!(elsewhere, 0, "tables stand in the schema of the role");
    let admin = service.log_in_as(Role::Admin).await;
    let creates = (0..64).map(|n| {
        let body = json!({"name": format!("Person {n}"), "dob": "1990-12-10"});
        send(service.post("/customers").login(&admin).json(&body))
    });
    for created in futures_util::future::join_all(creates).await {
        assert_eq!(created.status, 201, "{created:?}");
    }
    for path in ["/customers", "/customers?numbers=3", "/customers/1/history", "/events", "/readyz"]
    {
        let read = send(service.get(path).login(&admin)).await;
        assert_eq!(read.status, 200, "{path}: {read:?}");
    }
    for projection in customers::projections::ALL {
        customers::projections::rebuild::rebuild(projection, &service.pools.rebuild).await.unwrap();
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_of_the_url_reach_every_connection_or_are_refused_by_name() {
    let url = database().await;
    let with = |options: &str| {
        let options = utf8_percent_encode(options, NON_ALPHANUMERIC);
        format!("{url}{}options={options}", if url.contains('?') { '&' } else { '?' })
    };
    let own =
        with("-c app.tenant=5 --app.owner-name=a-b --timezone=Etc/GMT-3 -c search_path=pg_temp");
    let service = Service::with(config_on(&own)).await;
    for pool in [&service.pools.short, &service.pools.projector, &service.pools.import] {
        let shown: String = sqlx::query_scalar(
            "select concat_ws(' ', current_setting('app.tenant'), current_setting('app.owner_name'),
                              current_setting('timezone'), current_setting('search_path'))",
        )
        .fetch_one(pool)
        .await
        .unwrap();
        // The last one is a setting that the service relies on.
        assert_eq!(shown, "5 a-b Etc/GMT-3 public");
    }
    let admin = service.log_in_as(Role::Admin).await;
    assert_eq!(send(service.get("/customers").login(&admin)).await.status, 200);
    service.stop().await;
    for (options, name) in [("-c jitt=off", "jitt"), ("--work-mem=much", "work_mem")] {
        let Err(error) = App::build(config_on(&with(options)), Clock::system()).await else {
            panic!("{options}: it started")
        };
        let text = format!("{:#}", anyhow::Error::from(error));
        assert!(text.contains(name) && !text.contains('\n'), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_with_another_encoding_is_refused_in_one_line() {
    let name = unique_name("latin");
    let url = empty_database().await;
    let mut admin = PgConnection::connect(&url).await.unwrap();
    let create = format!("create database {name} encoding 'LATIN1' locale 'C' template template0");
    admin.execute(create.as_str()).await.unwrap();
    let url = SecretString::from(crate::harness::database_url(&name));
    for error in [
        schema::migrate(&url, None).await.map(drop).unwrap_err(),
        schema::check(&url).await.unwrap_err(),
        schema::guards::inspect(&url).await.map(drop).unwrap_err(),
    ] {
        let text = format!("{:#}", anyhow::Error::from(error));
        assert!(text.contains("LATIN1") && text.contains("UTF8") && !text.contains('\n'), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_migrations_with_two_roles_all_succeed() {
    for _ in 0..5 {
        let owner = empty_database().await;
        let (_, service) = role(&owner).await;
        let (owner, service) = (SecretString::from(owner), SecretString::from(service));
        let migrate = || schema::migrate(&owner, Some(&service));
        let (a, b, c, d) = tokio::join!(migrate(), migrate(), migrate(), migrate());
        let steps = |migrated: Migrated| match migrated {
            Migrated::Steps(steps) => steps.len(),
            Migrated::Newer { .. } => panic!("newer"),
        };
        let mut steps = [a, b, c, d].map(|migrated| steps(migrated.unwrap()));
        steps.sort_unstable();
        assert_eq!(steps[..3], [0, 0, 0]);
        assert!(steps[3] >= 10, "{steps:?}");
    }
}

/// Records the migration 9999, which this program does not have.
pub async fn migrate_by_newer_program(url: &str) {
    let mut owner = PgConnection::connect(url).await.unwrap();
    let migration = "insert into _sqlx_migrations
            (version, description, installed_on, success, checksum, execution_time)
        values (9999, 'later', now(), true, '\\x00', 0)";
    owner.execute(migration).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_schema_is_left_alone_and_served() {
    let url = database().await;
    migrate_by_newer_program(&url).await;
    let secret = SecretString::from(url.clone());
    let newer = schema::migrate(&secret, None).await.unwrap();
    assert!(matches!(newer, Migrated::Newer { database: 9999, .. }), "{newer:?}");
    assert_eq!(schema::plan(&secret).await.unwrap(), newer);
    let service = Service::with(config_on(&url)).await;
    let admin = service.log_in_as(Role::Admin).await;
    assert_eq!(send(service.get("/customers").login(&admin)).await.status, 200);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_security_on_the_read_tables_leaves_the_service_its_rows() {
    let owner = database().await;
    let (name, url) = role(&owner).await;
    let mut admin = PgConnection::connect(&owner).await.unwrap();
    let service = SecretString::from(url.clone());
    schema::migrate(&SecretString::from(owner), Some(&service)).await.unwrap();
    let hides_no_row = async |service: &SecretString| {
        let checks = guards::inspect(service).await.unwrap();
        let check = checks.iter().find(|check| check.name.starts_with("row security"));
        check.unwrap().advice.is_none()
    };
    assert!(hides_no_row(&service).await);
    for (statement, hides) in [
        (format!("alter role {name} set row_security = off"), false),
        ("alter table customers enable row level security".to_owned(), true),
        (format!("create policy of_service on customers to {name} using (true)"), false),
        ("create policy narrow on customers as restrictive using (id > 1)".to_owned(), true),
        ("drop policy narrow on customers".to_owned(), false),
    ] {
        admin.execute(statement.as_str()).await.unwrap();
        assert_eq!(hides_no_row(&service).await, !hides, "{statement}");
    }
    let service = Service::with(config_on(&url)).await;
    let editor = service.log_in_as(Role::Admin).await;
    for n in 1..=2 {
        let body = json!({"name": format!("Person {n}"), "dob": "1990-12-10"});
        let created = send(service.post("/customers").login(&editor).json(&body)).await;
        assert_eq!((created.status, created.header("projection-pending")), (201, None));
        let listed = send(service.get("/customers").login(&editor)).await;
        assert_eq!(listed.body["number"], n, "{listed:?}");
        let [customers, ..] = customers::projections::ALL;
        let rebuilt =
            customers::projections::rebuild::rebuild(customers, &service.pools.rebuild).await;
        rebuilt.unwrap();
    }
    // So many at once that they are written by COPY where there are no policies.
    let lines: Vec<String> = (0..700).map(|n| format!("Person {n},1990-12-10\n")).collect();
    let import = service.post("/customers/import").header("content-type", "text/csv");
    let imported = send(import.login(&editor).body(format!("name,dob\n{}", lines.concat()))).await;
    assert_eq!(imported.status, 200, "{imported:?}");
    service.caught_up().await;
    for projection in customers::projections::ALL {
        let verified =
            customers::projections::verify::verify(projection, &service.pools.long).await.unwrap();
        assert_eq!((verified.difference, verified.parked.len()), (None, 0));
    }
    service.stop().await;
}
