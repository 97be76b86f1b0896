//! `/metrics`: every metric is explained and there from the start, and none is unknown when a server is away.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;

use customers::api;
use customers::events::values::Role;
use customers::telemetry::metrics::{Kind, METRICS, OF_PROCESS};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::harness::{Service, With as _, database, folder, send, until, variables};
use crate::lost_connections::server_of;
use crate::nginx::program;
use crate::own_redis::Redis;
use crate::process::{Process, command};
use crate::proxy::Proxy;

/// The text of `/metrics`, series by series.
pub struct Metrics {
    text: String,
    series: BTreeMap<String, f64>,
}

impl Metrics {
    pub async fn of(process: &Process) -> Self {
        let text = send(process.request(Method::GET, "/metrics")).await.text;
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let series = lines.map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
        });
        Self { series: series.collect(), text }
    }

    /// The value of a series; panics if there is none.
    pub fn value(&self, series: &str) -> f64 {
        *self.series.get(series).unwrap_or_else(|| panic!("no series {series}"))
    }
}

/// A process on a database of its own, whose metrics no other test counts in.
async fn process(more: &[(&str, &str)]) -> Process {
    let mut serve = command(&["serve"], &folder("metrics"));
    serve.envs(variables(&database().await)).envs(more.iter().copied());
    Process::start(serve).await
}

/// The metric of a series or of a name in an expression.
fn metric_of(name: &str) -> &str {
    let name = name.split('{').next().unwrap();
    let parts = ["_bucket", "_sum", "_count"];
    let base = parts.iter().find_map(|part| name.strip_suffix(part));
    let is_histogram = |base: &str| {
        METRICS.iter().any(|known| known.name == base && matches!(known.kind, Kind::Histogram(_)))
    };
    base.filter(|base| is_histogram(base)).unwrap_or(name)
}

