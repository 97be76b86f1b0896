//! `customers dev`: PostgreSQL, Redis and the service without configuration; no server outlives it.

use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;

use customers::events::log::read;
use customers::events::values::Role;
use customers::schema;
use reqwest::Method;
use rustix::process::Signal;
use serde_json::json;
use sqlx::{Connection as _, Executor as _};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::harness::{Service, With as _, empty_database, send, until, variables};
use crate::process::{BINARY, Process, command};

/// A running `customers dev` and the addresses of its servers.
struct Dev {
    process: Process,
    servers: Vec<String>,
}

impl Dev {
    async fn start(mut command: Command) -> Self {
        command.env("CUSTOMERS_LISTEN", "127.0.0.1:0");
        let mut process = Process::start(command).await;
        assert_eq!(process.line("login ").await, "demo demo-password");
        let mut servers = vec![];
        for name in ["DATABASE_URL=", "REDIS_URL="] {
            let url = process.line(name).await;
            let authority = url.split('/').nth(2).unwrap();
            servers.push(authority.rsplit('@').next().unwrap().to_owned());
        }
        let docs = process.line("docs ").await;
        assert_eq!(docs, format!("{}/docs", process.url));
        Self { process, servers }
    }

    async fn customers(&self) -> i64 {
        let login = self.process.log_in_with("demo", "demo-password").await;
        let list = send(self.process.request(Method::GET, "/customers").login(&login)).await;
        list.body["number"].as_i64().unwrap()
    }

    async fn create(&self) {
        let login = self.process.log_in_with("demo", "demo-password").await;
        let ada = json!({"name": "Ada", "dob": "1990-12-10"});
        let request = self.process.request(Method::POST, "/customers").login(&login).json(&ada);
        assert_eq!(send(request).await.status, 201);
    }
}

fn is_gone(address: &str) -> bool {
    TcpStream::connect(address).is_err()
}

