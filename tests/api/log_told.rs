//! What the log tells an operator: a line for each request, for each refused token, for trouble and for its end.

use std::path::{Path, PathBuf};

use customers::events::values::Role;
use futures_util::future::join_all;
use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Login, Service, With as _, database, folder, send, until, urls, variables};
use crate::lost_connections::server_of;
use crate::metrics::Metrics;
use crate::own_redis::Redis;
use crate::process::{Process, command};
use crate::proxy::Proxy;

/// A process of the service and its log, in JSON.
pub struct Logged {
    pub process: Process,
    log: PathBuf,
}

impl Logged {
    /// On this database, with these variables besides.
    pub async fn start(database_url: &str, filter: &str, more: &[(&str, &str)]) -> Self {
        let folder = folder("logged");
        let log = folder.join("log");
        let mut serve = command(&["serve"], &folder);
        serve.envs(variables(database_url));
        serve.env("CUSTOMERS_LOG", filter).env("CUSTOMERS_LOG_FORMAT", "json");
        serve.envs(more.iter().copied()).stderr(std::fs::File::create(&log).unwrap());
        Self { process: Process::start(serve).await, log }
    }

    pub fn text(&self) -> String {
        text(&self.log)
    }

    /// The lines so far with this message.
    pub fn told(&self, message: &str) -> Vec<Value> {
        told(&self.text(), message)
    }

    /// Ends the process; returns its whole log.
    pub async fn end(self) -> String {
        assert_eq!(self.process.end(Signal::TERM).await, Some(0));
        text(&self.log)
    }
}

fn text(log: &Path) -> String {
    std::fs::read_to_string(log).unwrap()
}

fn told(log: &str, message: &str) -> Vec<Value> {
    // The last line may be written only in part.
    let lines = log.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let lines = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["fields"]["message"] == message).collect()
}

