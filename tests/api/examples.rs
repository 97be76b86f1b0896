//! The examples of the document: an answer that a test has really got, for each status and media type of each route, with
//! fixed values in place of ids, times and tokens. `RECORD_EXAMPLES=1 cargo test --test api` takes those that are missing,
//! and those that are simpler, into `src/api/openapi/examples.json`; then `customers openapi >openapi.json`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex};

use customers::api;
use customers::config::Config;
use customers::events::values::Role;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::contract::{self, DOCUMENT, check_json, essence};
use crate::harness::{Answer, Service, With as _, address_of, client, config, folder, send, until};
use crate::nginx::free_port;
use crate::process::command;

/// The longest example, in bytes. Of a text its first lines are taken.
const LONGEST: usize = 4096;

type Examples = BTreeMap<String, Value>;

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/api/openapi/examples.json")
}

fn stored() -> Examples {
    serde_json::from_str(&std::fs::read_to_string(file()).unwrap()).unwrap()
}

/// One example per line, so that two changes seldom meet.
fn store(examples: &Examples) {
    let line = |(key, value): (&String, &Value)| format!("{}:{value}", json!(key));
    let lines: Vec<String> = examples.iter().map(line).collect();
    std::fs::write(file(), format!("{{\n{}\n}}\n", lines.join(",\n"))).unwrap();
}

/// Takes an answer as an example of an operation, if it is better than the one that is there.
pub fn record(operation: &str, answer: &Answer) {
    static EXAMPLES: LazyLock<Mutex<Examples>> = LazyLock::new(|| {
        let documented: Vec<String> = answers().into_iter().map(|(key, _)| key).collect();
        let mut examples = stored();
        examples.retain(|key, _| documented.contains(key));
        Mutex::new(examples)
    });
    if std::env::var_os("RECORD_EXAMPLES").is_none() || answer.text.is_empty() {
        return;
    }
    let Some(example) = example(answer) else { return };
    let key = format!("{operation} {} {}", answer.status, essence(answer));
    let mut examples = EXAMPLES.lock().unwrap();
    if examples.get(&key).is_none_or(|known| cost(&example) < cost(known)) {
        examples.insert(key, example);
        store(&examples);
    }
}

/// Lists with something in them come first, then the usual customer and what is wrong by field, then what is short;
/// then the order of the alphabet, so that a repetition takes the same.
fn cost(example: &Value) -> (bool, bool, usize, String) {
    let text = example.to_string();
    let is_usual = text.contains("\"Ada\"") || text.contains("\"errors\"");
    (text.contains("[]"), !is_usual, text.len(), text)
}

/// The body as it stands in the document; `None` if it is too long.
fn example(answer: &Answer) -> Option<Value> {
    let text = plain(&answer.text);
    let json = match essence(answer) {
        // The document describes a line.
        "application/x-ndjson" => text.lines().next_back(),
        essence => essence.ends_with("json").then_some(text.as_str()),
    };
    let example = if let Some(json) = json {
        let mut value = serde_json::from_str(json).ok()?;
        replace(&mut value);
        value
    } else {
        let mut length = 0;
        let lines = text.split_inclusive('\n').take_while(|line| {
            length += line.len();
            length <= LONGEST / 2
        });
        Value::String(lines.collect())
    };
    let length = example.to_string().len();
    (length > 2 && length <= LONGEST).then_some(example)
}

const ID: &str = "0192f0c1-2f0a-7000-8000-000000000001";
const TIME: &str = "2026-01-31T12:00:00.000000Z";
const OPAQUE: &str = "eyJhIjoxfQ";

/// A secret of the right form, whose checksum is wrong.
const NO_SECRET: &str = "customers_sk_0000000000000000000000000000000000000000000000000";

