//! The command line of the built binary, with its own environment and folder: `serve`, configuration,
//! exit codes.

mod accounts;
mod data;
mod manual;
mod output;

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use customers::config;
use customers::events::values::Role;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::harness::{PATIENCE, database, empty_database, folder, variables};
use crate::other_postgres::migrate_by_newer_program;

/// The result of a command that has ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// The folder and the environment in which the binary runs.
pub struct Shell {
    folder: PathBuf,
    variables: Vec<(&'static str, String)>,
}

impl Shell {
    /// An empty environment and an empty folder.
    fn bare() -> Self {
        Self { folder: folder("cli"), variables: vec![] }
    }

    /// An environment with all variables that `serve` needs.
    pub fn on(database_url: &str) -> Self {
        Self { variables: variables(database_url), ..Self::bare() }
    }

    async fn migrated() -> Self {
        Self::on(&database().await)
    }

    /// Sets one variable.
    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.variables.retain(|(known, _)| *known != name);
        self.variables.push((name, value.into()));
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.variables.retain(|(known, _)| *known != name);
        self
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_customers"));
        command
            .args(arguments.split_whitespace())
            .current_dir(&self.folder)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    pub async fn run(&self, arguments: &str) -> Ended {
        self.run_with(arguments, "").await
    }

    /// Runs a command with this standard input.
    pub async fn run_with(&self, arguments: &str, input: &str) -> Ended {
        let mut child = self.command(arguments).spawn().unwrap();
        // A command that does not read its standard input may have ended already.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes()).await;
        let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
        let Output { status, stdout, stderr } = output.expect("the command ends in time").unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ended { code: status.code().unwrap(), stdout: text(stdout), stderr: text(stderr) }
    }