/// A temporary folder with mode 0700, outside the build folder.
fn private_folder() -> tempfile::TempDir {
    let private = std::fs::Permissions::from_mode(0o700);
    tempfile::Builder::new().permissions(private).tempdir().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_keeps_its_data_and_leaves_no_server_behind_whatever_ends_it() {
    let folder = private_folder();
    let dev = Dev::start(command(&["dev"], folder.path())).await;
    assert_eq!(dev.customers().await, 100);
    dev.create().await;
    let docs = send(dev.process.request(Method::GET, "/docs")).await;
    assert_eq!((docs.status, docs.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let env = folder.path().join(".customers/env");
    assert_eq!(std::fs::metadata(&env).unwrap().permissions().mode() & 0o777, 0o600);

    // Other subcommands find the servers through `.customers/env`.
    let mut status = command(&["projection", "verify", "customers"], folder.path());
    assert!(status.output().await.unwrap().status.success());
    // And the service itself, on whatever port.
    let health = command(&["health"], folder.path()).output().await.unwrap();
    assert!(health.status.success(), "{health:?}");

    let servers = dev.servers.clone();
    dev.process.kill().await;
    until("the servers end after a kill", async || servers.iter().all(|s| is_gone(s))).await;

    let dev = Dev::start(command(&["dev"], folder.path())).await;
    assert_eq!(dev.customers().await, 101, "another log, or demo data created again");
    let servers = dev.servers.clone();
    assert_eq!(dev.process.end(Signal::INT).await, Some(0));
    assert!(servers.iter().all(|server| is_gone(server)), "a server outlived the command");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_right_after_a_kill_works() {
    let folder = private_folder();
    let dev = Dev::start(command(&["dev"], folder.path())).await;
    dev.create().await;
    dev.process.kill().await;
    let dev = Dev::start(command(&["dev"], folder.path())).await;
    assert_eq!(dev.customers().await, 101);
    assert_eq!(dev.process.end(Signal::TERM).await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_runs_as_somebody_who_is_not_root() {
    if !rustix::process::getuid().is_root() {
        // The other tests of this file run as a user other than root already.
        return;
    }
    let folder = private_folder();
    let nobody = 65534;
    // Another user may have no access to the build folder.
    let binary = folder.path().join("customers");
    std::fs::copy(BINARY, &binary).unwrap();
    for path in [folder.path(), &binary] {
        std::os::unix::fs::chown(path, Some(nobody), Some(nobody)).unwrap();
    }
    let mut dev = Command::new(&binary);
    dev.arg("dev")
        .current_dir(folder.path())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", folder.path())
        .uid(nobody)
        .gid(nobody)
        .kill_on_drop(true);
    let dev = Dev::start(dev).await;
    assert_eq!(dev.customers().await, 100);
    assert_eq!(dev.process.end(Signal::TERM).await, Some(0));
    assert_eq!(owner(&folder.path().join(".customers/postgres")), nobody);
}

fn owner(path: &Path) -> u32 {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(path).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_dev_in_the_same_folder_says_so_in_one_line() {
    let folder = private_folder();
    let dev = Dev::start(command(&["dev"], folder.path())).await;
    let mut second = command(&["dev"], folder.path());
    let second = second.env("CUSTOMERS_LISTEN", "127.0.0.1:0").output().await.unwrap();
    assert_eq!(second.status.code(), Some(1));
    let line = String::from_utf8(second.stderr).unwrap();
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(std::fs::exists(folder.path().join(".customers/env")).unwrap(), "the env file is gone");
    assert_eq!(dev.process.end(Signal::TERM).await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_run_gives_a_command_servers_and_ends_with_its_code() {
    let folder = private_folder();
    let script =
        "test -n \"$DATABASE_URL\" && test -n \"$REDIS_URL\" && echo $DATABASE_URL && exit 7";
    let mut run = command(&["dev", "--run", "--", "sh", "-c", script], folder.path());
    let output = run.output().await.unwrap();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    let url = String::from_utf8(output.stdout).unwrap();
    let server = url.trim().split('@').nth(1).unwrap().split('/').next().unwrap().to_owned();
    assert!(is_gone(&server), "a server outlived the command");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_starts_postgres_with_the_settings_it_is_given() {
    let folder = private_folder();
    let mut run = command(
        &["dev", "--run", "--postgres", "shared_buffers=7MB", "--postgres", "work_mem=3MB"],
        folder.path(),
    );
    run.args(["--postgres", "fsync=off", "--", "sh", "-c", "echo $DATABASE_URL && cat"]);
    let mut child = run.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let url = lines.next_line().await.unwrap().unwrap();
    let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
    for (name, value) in [("shared_buffers", "7MB"), ("work_mem", "3MB"), ("fsync", "on")] {
        let set = sqlx::query_scalar::<_, String>("select current_setting($1)").bind(name);
        assert_eq!(set.fetch_one(&mut connection).await.unwrap(), value, "{name}");
    }
    drop((connection, child.stdin.take()));
    assert!(child.wait().await.unwrap().success());

    let elsewhere = Some("postgres://elsewhere.test/customers");
    for (setting, database_url, code, named) in [
        ("work_mem", None, 2, "NAME=VALUE"),
        ("work_mem=3MB", elsewhere, 2, "DATABASE_URL"),
        ("work_mem=much", None, 1, "work_mem"),
    ] {
        let mut run =
            command(&["dev", "--run", "--postgres", setting, "--", "true"], folder.path());
        run.envs(database_url.map(|url| ("DATABASE_URL", url)));
        let output = run.output().await.unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{told}");
        assert!(told.contains(named), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_program_is_named_with_what_installs_it() {
    if !rustix::process::getuid().is_root() {
        // To hide a program from one process takes a mount namespace, which only root can create.
        return;
    }
    let folder = private_folder();
    let hide = "for program in redis-server redis-check-rdb valkey-server; do
            path=$(command -v $program) && mount --bind /dev/null $(readlink -f $path)
        done
        exec \"$0\" dev";
    let mut unshare = Command::new("unshare");
    unshare
        .args(["--mount", "sh", "-c", hide, BINARY])
        .current_dir(folder.path())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("CUSTOMERS_LOG", "error")
        .kill_on_drop(true);
    let output = unshare.output().await.unwrap();
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), line.lines().count()), (Some(1), 1), "{line}");
    assert!(line.contains("redis-server") && line.contains("script/bootstrap"), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_changes_nothing_on_a_server_that_it_did_not_start() {
    let folder = private_folder();
    let dev = |database_url: &str, arguments: &[&str]| {
        let mut dev = command(&[&["dev"], arguments].concat(), folder.path());
        dev.envs(variables(database_url)).env("CUSTOMERS_LISTEN", "127.0.0.1:0");
        dev
    };
    // Nothing is migrated unless the flag says so.
    let empty = empty_database().await;
    let told = dev(&empty, &[]).output().await.unwrap();
    let text = String::from_utf8(told.stderr).unwrap();
    assert_eq!(told.status.code(), Some(1), "{text}");
    assert!(text.contains("customers migrate"), "{text}");
    let mut connection = sqlx::PgConnection::connect(&empty).await.unwrap();
    assert!(schema::is_empty(&mut connection).await.unwrap());

    // With the flag the database is seeded, once; a repeat finds its own demo data.
    for _ in 0..2 {
        let dev = Dev::start(dev(&empty, &["--seed"])).await;
        assert_eq!(dev.customers().await, 100);
        assert_eq!(dev.process.end(Signal::TERM).await, Some(0));
    }

    // The registry of somebody else is served, and gets no account.
    let service = Service::start().await;
    service.add_account("root", Role::Admin).await;
    let url = service.database_url().to_owned();
    let mut process = Process::start(dev(&url, &[])).await;
    process.line("DATABASE_URL=").await;
    assert_eq!(process.end(Signal::TERM).await, Some(0));
    let told = dev(&url, &["--seed"]).output().await.unwrap();
    let text = String::from_utf8(told.stderr).unwrap();
    assert_eq!(told.status.code(), Some(1), "{text}");
    assert!(text.contains("--seed"), "{text}");
    assert_eq!(read::head(&service.pools.short).await.unwrap(), 1);
    service.stop().await;

    // A database with other tables is not empty.
    let other = empty_database().await;
    let mut connection = sqlx::PgConnection::connect(&other).await.unwrap();
    connection.execute("create table theirs (id int)").await.unwrap();
    let told = dev(&other, &["--seed"]).output().await.unwrap();
    assert_eq!(told.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_private_database_of_dev_ignores_the_urls_of_another() {
    let folder = private_folder();
    let other = empty_database().await;
    let mut dev = command(&["dev"], folder.path());
    dev.env("CUSTOMERS_OWNER_DATABASE_URL", &other).env("DATABASE_READ_URL", &other);
    let dev = Dev::start(dev).await;
    assert_eq!(dev.customers().await, 100);
    assert_eq!(dev.process.end(Signal::TERM).await, Some(0));
    let mut connection = sqlx::PgConnection::connect(&other).await.unwrap();
    assert!(schema::is_empty(&mut connection).await.unwrap(), "the other database was migrated");
}

#[tokio::test]
async fn dev_listens_on_loopback_only() {
    let folder = private_folder();
    for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.1:8080"] {
        let mut dev = command(&["dev"], folder.path());
        let told = dev.env("CUSTOMERS_LISTEN", listen).output().await.unwrap();
        let text = String::from_utf8(told.stderr).unwrap();
        assert_eq!(told.status.code(), Some(2), "{text}");
        assert!(text.contains("CUSTOMERS_LISTEN: must be a loopback address"), "{text}");
    }
}