/// A database with the account `editor`.
async fn database_with_editor() -> String {
    let service = Service::start().await;
    service.add_account("editor", Role::Editor).await;
    let url = service.database_url().to_owned();
    service.stop().await;
    url
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_line_tells_each_request_and_nothing_personal() {
    let logged = Logged::start(&database_with_editor().await, "info", &[]).await;
    let process = &logged.process;
    let login = process.log_in("editor").await;
    let ask = |method: Method, path: &str, id: &str| {
        process.request(method, path).login(&login).header("x-request-id", id)
    };
    let body = json!({"name": "Zaphod", "dob": "1990-12-10"});
    let created = send(ask(Method::POST, "/customers", "create").json(&body)).await;
    assert_eq!(created.status, 201);
    send(ask(Method::GET, "/customers/1?name=Zaphod", "bad")).await;
    send(ask(Method::GET, "/nothing/Zaphod", "nowhere")).await;
    send(ask(Method::PATCH, "/customers", "no-method")).await;
    ask(Method::HEAD, "/customers/1", "head").send().await.unwrap();
    // Probes are told only while something is wrong.
    send(ask(Method::GET, "/livez", "probe")).await;
    let log = logged.end().await;
    assert!(!log.contains("Zaphod"), "{log}");
    let lines = told(&log, "request answered");
    let of = |id: &str| -> Value {
        let found: Vec<_> =
            lines.iter().filter(|line| line["fields"]["request_id"] == id).collect();
        assert_eq!(found.len(), 1, "{id}: {log}");
        assert_eq!(
            (&found[0]["level"], &found[0]["target"]),
            (&json!("INFO"), &json!("customers::access"))
        );
        let mut fields = found[0]["fields"].clone();
        assert!(fields["seconds"].as_f64().unwrap() > 0.0);
        for varies in ["seconds", "bytes", "message", "request_id"] {
            fields.as_object_mut().unwrap().remove(varies);
        }
        fields
    };
    let line = |method: &str, route: &str, status: u16| json!({"method": method, "route": route, "status": status});
    assert_eq!(of("create"), line("POST", "/customers", 201));
    assert_eq!(of("bad"), line("GET", "/customers/{id}", 400));
    assert_eq!(of("nowhere"), line("GET", "-", 404));
    assert_eq!(of("no-method"), line("PATCH", "-", 405));
    assert_eq!(of("head"), line("HEAD", "/customers/{id}", 200));
    let bytes = lines.iter().find(|line| line["fields"]["request_id"] == "create").unwrap();
    assert_eq!(bytes["fields"]["bytes"], created.text.len());
    assert!(!log.contains("probe"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_spans_of_a_request_lead_from_its_line_to_the_statement() {
    let filter = "debug";
    let logged = Logged::start(&database_with_editor().await, filter, &[]).await;
    let login = logged.process.log_in("editor").await;
    let create = logged.process.request(Method::POST, "/customers").login(&login);
    let body = json!({"name": "Ada", "dob": "1990-12-10"});
    let create = create.header("x-request-id", "call-7").json(&body);
    assert_eq!(send(create).await.status, 201);
    let log = logged.end().await;
    // sqlx tells each statement.
    let statements =
        log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).filter(|line| {
            line["target"] == "sqlx::query" && line["spans"][0]["request_id"] == "call-7"
        });
    let path = |line: Value| -> Vec<String> {
        let spans = line["spans"].as_array().unwrap().clone();
        spans.iter().map(|span| span["name"].as_str().unwrap().to_owned()).collect()
    };
    let paths: Vec<_> = statements.map(path).collect();
    let of_append = ["request", "command", "append", "append_batch", "sql"];
    assert!(paths.iter().any(|path| *path == of_append), "{paths:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_token_leaves_one_line_with_its_cause() {
    let logged = Logged::start(&database_with_editor().await, "info", &[]).await;
    let process = &logged.process;
    let login = process.log_in("editor").await;
    let ask = async |token: &str, id: &str| {
        let request = process.request(Method::GET, "/customers?numbers=0");
        let answer = send(request.bearer_auth(token).header("x-request-id", id)).await;
        assert_eq!(answer.status, 401, "{id}");
    };
    let other = Logged::start(&database_with_editor().await, "warn", &[]).await;
    let foreign = other.process.log_in("editor").await;
    other.end().await;
    let (signed, signature) = login.token.rsplit_once('.').unwrap();
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    let forged = format!("{signed}.{first}{}", &signature[1..]);
    let logout = process.request(Method::DELETE, "/logout").login(&login);
    let ended: Login = process.log_in("editor").await;
    assert_eq!(send(logout).await.status, 200);
    ask("a.b.c", "malformed").await;
    ask(&forged, "signature").await;
    ask(&foreign.token, "unknown_key").await;
    ask(&login.token, "no_session").await;
    let bound = process.request(Method::GET, "/customers?numbers=0").login(&ended);
    assert_eq!(send(bound).await.status, 200);
    ask(&ended.token, "replay").await;
    let metrics = Metrics::of(process).await;
    for cause in ["malformed", "signature", "unknown_key", "no_session", "replay"] {
        let lines = logged.told("token refused");
        let lines: Vec<_> =
            lines.iter().filter(|line| line["fields"]["request_id"] == cause).collect();
        assert_eq!(lines.len(), 1, "{cause}: {}", logged.text());
        assert_eq!(
            (&lines[0]["fields"]["cause"], &lines[0]["level"]),
            (&json!(cause), &json!("INFO"))
        );
        let series = format!(r#"customers_tokens_refused_total{{cause="{cause}"}}"#);
        assert!((metrics.value(&series) - 1.0).abs() < f64::EPSILON, "{series}");
    }
    assert!((metrics.value("customers_token_replays_total") - 1.0).abs() < f64::EPSILON);

    // Of many at once a few have a line, and a line says how many have none.
    join_all((0..300).map(|_| ask("a.b.c", "many"))).await;
    let left_out = "token refused: further lines of this second were left out";
    let counted = || {
        let lines = logged.told("token refused");
        let lines = lines.iter().filter(|line| line["fields"]["request_id"] == "many").count();
        let left_out: u64 = logged
            .told(left_out)
            .iter()
            .map(|line| line["fields"]["suppressed"].as_u64().unwrap())
            .sum();
        (lines as u64, left_out)
    };
    until("all are accounted for", async || {
        let (lines, left_out) = counted();
        lines + left_out == 300
    })
    .await;
    assert!(counted().1 > 0, "{:?}", counted());
    logged.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trouble_and_its_end_are_told_equally_loud() {
    let url = database_with_editor().await;
    let (mut redis, proxy) = (Redis::start(&[]).await, Proxy::start(server_of(&url)).await);
    let more = [("REDIS_URL", &*redis.url())];
    let logged = Logged::start(&proxy.url(&url), "warn", &more).await;
    let ready = async || send(logged.process.request(Method::GET, "/readyz")).await.status == 200;
    until("it is ready", ready).await;
    redis.kill().await;
    until("Redis is missed", async || {
        !logged.told("redis: answers again").is_empty() || !ready().await
    })
    .await;
    redis.start_again().await;
    until("it is ready", ready).await;
    proxy.move_to("127.0.0.1:1".parse().unwrap());
    proxy.cut_all();
    until("PostgreSQL is missed", async || !logged.told("postgres: no answer").is_empty()).await;
    proxy.move_to(server_of(&url));
    until("it is ready", ready).await;
    for message in ["redis: answers again", "postgres: answers again"] {
        until(message, async || !logged.told(message).is_empty()).await;
        let lines = logged.told(message);
        assert_eq!(lines[0]["level"], "WARN");
        assert!(lines[0]["fields"]["away"].as_str().unwrap().ends_with('s'), "{lines:?}");
    }
    let log = logged.end().await;
    assert!(log.contains("redis: a call failed"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_tells_version_address_and_servers_and_no_password() {
    let url = database().await;
    let redis = Redis::start(&["--requirepass", "redis-secret-4711"]).await;
    let redis_url = format!("redis://:redis-secret-4711@{}/0", redis.address());
    let logged = Logged::start(&url, "info", &[("REDIS_URL", &redis_url)]).await;
    let address = logged.process.url.strip_prefix("http://").unwrap().to_owned();
    let log = logged.end().await;
    let lines = told(&log, "start: customers");
    assert_eq!(lines.len(), 1, "{log}");
    let fields = &lines[0]["fields"];
    assert_eq!(fields["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(fields["address"], address);
    let database = url.rsplit('/').next().unwrap().split('?').next().unwrap();
    let port = server_of(&url).port();
    assert!(
        fields["postgres"].as_str().unwrap().ends_with(&format!(":{port}/{database}")),
        "{fields}"
    );
    assert_eq!(fields["redis"], redis.address().to_string());
    assert!(!log.contains("redis-secret-4711"), "{log}");
    let (user, _) = urls().database.split_once("://").unwrap().1.split_once('@').unwrap();
    if let Some((_, password)) = user.split_once(':') {
        assert!(!log.contains(password), "{log}");
    }
}