    /// Starts `serve` and returns when it has printed its address.
    async fn serve(&self) -> Serving {
        let mut child = self.command("serve").stderr(Stdio::inherit()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(PATIENCE, stdout.next_line()).await;
        let line = line.expect("serve prints its address in time").unwrap().unwrap();
        let address = line.strip_prefix("address http://").unwrap().to_owned();
        Serving { child, address, stdout }
    }
}

/// A running `customers serve`.
struct Serving {
    child: Child,
    address: String,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Serving {
    /// Sends a signal; returns the exit code, the time until the exit, and the remaining lines of the
    /// standard output.
    async fn end(mut self, signal: Signal) -> (Option<i32>, Duration, Vec<String>) {
        let began = Instant::now();
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let mut said = vec![];
        while let Some(line) = self.stdout.next_line().await.unwrap() {
            said.push(line);
        }
        (status.expect("serve ends in time").unwrap().code(), began.elapsed(), said)
    }
}

/// Parses each line as JSON.
fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_configured_is_named() {
    let shell = Shell::bare();
    for arguments in ["serve", "migrate", "account list", "demo --customers 1", "projection status"]
    {
        let ended = shell.run(arguments).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (2, ""), "{arguments}");
        assert_eq!(ended.stderr, "customers: DATABASE_URL: must be set; or run `customers dev`\n");
    }
    let ended = Shell::migrated().await.without("REDIS_URL").run("serve").await;
    assert_eq!(ended.code, 2);
    assert_eq!(ended.stderr, "customers: REDIS_URL: must be set; or run `customers dev`\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_value_is_named_in_one_line_without_its_secret() {
    const SECRET: &str = "hunter2";
    let url = database().await;
    for (name, value) in [
        ("DATABASE_URL", "mysql://me:hunter2@db/customers"),
        ("DATABASE_URL", "hunter2"),
        ("DATABASE_URL", "postgres://"),
        ("DATABASE_URL", "postgres://me:hunter2@db:port/customers"),
        ("DATABASE_URL", "postgres://me@db/customers?sslpassword=hunter2"),
        ("DATABASE_URL", "postgres://me:5?hunter=hunter2@db/customers"),
        ("DATABASE_URL", "postgres://me:5/hunter2@db/customers"),
        ("DATABASE_URL", "postgres://db/customers?user=me&password=a&hunter2=b"),
        ("DATABASE_URL", "postgres://me:%hunter2@db/customers"),
        ("DATABASE_URL", "postgres://me@db/customers?target_session_attrs=standby"),
        ("DATABASE_READ_URL", "postgres://me@db/customers?channel_binding=require"),
        ("CUSTOMERS_REPLICA_MAX_LAG", "late"),
        ("CUSTOMERS_OWNER_DATABASE_URL", "http://me:hunter2@db/customers"),
        ("DATABASE_READ_URL", "http://me:hunter2@db/customers"),
        ("REDIS_URL", "http://:hunter2@redis:6379"),
        ("REDIS_URL", "redis://:hunter2@redis:port/0"),
        ("CUSTOMERS_REDIS_PREFIX", "two words"),
        ("CUSTOMERS_LISTEN", "localhost"),
        ("CUSTOMERS_PUBLIC_URL", "customers.test"),
        ("CUSTOMERS_SPOOL_DIR", "/nowhere/at/all"),
        ("CUSTOMERS_TOKEN_TTL", "soon"),
        ("CUSTOMERS_TOKEN_TTL", "0s"),
        ("CUSTOMERS_TOKEN_TTL", "25h"),
        ("CUSTOMERS_COOKIE_BINDING", "sometimes"),
        ("CUSTOMERS_SESSION_LIMIT", "-1"),
        ("CUSTOMERS_SESSION_LIMIT", "0"),
        ("CUSTOMERS_SESSION_LIMIT", "1001"),
        ("CUSTOMERS_KEYS_DIR", "/etc/passwd"),
        ("CUSTOMERS_KEYS_DIR", "/etc/passwd/keys"),
        ("CUSTOMERS_KEYS_DIR", "/etc"),
        ("CUSTOMERS_KEYS_DIR", "/proc/sys"),
        ("CUSTOMERS_KEYS_DIR", "/proc/keys-of-customers"),
        ("CUSTOMERS_RATE_LIMIT", "many"),
        ("CUSTOMERS_LOGIN_LIMIT", "1.5"),
        ("CUSTOMERS_TRUSTED_PROXIES", "10.0.0.0/8, 10.0.0.0/33"),
        ("CUSTOMERS_CORS_ORIGINS", "*"),
        ("CUSTOMERS_CORS_ORIGINS", "null"),
        ("CUSTOMERS_CORS_ORIGINS", "https://Console.example"),
        ("CUSTOMERS_CORS_ORIGINS", "https://console.example/"),
        ("CUSTOMERS_CORS_ORIGINS", "http://console.example, https://console.example:443"),
        ("CUSTOMERS_CORS_ORIGINS", "http://console.example:80"),
        ("CUSTOMERS_LOG", "customers=loud"),
        ("CUSTOMERS_LOG_FORMAT", "xml"),
    ] {
        let ended = Shell::on(&url).with(name, value).run("serve").await;
        assert_eq!((ended.code, ended.stdout.as_str()), (2, ""), "{name}={value}: {ended:?}");
        assert!(ended.stderr.starts_with(&format!("customers: {name}: ")), "{ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
        assert!(!ended.stderr.contains(SECRET), "{ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_misspelt_variable_is_named_with_the_nearest_right_one() {
    let shell = Shell::migrated().await;
    for (name, nearest) in [
        ("CUSTOMERS_COOKIE_BINDNG", "CUSTOMERS_COOKIE_BINDING"),
        ("CUSTOMERS_RATELIMIT", "CUSTOMERS_RATE_LIMIT"),
        ("CUSTOMERS_OWNER_DATABASE_URL_FIL", "CUSTOMERS_OWNER_DATABASE_URL_FILE"),
        // By one or two letters where other programs have names with the same beginning.
        ("DATABASE_ULR", "DATABASE_URL"),
        ("DATABASE_URLS", "DATABASE_URL"),
        ("DATABASE_POOL_URI", "DATABASE_POOL_URL"),
        ("DATABASE_RAED_URL", "DATABASE_READ_URL"),
        ("REDIS_URL_FIEL", "REDIS_URL_FILE"),
        ("OTEL_EXPORTER_OTLP_ENPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"),
    ] {
        let ended = Shell { folder: shell.folder.clone(), variables: shell.variables.clone() }
            .with(name, "always")
            .run("serve")
            .await;
        assert_eq!(ended.code, 2, "{ended:?}");
        let text = format!("{name}: is not a variable of this program; did you mean {nearest}?");
        assert_eq!(ended.stderr, format!("customers: {text}\n"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn variables_of_other_programs_are_no_mistake() {
    let shell = Shell::migrated().await;
    let mut routes = shell.command("routes");
    for name in [
        "DATABASE_URI",
        "REDIS_URI",
        "DATABASE_HOST",
        "DATABASE_USER",
        "DATABASE_DSN",
        "DATABASE_POOL_SIZE",
        "DATABASE_WRITE_URL",
        "REDIS_HOST",
        "REDIS_PORT",
        "REDIS_TLS_URL",
        "REDIS_PASSWORD",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "OTEL_SERVICE_NAME",
    ] {
        routes.env(name, "of another program");
    }
    let ended = routes.output().await.unwrap();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    // Without ours beside it, it may be meant for ours.
    let shell = shell.without("REDIS_URL").with("REDIS_URI", "redis://127.0.0.1:6379");
    let ended = shell.run("serve").await;
    assert_eq!(ended.code, 2);
    let text = "REDIS_URI: is not a variable of this program; did you mean REDIS_URL?";
    assert_eq!(ended.stderr, format!("customers: {text}\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn variables_that_kubernetes_sets_for_its_services_are_no_mistake() {
    let shell = Shell::migrated().await;
    let routes = async |name: &str, value: &str| {
        shell.command("routes").env(name, value).output().await.unwrap()
    };
    // Services named customers, customers-postgresql, customers-service and customers-port.
    for start in ["CUSTOMERS", "CUSTOMERS_POSTGRESQL", "CUSTOMERS_SERVICE", "CUSTOMERS_PORT"] {
        for (ending, value) in [
            ("SERVICE_HOST", "10.0.0.1"),
            ("SERVICE_PORT", "5432"),
            ("SERVICE_PORT_TCP_POSTGRESQL", "5432"),
            ("PORT", "tcp://10.0.0.1:5432"),
            ("PORT_5432_TCP", "tcp://10.0.0.1:5432"),
            ("PORT_5432_TCP_ADDR", "10.0.0.1"),
            ("PORT_5432_TCP_PORT", "5432"),
            ("PORT_5432_TCP_PROTO", "tcp"),
            ("PORT_53_UDP", "udp://10.0.0.1:53"),
            ("PORT_9_SCTP_PROTO", "sctp"),
        ] {
            let name = format!("{start}_{ending}");
            let ended = routes(&name, value).await;
            assert!(ended.status.success(), "{name}: {ended:?}");
        }
    }
    // Those that look like ours stay mistakes.
    for (name, value) in [
        ("CUSTOMERS_PORT", "8080"),
        ("CUSTOMERS_LISTEN_PORT", "8080"),
        ("CUSTOMERS_SERVICE_NAME", "customers"),
        ("CUSTOMERS_PORT_HTTP", "8080"),
        ("CUSTOMERS_PORT_80_TCP_HOST", "10.0.0.1"),
        ("CUSTOMERS_LISTEN_HOST", "10.0.0.1"),
    ] {
        let ended = routes(name, value).await;
        assert_eq!(ended.status.code(), Some(2), "{name}: {ended:?}");
        let told = String::from_utf8(ended.stderr).unwrap();
        assert!(told.starts_with(&format!("customers: {name}: is not a variable")), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrate_says_what_it_applied_and_what_it_would_apply() {
    let shell = Shell::on(&empty_database().await);
    let planned = shell.run("migrate --dry-run").await;
    let applied = shell.run("migrate").await;
    assert_eq!((planned.code, applied.code), (0, 0), "{planned:?} {applied:?}");
    assert!(planned.stderr.starts_with("would apply 0001 "), "{planned:?}");
    assert_eq!(planned.stderr.replace("would apply", "applied"), applied.stderr);
    for arguments in ["migrate", "migrate --dry-run"] {
        assert_eq!(shell.run(arguments).await.stderr, "the schema is up to date\n");
    }
    migrate_by_newer_program(&shell.variables[0].1).await;
    let newer = shell.run("migrate").await;
    assert_eq!(newer.code, 0);
    assert!(
        newer.stderr.starts_with("the database is of a newer program (9999, mine "),
        "{newer:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_may_come_from_a_file() {
    let url = database().await;
    let shell = Shell::bare();
    let file = shell.folder.join("url").display().to_string();
    std::fs::write(&file, format!("{url}\n")).unwrap();
    let shell = shell.with("DATABASE_URL_FILE", file);
    let ended = shell.run("account list").await;
    assert_eq!(ended.code, 0, "{ended:?}");
    let ended = shell.with("DATABASE_URL_FILE", "missing").run("account list").await;
    assert_eq!(ended.code, 2, "{ended:?}");
    assert!(ended.stderr.starts_with("customers: DATABASE_URL: cannot read missing"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_unset_comes_from_a_running_customers_dev() {
    let url = database().await;
    let shell = Shell::bare();
    std::fs::create_dir(shell.folder.join(".customers")).unwrap();
    let env = format!("DATABASE_URL={url}\nREDIS_URL=redis://127.0.0.1:1\n");
    std::fs::write(shell.folder.join(".customers/env"), env).unwrap();
    assert_eq!(shell.run("account list").await.code, 0);
    let elsewhere = shell.with("DATABASE_URL", empty_database().await);
    assert_eq!(elsewhere.run("account list").await.code, 1, "a set variable has precedence");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serve_wants_a_migrated_schema_and_migrating_twice_is_fine() {
    let shell = Shell::on(&empty_database().await);
    let ended = shell.run("serve").await;
    assert_eq!((ended.code, ended.stdout.as_str()), (1, ""), "{ended:?}");
    assert!(ended.stderr.contains("`customers migrate`"), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    for _ in 0..2 {
        let ended = shell.run("migrate").await;
        assert_eq!((ended.code, ended.stdout.as_str()), (0, ""), "{ended:?}");
    }
    let (code, ..) = shell.serve().await.end(Signal::TERM).await;
    assert_eq!(code, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrate_takes_the_owners_address() {
    let shell = Shell::bare().with("CUSTOMERS_OWNER_DATABASE_URL", empty_database().await);
    assert_eq!(shell.run("migrate").await.code, 0);
    // The command does not connect to DATABASE_URL, but its role must exist: the migration grants it
    // its rights.
    let stranger = shell.with("DATABASE_URL", "postgres://a_stranger@127.0.0.1:1/none");
    let ended = stranger.run("migrate").await;
    assert_eq!(ended.code, 1);
    assert!(ended.stderr.contains("role \"a_stranger\" does not exist"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serve_says_where_it_listens_and_ends_in_time_when_told() {
    for signal in [Signal::TERM, Signal::INT] {
        let serving = Shell::migrated().await.serve().await;
        let url = format!("http://{}/livez", serving.address);
        let answer = crate::harness::client().get(url).send().await.unwrap();
        assert_eq!(answer.json::<Value>().await.unwrap()["status"], "ok");
        let (code, took, said) = serving.end(signal).await;
        assert_eq!((code, said), (Some(0), vec![]));
        assert!(took < Duration::from_secs(10), "{took:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_whether_the_service_is_ready() {
    let shell = Shell::migrated().await;
    let serving = shell.serve().await;
    let shell = shell.with("CUSTOMERS_LISTEN", &serving.address);
    let ended = shell.run("health").await;
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(serde_json::from_str::<Value>(&ended.stdout).unwrap()["status"], "ok");
    serving.end(Signal::TERM).await;
    let ended = shell.run("health").await;
    assert_eq!(ended.code, 1, "the service has stopped: {ended:?}");

    // A service that listens and is not ready.
    let shell = Shell::migrated().await.with("REDIS_URL", "redis://127.0.0.1:1");
    let serving = shell.serve().await;
    let ended = shell.with("CUSTOMERS_LISTEN", &serving.address).run("health").await;
    assert_eq!(ended.code, 1, "{ended:?}");
    let body: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(body["checks"]["redis"], "unavailable");
    serving.end(Signal::TERM).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_lists_the_table() {
    let table: Vec<_> = customers::api::routes()
        .into_iter()
        .map(|route| (route.method, route.path, route.role.map_or("-", Role::as_str)))
        .collect();
    assert!(table.len() > 10);
    let shell = Shell::bare();
    let ended = shell.run("routes").await;
    assert_eq!(ended.code, 0);
    let rows: Vec<Vec<&str>> =
        ended.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows, table.iter().map(|(m, p, r)| vec![*m, *p, *r]).collect::<Vec<_>>());
    let expected = table.iter().map(|(m, p, r)| json!({"method": m, "path": p, "role": r}));
    let ended = shell.run("routes --json").await;
    assert_eq!((ended.code, json_lines(&ended.stdout)), (0, expected.collect()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn help_lists_every_variable_and_misuse_is_two() {
    let shell = Shell::bare().with("DATABASE_URL", "postgres://me:hunter2@db/customers");
    let help = shell.run("--help").await;
    assert_eq!((help.code, help.stderr.as_str()), (0, ""));
    for variable in config::variables() {
        let line = help.stdout.lines().find(|line| {
            line.split_whitespace().next().is_some_and(|first| first == variable.name)
        });
        assert!(line.is_some_and(|line| line.starts_with("  ")), "{}", variable.name);
    }
    assert!(!help.stdout.contains("hunter2"));
    for misuse in ["", "wealth", "serve --fast", "demo", "projection", "account add ada"] {
        let ended = shell.run(misuse).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (2, ""), "{misuse}: {ended:?}");
    }
}
