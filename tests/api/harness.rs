//! The test harness: real servers for all tests, and one service per test.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use customers::api;
use customers::app::App;
use customers::auth::account::Accounts;
use customers::auth::fair_queue::Network;
use customers::auth::password::Passwords;
use customers::clock::{self, Clock};
use customers::config::Config;
use customers::dev::{Options, Servers};
use customers::events::log::read;
use customers::events::metadata::Metadata;
use customers::events::values::{Role, Username};
use customers::pools::Pools;
use customers::projections::projector::Projector;
use customers::schema;
use reqwest::{Client, Method, RequestBuilder, StatusCode, header};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio_util::sync::CancellationToken;

use crate::contract;

/// The password of every account that a test adds.
pub const PASSWORD: &str = "correct horse battery";

/// The longest that a test waits for a condition before it fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The addresses of PostgreSQL and Redis, shared by all tests of a run.
pub struct Urls {
    /// A database whose role may create databases.
    pub database: String,
    pub redis: String,
}

/// `DATABASE_URL` and `REDIS_URL` when both are set, else throw-away servers that end with this process.
pub fn urls() -> &'static Urls {
    static URLS: OnceLock<Urls> = OnceLock::new();
    URLS.get_or_init(|| {
        let set = |name| std::env::var(name).ok().filter(|url: &String| !url.is_empty());
        if let (Some(database), Some(redis)) = (set("DATABASE_URL"), set("REDIS_URL")) {
            return Urls { database: with_address(&database), redis };
        }
        start_servers()
    })
}

/// The URL with an address in place of the name of its host: tests put the address of a proxy there.
fn with_address(url: &str) -> String {
    let options: PgConnectOptions = url.parse().unwrap();
    let name = format!("{}:{}", options.get_host(), options.get_port());
    let addresses = name.to_socket_addrs().into_iter().flatten();
    match addresses.into_iter().find(SocketAddr::is_ipv4) {
        Some(address) => url.replacen(&format!("@{name}"), &format!("@{address}"), 1),
        None => url.to_owned(),
    }
}

/// Starts the throw-away servers on a thread of its own that never ends: they outlive the runtime of each
/// test. Their watchdogs stop them when this process ends.
fn start_servers() -> Urls {
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
    remove_folders_of_ended_runs(parent);
    let folder = parent.join(format!("servers-{}", std::process::id()));
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let options = Options { redis: true, ..postgres_alone(&folder, clock::random_bytes()) };
            let servers = Servers::start(options).await.unwrap();
            let url = |url: Option<&str>| url.unwrap().to_owned();
            let urls =
                Urls { database: url(servers.database_url()), redis: url(servers.redis_url()) };
            sender.send(urls).unwrap();
            std::future::pending::<()>().await;
        });
    });
    receiver.recv().unwrap()
}

/// The options of a throw-away PostgreSQL, without Redis, in this folder.
pub fn postgres_alone(folder: &Path, secret: [u8; 32]) -> Options {
    let folder = folder.to_path_buf();
    Options { folder, postgres: true, redis: false, secret, settings: vec![], throw_away: true }
}

