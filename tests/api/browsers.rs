//! Pages in browsers: what they may send and read from another origin, and how they follow the stream.

use std::collections::BTreeSet;

use customers::api;
use customers::config::Config;
use customers::events::values::Role;
use reqwest::{Method, RequestBuilder};
use serde_json::json;

use crate::harness::{Answer, PASSWORD, Service, With as _, address_of, config, send};
use crate::stream::Listener;

const ORIGIN: &str = "https://console.example";

async fn service() -> Service {
    Service::with(Config { cors_origins: vec![ORIGIN.to_owned()], ..config().await }).await
}

/// The values of a header with a list.
fn listed(answer: &Answer, name: &str) -> BTreeSet<String> {
    let text = answer.header(name).unwrap_or_default();
    text.split(',').map(|part| part.trim().to_lowercase()).filter(|part| !part.is_empty()).collect()
}

/// What a browser asks before a page sends such a request.
async fn preflight(service: &Service, method: &str, path: &str, headers: &str) -> Answer {
    let request = service.request(Method::OPTIONS, path).header("origin", ORIGIN);
    let request = request.header("access-control-request-method", method);
    send(request.header("access-control-request-headers", headers)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_may_send_every_header_that_the_service_reads_and_those_of_tracing() {
    // Browsers sort the names and write them in lower case.
    let names = [
        "authorization",
        "content-type",
        "idempotency-key",
        "if-match",
        "if-none-match",
        "if-unmodified-since",
        "import-id",
        "last-event-id",
        "min-event-position",
        "prefer",
        "x-reason",
        "x-reason*",
        "x-request-id",
        // W3C Trace Context and Baggage, and what browsers' tracing libraries send beside them.
        "baggage",
        "traceparent",
        "tracestate",
        "b3",
        "sentry-trace",
        "x-b3-traceid",
        // Of common clients.
        "cache-control",
        "x-requested-with",
    ];
    let service = service().await;
    for name in names {
        let answer = preflight(&service, "PUT", "/customers/1", name).await;
        assert_eq!(answer.header("access-control-allow-origin"), Some(ORIGIN), "{name}");
        assert!(listed(&answer, "access-control-allow-headers").contains(name), "{name}");
    }
    let all = preflight(&service, "GET", "/events/stream", &names.join(",")).await;
    assert!(
        listed(&all, "access-control-allow-headers").is_superset(&names.map(str::to_owned).into())
    );
    // A cached answer is not that of another page.
    let varies = all.headers.get_all("vary").iter();
    let varies: Vec<_> = varies.map(|value| value.to_str().unwrap().to_lowercase()).collect();
    for name in ["origin", "access-control-request-headers"] {
        assert!(varies.iter().any(|vary| vary.contains(name)), "{varies:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_may_use_every_method_of_every_route() {
    let service = service().await;
    for route in api::routes() {
        let answer = preflight(&service, route.method, route.path, "authorization").await;
        let what = format!("{} {}", route.method, route.path);
        assert_eq!(answer.status, 200, "{what}");
        let methods = listed(&answer, "access-control-allow-methods");
        assert!(methods.contains(&route.method.to_lowercase()), "{what}: {methods:?}");
        assert_eq!(answer.header("access-control-allow-credentials"), Some("true"), "{what}");
    }
}

/// What every page may read (Fetch, section 3.3.2), what no page may read, and what is said to browsers,
/// proxies and caches only.
const NOT_OURS: [&str; 15] = [
    "cache-control",
    "content-length",
    "content-type",
    "set-cookie",
    "access-control-allow-credentials",
    "access-control-allow-origin",
    "access-control-expose-headers",
    "content-security-policy",
    "date",
    "referrer-policy",
    "strict-transport-security",
    "transfer-encoding",
    "vary",
    "x-accel-buffering",
    "x-content-type-options",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_may_read_every_header_that_is_meant_for_it() {
    let config =
        Config { cors_origins: vec![ORIGIN.to_owned()], rate_limit: 1000, ..config().await };
    let service = Service::with(config).await;
    let admin = service.log_in_as(Role::Admin).await;
    let ada = json!({"name": "Ada", "dob": "1990-12-10"});
    let create = || service.post("/customers").login(&admin).json(&ada);
    let once = || create().header("idempotency-key", "one").header("prefer", "respond-async");
    let mut requests: Vec<RequestBuilder> = vec![
        service.post("/login").json(&json!({"username": "admin", "password": PASSWORD})),
        create(),
        once(),
        once(),
        service.get("/customers/1").login(&admin).header("if-none-match", "*"),
        service.get("/customers?limit=1").login(&admin),
        // Refusals: 400, 401, 404, 405, 412, 415, 422.
        service.get("/customers?x=1").login(&admin),
        service.get("/customers"),
        service.get("/nothing"),
        service.put("/customers"),
        service.put("/customers/1").login(&admin).header("if-match", "\"9\"").json(&ada),
        service.post("/customers").login(&admin).body("{}"),
        service.post("/customers").login(&admin).header("content-encoding", "gzip").json(&ada),
        service.post("/customers").login(&admin).json(&json!({})),
    ];
    for route in api::routes().into_iter().filter(|route| route.method == "GET") {
        requests.push(service.get(&address_of(&route)).login(&admin));
    }
    let mut read = BTreeSet::new();
    for request in requests {
        let what = format!("{request:?}");
        let answer = request.header("origin", ORIGIN).send().await.unwrap();
        let exposed = answer.headers()["access-control-expose-headers"].to_str().unwrap();
        let exposed: BTreeSet<_> =
            exposed.split(',').map(|name| name.trim().to_lowercase()).collect();
        for name in answer.headers().keys().map(reqwest::header::HeaderName::as_str) {
            if !NOT_OURS.contains(&name) {
                assert!(exposed.contains(name), "{name} of {what}");
                read.insert(name.to_owned());
            }
        }
    }
    for name in ["allow", "etag", "idempotent-replayed", "preference-applied", "www-authenticate"] {
        assert!(read.contains(name), "no request had {name}: {read:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_polyfill_that_cannot_set_headers_again_resumes_by_its_query() {
    let service = Service::start().await;
    let auditor = service.log_in_as(Role::Auditor).await;
    let stream = |query: &str| service.get(&format!("/events/stream{query}")).login(&auditor);
    let first = Listener::of(stream("?after=0")).await;
    let log = first.header("event-log");
    // The polyfill repeats the URL, and appends the last `id`.
    for (query, at) in [
        ("?lastEventId=1".to_owned(), 1),
        ("?after=0&lastEventId=2".to_owned(), 2),
        ("?lastEventId=0&after=2".to_owned(), 0),
        (format!("?after=0&log={log}&lastEventId=1"), 1),
    ] {
        let mut resumed = Listener::of(stream(&query)).await;
        assert_eq!(resumed.at(), at, "{query}");
        assert_eq!(resumed.event().await.unwrap()["position"], at + 1, "{query}");
    }
    // The header is of this connection, the query may be of an earlier one.
    let both = Listener::of(stream("?after=0&lastEventId=1").header("last-event-id", "2")).await;
    assert_eq!(both.at(), 2);
    for id in ["", "x", "-1", "1.0", "999999", "1&lastEventId=1"] {
        let answer = send(stream(&format!("?after=0&lastEventId={id}"))).await;
        assert_eq!(answer.status, 400, "{id:?}");
        assert_eq!(answer.body["errors"][0]["field"], "lastEventId", "{id:?}");
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_pass_on_a_stream_as_it_comes_and_browsers_come_back() {
    let service = service().await;
    let auditor = service.log_in_as(Role::Auditor).await;
    let stream = service.get("/events/stream").login(&auditor).header("origin", ORIGIN);
    let stream = stream.header("accept-encoding", "gzip, br");
    let stream = Listener::of(stream).await;
    for (name, value) in [
        // nginx buffers otherwise; others compress, which buffers, too.
        ("x-accel-buffering", "no"),
        ("cache-control", "no-store, no-transform"),
        ("content-type", "text/event-stream"),
        ("access-control-allow-origin", ORIGIN),
    ] {
        assert_eq!(stream.header(name), value);
    }
    for name in ["content-length", "content-encoding"] {
        assert_eq!(stream.header(name), "", "{name}");
    }
    // The progress of an import is one, too.
    let editor = service.log_in_as(Role::Editor).await;
    let import = service.post("/customers/import").login(&editor);
    let import = import.header("content-type", "text/csv").body("name,dob\nAda,1990-12-10\n");
    assert_eq!(send(import).await.header("x-accel-buffering"), Some("no"));
    service.stop().await;
}