/// The text with fixed values in place of UUIDs and times.
fn plain(text: &str) -> String {
    let shapes = [
        ("xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx", ID),
        ("0000-00-00T00:00:00.000000Z", TIME),
        ("0000-00-00T00:00:00Z", TIME),
    ];
    let fits = |text: &str, shape: &str| {
        text.len() == shape.len()
            && text.bytes().zip(shape.bytes()).all(|(byte, wanted)| match wanted {
                b'x' => byte.is_ascii_hexdigit(),
                b'0' => byte.is_ascii_digit(),
                wanted => byte == wanted,
            })
    };
    let (mut plain, mut rest) = (String::new(), text);
    while let Some(c) = rest.chars().next() {
        let found = shapes
            .iter()
            .find(|(shape, _)| rest.get(..shape.len()).is_some_and(|start| fits(start, shape)));
        if let Some((shape, fixed)) = found {
            plain.push_str(fixed);
            rest = &rest[shape.len()..];
        } else {
            plain.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    plain
}

/// Replaces secrets, cursors and keys by fixed values.
fn replace(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                match name.as_str() {
                    "access_token" | "next" | "x" if value.is_string() => *value = OPAQUE.into(),
                    "client_secret" if value.is_string() => *value = NO_SECRET.into(),
                    // Another one for each request, and perhaps the client's own.
                    "request_id" if value.is_string() => *value = ID.into(),
                    "lag_seconds" | "per_second" | "seconds_left" if value.is_number() => {
                        *value = 0.into();
                    }
                    _ => replace(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(replace),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Every answer of the document that has a body, by the name of its example: `GET /customers 200 application/json`.
fn answers() -> Vec<(String, &'static Value)> {
    let object = |value: &'static Value| value.as_object().into_iter().flatten();
    let mut found = vec![];
    for (path, item) in object(&DOCUMENT["paths"]) {
        for (method, operation) in object(item) {
            for (status, answer) in object(&operation["responses"]) {
                for (media_type, content) in object(&answer["content"]) {
                    let method = method.to_ascii_uppercase();
                    found.push((format!("{method} {path} {status} {media_type}"), content));
                }
            }
        }
    }
    found
}

/// Why an answer may have no example; `None` if it must have one.
fn excuse(key: &str) -> Option<&'static str> {
    match key {
        key if key.contains(" 500 ") => Some("no request is known that an answer of 500 follows"),
        "GET /livez 503 application/problem+json" | "GET /readyz 503 application/problem+json" => {
            Some("only when the process has hung for the time limit of a request")
        }
        "GET /openapi.json 200 application/json" => Some("it is the document itself"),
        "GET /docs/{file} 200 text/css" => Some("a file of Swagger UI in one line"),
        _ => None,
    }
}

#[test]
fn every_answer_of_the_document_has_an_example_that_was_really_given() {
    let stored = stored();
    let lacking: Vec<String> = answers()
        .into_iter()
        .map(|(key, _)| key)
        .filter(|key| !stored.contains_key(key) && excuse(key).is_none())
        .collect();
    assert_eq!(lacking, Vec::<String>::new(), "see the head of tests/api/examples.rs");
}

#[test]
fn every_example_is_of_an_answer_of_the_document_and_fits_it() {
    let documented: BTreeMap<String, &Value> = answers().into_iter().collect();
    for (key, example) in stored() {
        let content =
            documented.get(&key).unwrap_or_else(|| panic!("{key} is not in the document"));
        assert_eq!(content["example"], example, "{key}: not in the document");
        assert_eq!(check_json(&content["schema"], &example), Vec::<String>::new(), "{key}");
        let text = content["example"].to_string();
        assert_eq!(plain(&text), text, "{key}: an id or a time of the day when it was recorded");
    }
}

/// A request to the route.
fn request(url: &str, route: &api::Route) -> reqwest::RequestBuilder {
    let method: Method = route.method.parse().unwrap();
    client().request(method, format!("{url}{}", address_of(route)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_counts_for_the_limit_of_a_client() {
    let service = Service::with(Config { rate_limit: 1, ..config().await }).await;
    let url = format!("http://{}", service.address);
    for route in api::routes() {
        let mut answer = send(request(&url, &route)).await;
        for _ in 0..100 {
            if answer.status == 429 {
                break;
            }
            answer = send(request(&url, &route)).await;
        }
        let what = format!("{} {}", route.method, route.path);
        assert_eq!((answer.status, answer.header("retry-after")), (429, Some("1")), "{what}");
        assert_eq!(answer.body["type"], "/problems/rate-limited", "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_says_that_the_service_waits_for_its_database() {
    let port = free_port();
    let mut serve = command(&["serve"], &folder("examples"));
    serve
        .env("DATABASE_URL", format!("postgres://customers@127.0.0.1:{}/away", free_port()))
        .env("REDIS_URL", "redis://127.0.0.1:1")
        .env("CUSTOMERS_LISTEN", format!("127.0.0.1:{port}"))
        .env("CUSTOMERS_LOG", "off");
    let mut process = serve.spawn().unwrap();
    let url = format!("http://127.0.0.1:{port}");
    until("it listens", async || client().get(format!("{url}/livez")).send().await.is_ok()).await;
    for route in api::routes() {
        let what = format!("{} {}", route.method, route.path);
        let answer = send(request(&url, &route)).await;
        let told = match route.path {
            "/livez" | "/readyz" => &answer.body["status"],
            _ => &answer.body["type"],
        };
        let expected = match route.path {
            "/livez" => (200, "ok"),
            "/readyz" => (503, "unavailable"),
            _ => (503, "/problems/unavailable"),
        };
        assert_eq!((answer.status, told.as_str().unwrap()), expected, "{what}");
    }
    process.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_with_a_body_refuses_a_type_that_it_does_not_take() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    let url = format!("http://{}", service.address);
    for route in api::routes() {
        let operation = &DOCUMENT["paths"][route.path][route.method.to_ascii_lowercase()];
        if operation["requestBody"].is_null() {
            continue;
        }
        let asked = request(&url, &route).login(&admin);
        let answer = send(asked.header("content-type", "application/pdf").body("%PDF-1.7")).await;
        assert_eq!(answer.status, 415, "{} {}", route.method, route.path);
        assert!(answer.header("accept").is_some(), "{} {}", route.method, route.path);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_begins_as_the_document_says() {
    let service = Service::start().await;
    let auditor = service.log_in_as(Role::Auditor).await;
    let request = service.get("/events/stream?after=0").login(&auditor);
    let mut response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let mut text = String::new();
    // Where it begins, and two events.
    while text.matches("\n\n").count() < 3 {
        let chunk = response.chunk().await.unwrap().expect("the stream goes on");
        text += std::str::from_utf8(&chunk).unwrap();
    }
    text.truncate(text.rfind("\n\n").unwrap() + 2);
    let answer = Answer { status, headers, text, body: Value::Null };
    contract::check(&Method::GET, "/events/stream", &answer);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_read_refuses_a_version_that_it_does_not_show() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    let ada = json!({"name": "Ada", "dob": "1990-12-10"});
    assert_eq!(send(service.post("/customers").login(&admin).json(&ada)).await.status, 201);
    for route in api::routes().into_iter().filter(|route| route.method == "GET") {
        let request = service.get(&address_of(&route)).login(&admin);
        let answer = send(request.header("if-match", "\"other\"")).await;
        let told = (answer.status, answer.body["type"].as_str().unwrap());
        assert_eq!(told, (412, "/problems/version-mismatch"), "{}", route.path);
    }
}

/// Sends a head without a body; returns the answer.
async fn answer_to(service: &Service, head: &str) -> Answer {
    let mut stream = TcpStream::connect(service.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, text) = text.split_once("\r\n\r\n").unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines.map(|line| line.split_once(": ").unwrap());
    let headers = headers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    let (headers, body) = (headers.collect(), serde_json::from_str(text).unwrap());
    Answer { status, headers, text: text.to_owned(), body }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_says_how_large_a_body_may_be() {
    let service = Service::start().await;
    for route in api::routes() {
        let (path, limit) = (address_of(&route), route.limits.body);
        let head = format!(
            "{} {path} HTTP/1.1\r\nHost: customers.test\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            route.method,
            limit + 1
        );
        let answer = answer_to(&service, &head).await;
        let detail = format!("the body must have at most {limit} bytes");
        assert_eq!((answer.status, &answer.body["detail"]), (413, &json!(detail)), "{path}");
        contract::check(&route.method.parse().unwrap(), &path, &answer);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_that_cannot_replace_its_table_is_refused() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    let mut owner = PgConnection::connect(service.database_url()).await.unwrap();
    let refer = "create table theirs (customer bigint references customers (id))";
    owner.execute(refer).await.unwrap();
    let rebuild = || send(service.post("/projections/customers/rebuild").login(&admin));
    let refused = rebuild().await;
    let told = (refused.status, refused.body["type"].as_str().unwrap());
    assert_eq!(told, (409, "/problems/obstructed"), "{refused:?}");
    owner.execute("drop table theirs").await.unwrap();
    assert_eq!(rebuild().await.status, 202);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_one_deletion_is_none_of_another() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    let ada = json!({"name": "Ada", "dob": "1990-12-10"});
    for _ in 0..2 {
        assert_eq!(send(service.post("/customers").login(&editor).json(&ada)).await.status, 201);
    }
    let delete = |path: &str| {
        send(service.delete(path).login(&editor).header("idempotency-key", "the-same"))
    };
    assert_eq!(delete("/customers/1").await.status, 200);
    for path in ["/customers/2", "/customers/delete?id=2"] {
        let answer = delete(path).await;
        let told = (answer.status, answer.body["type"].as_str().unwrap());
        assert_eq!(told, (422, "/problems/idempotency-mismatch"), "{path}");
    }
}