/// Removes the folders of earlier runs whose process has ended.
fn remove_folders_of_ended_runs(parent: &Path) {
    for entry in std::fs::read_dir(parent).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.strip_prefix("servers-").and_then(|pid| pid.parse().ok()) else {
            continue;
        };
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        if rustix::process::test_kill_process(pid).is_err() {
            // A concurrent run may remove the folder first.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Deletes a key in the shared Redis or Redis Cluster; returns whether it existed.
pub async fn forget(key: &str) -> bool {
    let mut del = redis::cmd("DEL");
    del.arg(key);
    let nodes: Vec<&str> = urls().redis.split(',').collect();
    if let [url] = nodes[..] {
        let client = redis::Client::open(url).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        return del.query_async(&mut connection).await.unwrap();
    }
    let client = redis::cluster::ClusterClient::new(nodes).unwrap();
    let mut connection = client.get_async_connection().await.unwrap();
    del.query_async(&mut connection).await.unwrap()
}

/// The URL of the database with this name on the shared server.
pub fn database_url(name: &str) -> String {
    let url = &urls().database;
    let (base, options) = url.split_once('?').map_or((url.as_str(), None), |(b, o)| (b, Some(o)));
    let base = base.rsplit_once('/').unwrap().0;
    options.map_or(format!("{base}/{name}"), |options| format!("{base}/{name}?{options}"))
}

/// A name that is unique among all tests of all runs.
pub fn unique_name(kind: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let (pid, next) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let random = u16::from_be_bytes(clock::random_bytes());
    format!("test_{kind}_{pid}_{random}_{next}")
}

/// Creates an empty database, without the schema; returns its URL.
pub async fn empty_database() -> String {
    let name = unique_name("empty");
    let mut admin = PgConnection::connect(&urls().database).await.unwrap();
    admin.execute(format!("create database {name}").as_str()).await.unwrap();
    make_hostile(&mut admin, &name).await;
    database_url(&name)
}

/// With `CUSTOMERS_TEST_HOSTILE` all databases have foreign settings that the tests' own statements stand, and
/// idle connections are ended. `other_postgres` tries those that they do not stand.
async fn make_hostile(admin: &mut PgConnection, name: &str) {
    if std::env::var_os("CUSTOMERS_TEST_HOSTILE").is_none() {
        return;
    }
    for setting in [
        "default_transaction_isolation = serializable",
        "idle_session_timeout = '2s'",
        "datestyle = 'German, DMY'",
        "intervalstyle = sql_standard",
        "timezone = 'Asia/Kathmandu'",
        "bytea_output = escape",
        "array_nulls = off",
        "extra_float_digits = -15",
        "client_min_messages = debug1",
        "lc_messages = 'C'",
    ] {
        let alter = format!("alter database {name} set {setting}");
        admin.execute(alter.as_str()).await.unwrap();
    }
}

/// Creates a migrated database, as a copy of a template that is migrated once per run; returns its URL.
pub async fn database() -> String {
    // PostgreSQL copies a template only while no other session uses it.
    static COPYING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    static TEMPLATE: tokio::sync::OnceCell<String> = tokio::sync::OnceCell::const_new();
    let template = TEMPLATE
        .get_or_init(|| async {
            let url = empty_database().await;
            schema::migrate(&SecretString::from(url.clone()), None).await.unwrap();
            url.rsplit_once('/').unwrap().1.split('?').next().unwrap().to_owned()
        })
        .await;
    let _copying = COPYING.lock().await;
    let name = unique_name("db");
    let mut admin = PgConnection::connect(&urls().database).await.unwrap();
    admin.execute(format!("create database {name} template {template}").as_str()).await.unwrap();
    make_hostile(&mut admin, &name).await;
    database_url(&name)
}

/// A clock that only the test moves.
#[derive(Clone)]
pub struct Hands(Arc<Mutex<DateTime<Utc>>>);

impl Hands {
    /// Starts at a whole second close to the current time. Tokens are checked against this clock only.
    pub fn new() -> Self {
        let now = clock::from_unix(Clock::system().now().timestamp()).unwrap();
        Self(Arc::new(Mutex::new(now)))
    }

    pub fn forward(&self, seconds: i64) {
        *self.0.lock().unwrap() += TimeDelta::seconds(seconds);
    }

    pub fn clock(&self) -> Clock {
        let hands = self.clone();
        Clock::from_fn(move || *hands.0.lock().unwrap())
    }
}

/// The configuration of one service with a new database. It ignores the environment.
pub async fn config() -> Config {
    config_on(&database().await)
}

/// The same with an existing database.
pub fn config_on(database_url: &str) -> Config {
    let variables = variables(database_url);
    Config::from_lookup(|name| {
        variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone())
    })
    .unwrap()
}

/// The environment of one process of the service.
pub fn variables(database_url: &str) -> Vec<(&'static str, String)> {
    vec![
        ("DATABASE_URL", database_url.to_owned()),
        ("REDIS_URL", urls().redis.clone()),
        ("CUSTOMERS_REDIS_PREFIX", unique_name("redis")),
        ("CUSTOMERS_LISTEN", "127.0.0.1:0".to_owned()),
        ("CUSTOMERS_PUBLIC_URL", "http://customers.test".to_owned()),
        ("CUSTOMERS_KEYS_DIR", folder("keys").join("keys").display().to_string()),
        ("CUSTOMERS_RATE_LIMIT", "0".to_owned()),
        ("CUSTOMERS_ACCOUNT_LIMIT", "0".to_owned()),
        ("CUSTOMERS_SESSION_RATE", "0".to_owned()),
        ("CUSTOMERS_LOG", "warn".to_owned()),
    ]
}

/// Creates a folder that is unique to the caller.
pub fn folder(kind: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique_name(kind));
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// One service, as tasks of the test's process.
pub struct Service {
    pub address: SocketAddr,
    pub pools: Pools,
    pub projector: Projector,
    pub history: Projector,
    pub search: Projector,
    pub hands: Hands,
    pub config: Config,
    accounts: Accounts,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Service {
    /// Starts a service with a new database.
    pub async fn start() -> Self {
        Self::with(config().await).await
    }

    pub async fn with(config: Config) -> Self {
        let hands = Hands::new();
        let app = App::build(config.clone(), hands.clock()).await.unwrap();
        let stop = CancellationToken::new();
        let (address, pools) = (app.address(), app.pools().clone());
        let (projector, history) = (app.projector().clone(), app.history().clone());
        let search = app.search().clone();
        let accounts = Accounts::new(pools.accounts.clone(), pools.appender.clone());
        let task = tokio::spawn(app.run(stop.clone(), Duration::from_secs(5)));
        Self { address, pools, projector, history, search, hands, config, accounts, stop, task }
    }

    /// Waits until the read tables show the whole log.
    pub async fn caught_up(&self) {
        let head = read::head(&self.pools.short).await.unwrap();
        for projector in [&self.projector, &self.history, &self.search] {
            assert!(projector.wait_for_position(head, PATIENCE).await, "a projection lags");
        }
    }

    /// The accounts, as the command line changes them.
    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// For checks and changes that no route offers.
    pub fn database_url(&self) -> &str {
        self.config.database_url.as_ref().unwrap().expose_secret()
    }

    /// Stops the service and waits until its tasks have ended.
    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }

    /// Adds an account with the name of the role and [`PASSWORD`], and logs it in.
    pub async fn log_in_as(&self, role: Role) -> Login {
        self.add_account(role.as_str(), role).await;
        self.log_in(role.as_str()).await
    }

    /// Adds an account with [`PASSWORD`].
    pub async fn add_account(&self, name: &str, role: Role) {
        static HASH: tokio::sync::OnceCell<String> = tokio::sync::OnceCell::const_new();
        let hash = HASH
            .get_or_init(async || {
                let passwords = Passwords::new();
                let slot = passwords.slot(Network::LOCAL).await.unwrap();
                passwords.hash(slot, PASSWORD.to_owned()).await.unwrap()
            })
            .await;
        let name = Username::parse(name).unwrap();
        self.accounts.add(&name, hash, role, Metadata::of_program("test")).await.unwrap();
    }

    /// Opens a session of an account with [`PASSWORD`].
    pub async fn log_in(&self, name: &str) -> Login {
        let body = serde_json::json!({"username": name, "password": PASSWORD});
        let answer = send(self.post("/login").json(&body)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        Login {
            token: answer.body["access_token"].as_str().unwrap().to_owned(),
            cookie: answer.cookie().unwrap(),
        }
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        client().request(method, format!("http://{}{path}", self.address))
    }

    pub fn get(&self, path: &str) -> RequestBuilder {
        self.request(Method::GET, path)
    }

    pub fn post(&self, path: &str) -> RequestBuilder {
        self.request(Method::POST, path)
    }

    pub fn put(&self, path: &str) -> RequestBuilder {
        self.request(Method::PUT, path)
    }

    pub fn patch(&self, path: &str) -> RequestBuilder {
        self.request(Method::PATCH, path)
    }

    pub fn delete(&self, path: &str) -> RequestBuilder {
        self.request(Method::DELETE, path)
    }
}

/// An HTTP client that keeps no idle connections, because each test has its own runtime.
pub fn client() -> Client {
    Client::builder().pool_max_idle_per_host(0).timeout(PATIENCE).no_proxy().build().unwrap()
}

/// The credentials that a log-in returned.
#[derive(Debug, Clone)]
pub struct Login {
    pub token: String,
    /// The session cookie as the client sends it: `name=value`.
    pub cookie: String,
}

/// Adds the credentials of a log-in to a request.
pub trait With {
    /// Adds the token without the cookie.
    fn token(self, login: &Login) -> Self;
    /// Adds the token and the cookie.
    fn login(self, login: &Login) -> Self;
}

impl With for RequestBuilder {
    fn token(self, login: &Login) -> Self {
        self.bearer_auth(&login.token)
    }

    fn login(self, login: &Login) -> Self {
        self.bearer_auth(&login.token).header(header::COOKIE, &login.cookie)
    }
}

/// A response with its body.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: header::HeaderMap,
    pub text: String,
    /// Null when the body is not JSON.
    pub body: Value,
}

/// Sends a request and reads the whole response. Checks that it has a request id, and that an error is
/// problem details (RFC 9457), or one of the token endpoint (RFC 6749, section 5.2).
pub async fn send(request: RequestBuilder) -> Answer {
    let (client, request) = request.build_split();
    let request = request.unwrap();
    let (method, path) = (request.method().clone(), request.url().path().to_owned());
    let response = client.execute(request).await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let text = response.text().await.unwrap();
    let body = serde_json::from_str(&text).unwrap_or(Value::Null);
    let answer = Answer { status: status.as_u16(), headers, text, body };
    assert!(answer.header("x-request-id").is_some(), "no request id: {answer:?}");
    let is_of_tokens = path.ends_with("/oauth/token") && answer.body["error"].is_string();
    if is_of_tokens {
        assert_eq!(answer.header("content-type"), Some("application/json"), "{answer:?}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{answer:?}");
    } else if status.is_client_error() || status == StatusCode::INTERNAL_SERVER_ERROR {
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
        assert_eq!(answer.body["request_id"], answer.header("x-request-id").unwrap());
    }
    contract::check(&method, &path, &answer);
    answer
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The cookie of `Set-Cookie`, as the client sends it.
    pub fn cookie(&self) -> Option<String> {
        self.header("set-cookie").map(|cookie| cookie.split(';').next().unwrap().to_owned())
    }

    pub fn position(&self) -> i64 {
        self.header("event-position").unwrap().parse().unwrap()
    }

    /// Status and whole body on one line, with the values redacted that differ between runs.
    pub fn shape(&self) -> String {
        let mut body = self.body.clone();
        redact(&mut body);
        let body = if body.is_null() { self.text.clone() } else { body.to_string() };
        format!("{} {body}", self.status)
    }
}

/// Replaces ids, times and secrets with placeholders.
fn redact(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                match name.as_str() {
                    "request_id" if value.is_string() => *value = "[id]".into(),
                    "created_at" | "updated_at" | "at" => *value = "[time]".into(),
                    "access_token" => *value = "[token]".into(),
                    _ => redact(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Polls until the condition holds; panics with `what` after [`PATIENCE`].
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "timed out: {what}");
}

/// The media type of the route's body, and a body of it without values.
pub fn empty_body_of(route: &api::Route) -> (&'static str, &'static str) {
    match route.path {
        "/customers/import" => ("text/csv", "name,dob\n"),
        "/oauth/token" => ("application/x-www-form-urlencoded", ""),
        _ => ("application/json", "{}"),
    }
}

/// An address of the route: of customer 1, the account `admin`, and of a file and a type of problems that are there.
pub fn address_of(route: &api::Route) -> String {
    let values = [
        ("{id}", "1"),
        ("{external_id}", "crm-1"),
        ("{username}", "admin"),
        ("{file}", "start.js"),
        ("{slug}", "not-found"),
    ];
    values.iter().fold(route.path.to_owned(), |path, (name, value)| path.replace(name, value))
}