fn is_known(metric: &str) -> bool {
    METRICS.iter().any(|known| known.name == metric)
        || OF_PROCESS.iter().any(|(known, _, _)| *known == metric)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_is_explained_and_there_from_the_start() {
    let process = process(&[]).await;
    let metrics = Metrics::of(&process).await;
    let there: BTreeSet<&str> = metrics.series.keys().map(|series| metric_of(series)).collect();
    for metric in METRICS.iter().filter(|metric| metric.only_with.is_none()) {
        let (name, kind, help) = (metric.name, metric.kind.name(), metric.help);
        assert!(there.contains(name), "{name} has no series");
        assert!(metrics.text.contains(&format!("# HELP {name} {help}\n")), "{name} has no help");
        assert!(metrics.text.contains(&format!("# TYPE {name} {kind}\n")), "{name} is no {kind}");
        assert_eq!(name.ends_with("_total"), metric.kind == Kind::Counter, "{name}");
    }
    for (name, kind, help) in OF_PROCESS {
        let head = format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} ");
        assert!(metrics.text.contains(&head), "{name}");
        assert!(metrics.value(name) > 0.0, "{name}");
    }
    let unknown: Vec<_> = there.into_iter().filter(|name| !is_known(name)).collect();
    assert_eq!(unknown, Vec::<&str>::new());
    assert!(metrics.series.values().all(|value| value.is_finite()), "{}", metrics.text);
    // Before the first request of a route, too.
    for route in api::routes() {
        let labels = format!(r#"method="{}",route="{}""#, route.method, route.path);
        for status in ["400", "500", "503"] {
            let series = format!(r#"customers_http_requests_total{{{labels},status="{status}"}}"#);
            assert!(metrics.value(&series) >= 0.0, "{series}");
        }
        let slow = format!(
            r#"customers_http_request_duration_seconds_bucket{{{labels},status="2xx",le="1"}}"#
        );
        assert!(metrics.value(&slow) >= 0.0, "{slow}");
    }
    for series in [
        r#"customers_tokens_refused_total{cause="expired"}"#,
        r#"customers_tokens_refused_total{cause="no_session"}"#,
        r#"customers_logins_total{outcome="throttled"}"#,
        "customers_token_replays_total",
        r#"customers_append_failures_total{cause="full"}"#,
        r#"customers_task_restarts_total{task="projector customers"}"#,
        r#"customers_account_slots_refused_total{kind="event streams"}"#,
        r#"customers_projection_parked{projection="customer_history"}"#,
    ] {
        assert!(metrics.value(series).abs() < f64::EPSILON, "{series}");
    }
    let version = env!("CARGO_PKG_VERSION");
    let build = format!(r#"customers_build_info{{version="{version}"}}"#);
    assert!((metrics.value(&build) - 1.0).abs() < f64::EPSILON);
    process.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_linter_of_prometheus_has_no_complaint() {
    let Some(promtool) = program("promtool") else { return };
    let process = process(&[]).await;
    let metrics = Metrics::of(&process).await;
    let mut lint = tokio::process::Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = lint.stdin.take().unwrap();
    input.write_all(metrics.text.as_bytes()).await.unwrap();
    drop(input);
    let output = lint.wait_with_output().await.unwrap();
    let complaints = [output.stdout, output.stderr].concat();
    let complaints = String::from_utf8_lossy(&complaints);
    assert!(output.status.success() && complaints.is_empty(), "{complaints}");
    process.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_write_costs_is_in_the_histograms() {
    let service = Service::start().await;
    service.add_account("editor", Role::Editor).await;
    let mut serve = command(&["serve"], &folder("metrics"));
    serve.envs(variables(service.database_url()));
    let process = Process::start(serve).await;
    let login = process.log_in("editor").await;
    for _ in 0..3 {
        let body = json!({"name": "Ada", "dob": "1990-12-10"});
        let create = process.request(Method::POST, "/customers").login(&login).json(&body);
        assert_eq!(send(create).await.status, 201);
    }
    assert_eq!(send(process.request(Method::GET, "/nothing")).await.status, 404);
    let metrics = Metrics::of(&process).await;
    let count = |series: &str, labels: &str| {
        let (bucket, count, sum) = if labels.is_empty() {
            (
                format!(r#"{series}_bucket{{le="+Inf"}}"#),
                format!("{series}_count"),
                format!("{series}_sum"),
            )
        } else {
            (
                format!(r#"{series}_bucket{{{labels},le="+Inf"}}"#),
                format!("{series}_count{{{labels}}}"),
                format!("{series}_sum{{{labels}}}"),
            )
        };
        let all = metrics.value(&bucket);
        assert!((metrics.value(&count) - all).abs() < f64::EPSILON, "{series}");
        assert!(all < 1.0 || metrics.value(&sum) > 0.0, "{series}");
        all
    };
    let creates = r#"method="POST",route="/customers",status="2xx""#;
    assert!((count("customers_http_request_duration_seconds", creates) - 3.0).abs() < f64::EPSILON);
    let nothing = r#"method="-",route="-",status="4xx""#;
    assert!((count("customers_http_request_duration_seconds", nothing) - 1.0).abs() < f64::EPSILON);
    for (series, labels) in [
        ("customers_append_wait_seconds", ""),
        ("customers_append_batch_commands", ""),
        ("customers_append_seconds", ""),
        ("customers_projection_delay_seconds", r#"projection="customers""#),
        ("customers_projection_page_events", r#"projection="customers""#),
        ("customers_pool_wait_seconds", r#"pool="read""#),
        ("customers_redis_call_duration_seconds", r#"outcome="ok""#),
    ] {
        assert!(count(series, labels) >= 1.0, "{series}");
    }
    assert!(
        (metrics.value(r#"customers_logins_total{outcome="opened"}"#) - 1.0).abs() < f64::EPSILON
    );
    assert!(metrics.value(r#"customers_pool_connections_max{pool="read"}"#) >= 1.0);
    process.kill().await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_server_the_last_values_stay_and_a_gauge_says_so() {
    let (url, mut redis) = (database().await, Redis::start(&[]).await);
    let proxy = Proxy::start(server_of(&url)).await;
    let mut serve = command(&["serve"], &folder("metrics"));
    serve.envs(variables(&proxy.url(&url))).env("REDIS_URL", redis.url());
    let process = Process::start(serve).await;
    let up = async || {
        let metrics = Metrics::of(&process).await;
        let lag = metrics.value(r#"customers_projection_lag_seconds{projection="customers"}"#);
        assert!(lag.is_finite(), "{}", metrics.text);
        (metrics.value("customers_postgres_up"), metrics.value("customers_redis_up"))
    };
    until("both are up", async || up().await == (1.0, 1.0)).await;
    redis.kill().await;
    until("Redis is down", async || up().await == (1.0, 0.0)).await;
    let target = server_of(&url);
    // Nothing listens there.
    proxy.move_to("127.0.0.1:1".parse().unwrap());
    proxy.cut_all();
    until("PostgreSQL is down", async || up().await == (0.0, 0.0)).await;
    proxy.move_to(target);
    until("PostgreSQL is up", async || up().await.0 > 0.5).await;
    process.kill().await;
}

/// Every name of a metric in a text of expressions.
fn names(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))
        .filter(|word| word.starts_with("customers_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

/// The texts of all members of this name.
fn members(value: &Value, name: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                match value {
                    Value::String(text) if key == name => found.push(text.clone()),
                    value => members(value, name, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| members(item, name, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn rules_and_dashboard_name_only_metrics_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    let rules: Value = serde_yaml_ng::from_str(&read("deploy/prometheus/alerts.yml")).unwrap();
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/customers.json")).unwrap();
    for (what, value) in [("alerts", rules), ("dashboard", dashboard)] {
        let mut expressions = vec![];
        members(&value, "expr", &mut expressions);
        assert!(expressions.len() >= 10, "{what} has {} expressions", expressions.len());
        let mut used = BTreeSet::new();
        for expression in &expressions {
            used.extend(names(expression));
        }
        let unknown: Vec<_> = used.iter().filter(|name| !is_known(metric_of(name))).collect();
        assert_eq!(unknown, Vec::<&String>::new(), "{what}");
    }
}

#[test]
fn the_documentation_lists_every_metric_as_it_is() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let docs = std::fs::read_to_string(docs).unwrap();
    let mut missing = vec![];
    let table = METRICS.iter().map(|metric| {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let only = metric.only_with.map(|name| format!("; only with `{name}`")).unwrap_or_default();
        let (name, kind, help) = (metric.name, metric.kind.name(), metric.help);
        format!("| `{name}` | {kind} | {} | {help}{only} |", labels.join(", "))
    });
    let of_process =
        OF_PROCESS.iter().map(|(name, kind, help)| format!("| `{name}` | {kind} |  | {help} |"));
    for row in table.chain(of_process) {
        if !docs.lines().any(|line| line == row) {
            missing.push(row);
        }
    }
    assert!(missing.is_empty(), "rows that docs/operations.md lacks:\n{}", missing.join("\n"));
    let (_, monitoring) = docs.split_once("\n## Monitoring\n").unwrap();
    let (monitoring, _) = monitoring.split_once("\n## ").unwrap();
    let unknown: Vec<String> =
        names(monitoring).into_iter().filter(|name| !is_known(metric_of(name))).collect();
    assert_eq!(unknown, Vec::<String>::new());
}

/// The rules and their tests are written for promtool.
#[tokio::test]
async fn every_alert_fires_when_it_should_and_is_silent_when_all_is_well() {
    let Some(promtool) = program("promtool") else { return };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus");
    let rules = std::fs::read_to_string(folder.join("alerts.yml")).unwrap();
    let tests = std::fs::read_to_string(folder.join("alerts_test.yml")).unwrap();
    let rules: Value = serde_yaml_ng::from_str(&rules).unwrap();
    let mut alerts = vec![];
    members(&rules, "alert", &mut alerts);
    assert!(alerts.len() >= 12, "{alerts:?}");
    let tests: Value = serde_yaml_ng::from_str(&tests).unwrap();
    let cases = tests["tests"].as_array().unwrap();
    // Each alert has a case in which it fires, and is silent in the case of a healthy service.
    let named = |fires: bool| -> BTreeSet<&str> {
        cases
            .iter()
            .flat_map(|case| case["alert_rule_test"].as_array().into_iter().flatten())
            .filter(|test| {
                test["exp_alerts"].as_array().is_some_and(|all| !all.is_empty()) == fires
            })
            .map(|test| test["alertname"].as_str().unwrap())
            .collect()
    };
    let alerts: BTreeSet<&str> = alerts.iter().map(String::as_str).collect();
    assert_eq!(named(true), alerts, "alerts with a case in which they fire");
    assert_eq!(named(false), alerts, "alerts that are silent on a healthy series");
    for arguments in [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]] {
        let run = tokio::process::Command::new(&promtool)
            .args(arguments)
            .current_dir(&folder)
            .output()
            .await
            .unwrap();
        let text = [run.stdout, run.stderr].concat();
        assert!(run.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&text));
    }
}
