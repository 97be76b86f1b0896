//! Backups and restores with PostgreSQL's own programs: the commands of docs/operations.md on real clusters,
//! other ways to copy a database, and what is not a backup.

use std::path::{Path, PathBuf};
use std::process::Output;

use customers::auth::redis::permissions::acl_rules;
use customers::dev::{Options, Servers};
use customers::events::values::Role;
use customers::schema;
use reqwest::{Method, Url};
use secrecy::SecretString;
use serde_json::{Value, json};
use sqlx::migrate::Migrator;
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::process::Command;

use crate::harness::{
    Login, PASSWORD, Service, With as _, config_on, database, empty_database, folder,
    postgres_alone, send, unique_name, until, variables,
};
use crate::own_redis::{Cluster, Redis};
use crate::process::{BINARY, Process, command};
use crate::replica::program;
use crate::sessions::verdict;

/// The code blocks of one language in a section of docs/operations.md.
fn documented(heading: &str, language: &str) -> Vec<String> {
    let page = std::fs::read_to_string("docs/operations.md").unwrap();
    let (_, section) = page.split_once(&format!("\n## {heading}\n")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let (mut blocks, mut block) = (vec![], None);
    for line in section.lines().map(str::trim) {
        match (line.strip_prefix("```"), &mut block) {
            (Some(of), None) => block = Some((of == language, String::new())),
            (Some(_), Some(_)) => {
                let (wanted, text) = block.take().unwrap();
                blocks.extend(wanted.then_some(text));
            }
            (None, Some((_, text))) => text.extend([line, "\n"]),
            (None, None) => {}
        }
    }
    blocks
}

/// Where the documented commands run: a cluster, a Redis and a folder, in place of the documented ones.
struct Place {
    /// The administrator's URL.
    cluster: Url,
    redis: String,
    folder: PathBuf,
    /// Other names than the documented ones.
    names: Vec<(&'static str, &'static str)>,
}

impl Place {
    fn here(&self, documented: &str) -> String {
        let port = self.cluster.port().unwrap();
        let mut text = documented
            .replace("redis://127.0.0.1:6379", &self.redis)
            .replace("127.0.0.1:5432", &format!("127.0.0.1:{port}"))
            .replace("--port=5432", &format!("--port={port}"));
        for (documented, here) in &self.names {
            text = text.replace(documented, here);
        }
        text
    }

    async fn sh(&self, script: &str) -> Output {
        let programs = [program("pg_dump").parent().unwrap(), Path::new(BINARY).parent().unwrap()]
            .map(|folder| folder.display().to_string())
            .join(":");
        let path = std::env::var("PATH").unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-euc", &self.here(script)]).current_dir(&self.folder).env_clear();
        shell.env("PATH", format!("{programs}:{path}")).env("HOME", &self.folder);
        shell.env("CUSTOMERS_KEYS_DIR", self.folder.join("keys")).kill_on_drop(true);
        shell.output().await.unwrap()
    }

    /// The standard output of a script, which must succeed.
    async fn run(&self, script: &str) -> String {
        let output = self.sh(script).await;
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    async fn as_administrator(&self, sql: &str) {
        let psql = format!(
            "psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 {} <<'SQL'\n{sql}SQL\n",
            self.cluster
        );
        self.run(&psql).await;
    }

    /// The variables that the documented restore exports.
    fn exports() -> String {
        let all = documented("Backup and restore", "sh").concat();
        all.lines()
            .filter(|line| line.starts_with("export "))
            .fold(String::new(), |all, line| all + line + "\n")
    }

    async fn serve(&self) -> Process {
        let mut serve = command(&["serve"], &self.folder);
        for export in self.here(&Self::exports()).lines() {
            let (name, value) = export.strip_prefix("export ").unwrap().split_once('=').unwrap();
            serve.env(name, value);
        }
        serve.env("CUSTOMERS_LISTEN", "127.0.0.1:0").env("CUSTOMERS_LOG", "warn");
        serve.env("CUSTOMERS_KEYS_DIR", self.folder.join("keys"));
        Process::start(serve).await
    }
}

async fn get(process: &Process, login: &Login, path: &str) -> Value {
    let answer = send(process.request(Method::GET, path).login(login)).await;
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer.body
}

async fn create(process: &Process, login: &Login, name: &str) -> i64 {
    let body = json!({"name": name, "dob": "1990-12-10"});
    let created = send(process.request(Method::POST, "/customers").login(login).json(&body)).await;
    assert_eq!(created.status, 201, "{created:?}");
    created.position()
}

async fn cluster(kind: &str, settings: &[&str]) -> (Servers, Url) {
    let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
    let options = Options { settings, ..postgres_alone(&folder(kind), [7; 32]) };
    let servers = Servers::start(options).await.unwrap();
    let url = servers.database_url().unwrap().parse().unwrap();
    (servers, url)
}

/// What the service and its consumers knew before the loss.
struct Lost {
    /// The registry and the end of the log at the time of the backup.
    customers: Value,
    position: i64,
    /// What a consumer has read: the log, and a position after the backup.
    log: String,
    read: i64,
    login: Login,
}

/// Restores the backup by the documented commands, and checks everything that the page promises.
async fn restore(place: &Place, lost: &Lost) {
    let blocks = documented("Backup and restore", "sh");
    let [_, load, prepare, empty_redis, check] = &blocks[..] else { panic!("{blocks:?}") };
    place.run(load).await;
    let told = place.run(&[prepare.as_str(), empty_redis].concat()).await;
    let expected = format!("log {}: from ", lost.log);
    assert!(told.contains(&expected), "{told}");
    let ended = format!("ended at position {}", lost.position);
    assert!(told.contains(&ended), "{told}");
    let analyzed = "psql --no-psqlrc --tuples-only --no-align --command \"select count(*) > 0 from
        pg_stats where tablename = 'events'\" ";
    let owner = place.cluster.join(&place.here("/registry")).unwrap();
    assert_eq!(place.run(&format!("{analyzed} {owner}")).await, "t\n");

    let process = place.serve().await;
    let checked = place.run(&[Place::exports().as_str(), check].concat()).await;
    assert_eq!(checked.matches("equals the log").count(), 3, "{checked}");
    let old = process.request(Method::GET, "/customers").login(&lost.login);
    assert_eq!(verdict(old).await, "401 unauthenticated", "the old sessions have ended");
    let login = process.log_in("root").await;
    assert_eq!(get(&process, &login, "/customers").await, lost.customers);
    // The log has grown again over what the consumer has read.
    for name in ["Here", "There", "Everywhere"] {
        create(&process, &login, name).await;
    }
    let feed = format!("/events?after={}", lost.read);
    let current = get(&process, &login, "/events?limit=1").await["log"].clone();
    assert_ne!(current, lost.log);
    let path = format!("{feed}&log={}", lost.log);
    let told = send(process.request(Method::GET, &path).login(&login)).await;
    assert_eq!((told.status, &told.body["type"]), (409, &json!("/problems/log-restarted")));
    assert_eq!(told.body["log"], current);
    assert_eq!(told.body["restarted_after"], lost.position);
    // The table that a rebuild had replaced before the backup is in it, and serves with the same rights.
    let rollback =
        "customers projection rollback customers\ncustomers projection verify customers\n";
    place.run(&[&Place::exports(), rollback].concat()).await;
    create(&process, &login, "Nowhere").await;
    let number = lost.customers["number"].as_i64().unwrap() + 4;
    assert_eq!(get(&process, &login, "/customers").await["number"], number);
    assert_eq!(process.end(rustix::process::Signal::TERM).await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_backup_is_restored_by_the_documented_commands_on_any_cluster() {
    let (first, url) = cluster("first", &[]).await;
    let redis = Redis::start(&[]).await;
    let folder = folder("backup");
    let mut place = Place { cluster: url, redis: redis.url(), folder, names: vec![] };
    let roles = documented("Two roles in PostgreSQL", "sql").concat();
    place.as_administrator(&roles).await;
    let prepare = &documented("Backup and restore", "sh")[2];
    let migrate = prepare.lines().find(|line| line.ends_with(" customers migrate")).unwrap();
    let exports = Place::exports();
    place.run(&format!("{exports}{migrate}\n")).await;
    let account = format!(
        "customers account add root --role admin --password-stdin <<'PASSWORD'\n{PASSWORD}\nPASSWORD\n"
    );
    place.run(&format!("{exports}{account}customers demo --customers 300\n")).await;
    let process = place.serve().await;
    let login = process.log_in("root").await;
    place.run(&format!("{exports}customers projection rebuild customers\n")).await;
    let position = create(&process, &login, "Before").await;
    let customers = get(&process, &login, "/customers").await;

    let [backup, ..] = &documented("Backup and restore", "sh")[..] else { panic!() };
    place.run(backup).await;
    let file = place.folder.join("customers.dump");
    let dump = std::fs::read(&file).unwrap();
    assert!(dump.starts_with(b"PGDMP"), "the dump is in the custom format");
    // The service's role cannot dump; the failure is told, and the good dump stays.
    let as_service = backup
        .replace("customers_owner", "customers_service")
        .replace("owner-password", "service-password");
    let failed = place.sh(&as_service).await;
    assert!(!failed.status.success(), "{failed:?}");
    assert_eq!(std::fs::read(&file).unwrap(), dump);

    // What comes after the backup is lost; a consumer has read it.
    create(&process, &login, "After").await;
    let read = create(&process, &login, "Later").await;
    let log = get(&process, &login, "/events?limit=1").await["log"].as_str().unwrap().to_owned();
    assert_eq!(process.end(rustix::process::Signal::TERM).await, Some(0));
    let lost = Lost { customers, position, log, read, login };

    let again = documented("Backup and restore", "sql").concat();
    place.as_administrator(&again).await;
    restore(&place, &lost).await;
    first.stop().await;

    // A new cluster, without the roles.
    let (second, url) = cluster("second", &[]).await;
    place.cluster = url;
    place.as_administrator(&roles).await;
    restore(&place, &lost).await;

    // Another database of other roles, with another collation.
    place.names = vec![
        ("customers_owner", "keeper"),
        ("customers_service", "clerk"),
        ("registry", "elsewhere"),
        (
            "owner keeper;",
            "owner keeper template template0 locale_provider icu icu_locale 'en-US';",
        ),
    ];
    place.as_administrator(&roles).await;
    restore(&place, &lost).await;
    second.stop().await;
}

/// The step of the documented restore that empties Redis, with this `REDIS_URL`.
async fn empty_redis(redis_url: &str) -> Output {
    let [.., step, _] = &documented("Backup and restore", "sh")[..] else { panic!() };
    let cluster = "postgres://nobody@127.0.0.1:1/none".parse().unwrap();
    let folder = folder("empty_redis");
    let place = Place { cluster, redis: redis_url.to_owned(), folder, names: vec![] };
    place.sh(&format!("export REDIS_URL='{redis_url}'\n{step}")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_step_empties_redis_by_each_form_of_its_url_or_fails() {
    let socket = Path::new("/tmp").join(unique_name("redis") + ".sock");
    let path = socket.display().to_string();
    let redis = Redis::start(&["--requirepass", "word", "--unixsocket", &path]).await;
    let rules = acl_rules("customers", 3);
    redis.ask(&format!("ACL SETUSER customers on >secret {rules}")).await;
    let address = redis.address();
    for (url, database) in [
        // As `customers dev` writes it, and as deploy/make-secrets does.
        (format!("redis://:word@{address}/0"), 0),
        (format!("redis://:word@{address}"), 0),
        (format!("redis://default:word@{address}"), 0),
        // The documented user.
        (format!("redis://customers:secret@{address}"), 0),
        (format!("redis://customers:secret@{address}/3?protocol=resp3"), 3),
        (format!("unix://{path}?db=3&user=customers&pass=secret"), 3),
    ] {
        let script = format!(
            "redis.call('select',{database})\nfor\ti=1,2500\tdo\n{set}\nend\n{other}",
            set = "redis.call('set','customers:{a'..i..'}:x','')",
            other = "redis.call('mset','customers2:{a}:x','','customers:dev:{a}:x','')",
        );
        redis.ask(&format!("EVAL {script} 0")).await;
        let output = empty_redis(&url).await;
        assert_eq!(output.status.code(), Some(0), "{url}: {output:?}");
        let told = String::from_utf8(output.stdout).unwrap();
        assert_eq!(told, "deleted 2500 keys with the prefix customers\n", "{url}");
    }
    for database in [0, 3] {
        let keys = format!("redis.call('select',{database})\nreturn\tredis.call('keys','*')");
        let left = format!("{:?}", redis.ask(&format!("EVAL {keys} 0")).await);
        assert_eq!(left.matches(":x").count(), 2, "{left}");
        assert!(
            left.contains("customers2:{a}:x") && left.contains("customers:dev:{a}:x"),
            "{left}"
        );
    }
    redis.ask("ACL SETUSER customers -scan").await;
    for (url, problem) in [
        (format!("redis://:other@{address}"), "check user and password in REDIS_URL"),
        (format!("redis://customers:secret@{address}"), "'scan' command"),
        ("redis://127.0.0.1:1".to_owned(), "Connection refused"),
    ] {
        let output = empty_redis(&url).await;
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{url}: {told}");
        assert!(
            told.contains("customers: cannot empty Redis: ") && told.contains(problem),
            "{told}"
        );
    }
    let _ = std::fs::remove_file(socket);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_step_empties_each_node_of_a_cluster() {
    let cluster = Cluster::start().await;
    let rules = acl_rules("customers", 0);
    for node in &cluster.0 {
        node.ask(&format!("ACL SETUSER customers on >secret {rules}")).await;
    }
    let user = |node: &Redis| format!("redis://customers:secret@{}", node.address());
    let urls = cluster.0.iter().map(user).collect::<Vec<_>>().join(",");
    let client = redis::cluster::ClusterClient::new(vec![cluster.0[0].url()]).unwrap();
    let mut connection = client.get_async_connection().await.unwrap();
    for number in 0..300 {
        for part in ["session", "list"] {
            let key = format!("customers:{{{number}}}:{part}");
            redis::cmd("SET").arg(key).arg("").query_async::<()>(&mut connection).await.unwrap();
        }
    }
    let output = empty_redis(&urls).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "deleted 600 keys with the prefix customers\n"
    );
    for node in &cluster.0 {
        assert_eq!(node.ask("DBSIZE").await, redis::Value::Int(0));
    }
}

/// Runs a program of PostgreSQL on a database; returns whether it succeeded, and what it printed.
async fn postgres(name: &str, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(program(name)).args(arguments).output().await.unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The number of events, and of tables of the program's schemas.
async fn contents(url: &str) -> (i64, i64) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query_as(
        "select (select count(*) from events), (select count(*) from pg_tables
         where schemaname in ('public', 'shadow', 'previous', 'locks'))",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_backup_or_no_empty_database_is_refused_and_changes_nothing() {
    let service = Service::start().await;
    service.add_account("root", Role::Admin).await;
    service.caught_up().await;
    let place = folder("refused");
    let at = |name: &str| place.join(name).display().to_string();
    let (whole, data) = (at("whole.dump"), at("data.dump"));
    let from = service.database_url();
    for (file, options) in [(&whole, "--no-sync"), (&data, "--data-only")] {
        let (dumped, text) =
            postgres("pg_dump", &["--format=custom", options, "--file", file, from]).await;
        assert!(dumped, "{text}");
    }
    // Into a database that was migrated, perhaps by a newer program: rows and tables are there already.
    let there = database().await;
    let before = contents(&there).await;
    for (file, problem) in [(&whole, "already exists"), (&data, "duplicate key")] {
        let options = ["--no-owner", "--no-privileges", "--single-transaction", "--dbname"];
        let (loaded, text) =
            postgres("pg_restore", &[&options[..], &[&there, file]].concat()).await;
        assert!(!loaded && text.contains(problem), "{text}");
        assert_eq!(contents(&there).await, before);
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_an_older_schema_is_migrated_and_gets_an_identity() {
    let (old, new) = (empty_database().await, empty_database().await);
    let mut connection = PgConnection::connect(&old).await.unwrap();
    let mut migrator = Migrator::new(Path::new("migrations")).await.unwrap();
    migrator.migrations.to_mut().retain(|migration| migration.version <= 10);
    migrator.run(&mut connection).await.unwrap();
    connection
        .execute(
            "select append_event(gen_random_uuid(), 'customer', '7', 0, 'CustomerCreated', '1',
                 '{\"type\":\"CustomerCreated\",\"name\":\"Ada\",\"dob\":\"1990-12-10\"}', '{}',
                 null, null, null)",
        )
        .await
        .unwrap();
    let file = folder("older").join("customers.dump").display().to_string();
    let (dumped, text) = postgres("pg_dump", &["--format=custom", "--file", &file, &old]).await;
    assert!(dumped, "{text}");
    let options =
        ["--no-owner", "--no-privileges", "--single-transaction", "--dbname", &new, &file];
    let (loaded, text) = postgres("pg_restore", &options).await;
    assert!(loaded, "{text}");
    schema::migrate(&SecretString::from(new.clone()), None).await.unwrap();
    let service = Service::with(config_on(&new)).await;
    service.caught_up().await;
    let admin = service.log_in_as(Role::Admin).await;
    let feed = send(service.get("/events").login(&admin)).await;
    assert_eq!(feed.body["events"][0]["aggregate_id"], "7");
    assert_eq!(Some(feed.body["log"].as_str().unwrap()), feed.header("event-log"));
    service.stop().await;
}

/// Runs `customers log restart` on a database.
async fn restart_log(url: &str) {
    let mut restart = command(&["log", "restart"], &folder("restart"));
    let output = restart.envs(variables(url)).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Appends customers on a service's database; returns the position of the last event.
async fn append(service: &Service, login: &Login, number: usize) -> i64 {
    let mut last = 0;
    for _ in 0..number {
        let body = json!({"name": "Ada", "dob": "1990-12-10"});
        let created = send(service.post("/customers").login(login).json(&body)).await;
        assert_eq!(created.status, 201, "{created:?}");
        last = created.position();
    }
    last
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_physical_backup_recovered_to_an_earlier_time_is_a_restarted_log() {
    let place = folder("archive");
    let archive = place.join("wal");
    std::fs::create_dir(&archive).unwrap();
    let copy = format!("archive_command=cp %p {}/%f", archive.display());
    let (primary, url) = cluster("primary", &["archive_mode=on", &copy]).await;
    schema::migrate(&SecretString::from(url.as_str()), None).await.unwrap();
    let service = Service::with(config_on(url.as_str())).await;
    let login = service.log_in_as(Role::Admin).await;
    append(&service, &login, 3).await;

    let of_copy = folder("recovered");
    let data = of_copy.join("postgres").display().to_string();
    let backup = ["--dbname", url.as_str(), "--pgdata", &data, "--checkpoint=fast"];
    let (copied, text) = postgres("pg_basebackup", &backup).await;
    assert!(copied, "{text}");
    let kept = append(&service, &login, 3).await;
    let mut administrator = PgConnection::connect(url.as_str()).await.unwrap();
    let restore_point = "select pg_create_restore_point('before the mistake')";
    administrator.execute(restore_point).await.unwrap();
    let read = append(&service, &login, 3).await;
    let log = send(service.get("/events?limit=1").login(&login)).await.body["log"].clone();
    let file: String = sqlx::query_scalar("select pg_walfile_name(pg_switch_wal())")
        .fetch_one(&mut administrator)
        .await
        .unwrap();
    until("the WAL is archived", async || archive.join(&file).exists()).await;
    drop(administrator);
    service.stop().await;
    primary.stop().await;

    let settings = of_copy.join("postgres/postgresql.auto.conf");
    let recovery = format!(
        "\nrestore_command = 'cp {}/%f %p'\nrecovery_target_name = 'before the mistake'
         recovery_target_action = promote\narchive_mode = off\n",
        archive.display()
    );
    let kept_settings = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, kept_settings + &recovery).unwrap();
    std::fs::write(of_copy.join("postgres/recovery.signal"), "").unwrap();
    std::fs::write(of_copy.join("postgres.password"), url.password().unwrap()).unwrap();
    let recovered = Servers::start(postgres_alone(&of_copy, [7; 32])).await.unwrap();
    let url = recovered.database_url().unwrap().to_owned();
    until("the recovery has ended", async || {
        let mut connection = PgConnection::connect(&url).await.unwrap();
        let recovering = "select pg_is_in_recovery()";
        !sqlx::query_scalar::<_, bool>(recovering).fetch_one(&mut connection).await.unwrap()
    })
    .await;
    restart_log(&url).await;
    let service = Service::with(config_on(&url)).await;
    let login = service.log_in("admin").await;
    append(&service, &login, 5).await;
    let path = format!("/events?after={read}&log={}", log.as_str().unwrap());
    let told = send(service.get(&path).login(&login)).await;
    assert_eq!((told.status, &told.body["restarted_after"]), (409, &json!(kept)), "{told:?}");
    service.stop().await;
    recovered.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_logical_copy_serves_and_gives_no_id_twice() {
    // Enough workers for the first copy of all tables at once.
    let settings = [
        "wal_level=logical",
        "max_logical_replication_workers=8",
        "max_sync_workers_per_subscription=6",
        "wal_retrieve_retry_interval=100ms",
    ];
    let (servers, url) = cluster("logical", &settings).await;
    schema::migrate(&SecretString::from(url.as_str()), None).await.unwrap();
    let service = Service::with(config_on(url.as_str())).await;
    let login = service.log_in_as(Role::Admin).await;
    append(&service, &login, 40).await;
    service.caught_up().await;

    let place = folder("logical");
    let (file, name) = (place.join("schema.sql").display().to_string(), unique_name("copy"));
    let mut publisher = PgConnection::connect(url.as_str()).await.unwrap();
    publisher.execute("create publication everything for all tables").await.unwrap();
    publisher.execute(format!("create database {name}").as_str()).await.unwrap();
    let slot = "select pg_create_logical_replication_slot('copy', 'pgoutput')";
    publisher.execute(slot).await.unwrap();
    let mut there = url.clone();
    there.set_path(&name);
    let dump = ["--schema-only", "--no-publications", "--file", &file, url.as_str()];
    let (dumped, text) = postgres("pg_dump", &dump).await;
    assert!(dumped, "{text}");
    let load =
        ["--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--file", &file, there.as_str()];
    let (loaded, text) = postgres("psql", &load).await;
    assert!(loaded, "{text}");
    let mut subscriber = PgConnection::connect(there.as_str()).await.unwrap();
    let subscribe = format!(
        "create subscription copy connection '{url}' publication everything
         with (create_slot = false, slot_name = copy)"
    );
    subscriber.execute(subscribe.as_str()).await.unwrap();
    append(&service, &login, 3).await;
    service.caught_up().await;
    service.stop().await;
    let head = contents(url.as_str()).await.0;
    until("the copy has all events and their projections", async || {
        let ready = "select count(*) = $1 and (select min(checkpoint) = $1 from projections)
                            and not exists (select from pg_subscription_rel where srsubstate <> 'r')
                     from events";
        let ready: Option<bool> =
            sqlx::query_scalar(ready).bind(head).fetch_one(&mut subscriber).await.unwrap();
        ready == Some(true)
    })
    .await;
    for statement in [
        "alter subscription copy disable",
        "alter subscription copy set (slot_name = none)",
        "drop subscription copy",
    ] {
        subscriber.execute(statement).await.unwrap();
    }

    schema::migrate(&SecretString::from(there.as_str()), None).await.unwrap();
    restart_log(there.as_str()).await;
    let copy = Service::with(config_on(there.as_str())).await;
    let login = copy.log_in("admin").await;
    append(&copy, &login, 40).await;
    let seen = send(copy.get("/customers").login(&login)).await;
    assert_eq!(seen.body["number"], 83);
    copy.stop().await;
    servers.stop().await;
}
