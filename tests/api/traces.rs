//! Traces: a change in the log names the span that made it, and the collector has that span. A collector that is away
//! costs nothing.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use customers::events::values::Role;
use reqwest::Method;
use rustix::process::Signal;
use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::harness::{PATIENCE, Service, With as _, folder, send, until, variables};
use crate::metrics::Metrics;
use crate::process::{Process, command};

/// What a collector was sent: the heads and the bodies of requests, one after the other.
#[derive(Clone, Default)]
struct Received(Arc<Mutex<(String, Vec<u8>)>>);

impl Received {
    fn heads(&self) -> String {
        self.0.lock().unwrap().0.clone()
    }

    fn has(&self, bytes: &[u8]) -> bool {
        self.0.lock().unwrap().1.windows(bytes.len()).any(|window| window == bytes)
    }
}

/// A collector that takes every batch.
async fn collector() -> (SocketAddr, Received) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, received) = (listener.local_addr().unwrap(), Received::default());
    let shared = received.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(take(stream, shared.clone()));
        }
    });
    (address, received)
}

async fn take(mut stream: TcpStream, received: Received) {
    let mut bytes = vec![];
    let (head, length) = loop {
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece).await.unwrap();
        bytes.extend_from_slice(&piece[..read]);
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            break (head.clone(), end + 4 + length.unwrap().parse::<usize>().unwrap());
        }
        assert!(read > 0, "the request is not whole");
    };
    while bytes.len() < length {
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece).await.unwrap();
        assert!(read > 0, "the body is not whole");
        bytes.extend_from_slice(&piece[..read]);
    }
    {
        let mut received = received.0.lock().unwrap();
        received.0.push_str(&head);
        received.1.extend_from_slice(&bytes);
    }
    let answer =
        b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
    let _ = stream.write_all(answer).await;
}

/// A process with this collector, on the database of a service that has an editor.
async fn process(service: &Service, collector: SocketAddr, more: &[(&str, &str)]) -> Process {
    let mut serve = command(&["serve"], &folder("traces"));
    serve.envs(variables(service.database_url()));
    serve.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{collector}"));
    Process::start({
        serve.envs(more.iter().copied());
        serve
    })
    .await
}

/// The `traceparent` of the last event of the log.
async fn recorded(service: &Service) -> Option<String> {
    let mut connection = PgConnection::connect(service.database_url()).await.unwrap();
    sqlx::query_scalar(
        "select metadata ->> 'traceparent' from events order by position desc limit 1",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap()
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let pairs = hex.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_names_the_span_that_the_collector_has() {
    let service = Service::start().await;
    service.add_account("editor", Role::Editor).await;
    let (address, received) = collector().await;
    let more = [
        ("OTEL_SERVICE_NAME", "registry-4711"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=trial-4711"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=tenant-4711"),
    ];
    let process = process(&service, address, &more).await;
    let login = process.log_in("editor").await;
    let create = async |traceparent: Option<String>| {
        let body = json!({"name": "Zaphod", "dob": "1911-11-17"});
        let mut create = process.request(Method::POST, "/customers").login(&login).json(&body);
        if let Some(traceparent) = traceparent {
            create = create.header("traceparent", traceparent);
        }
        assert_eq!(send(create).await.status, 201);
        recorded(&service).await
    };
    // The caller's trace goes on, in a span of our own.
    let shown = create(Some(format!("00-{TRACE}-{CALLER}-01"))).await.unwrap();
    let span = shown.strip_prefix(&format!("00-{TRACE}-")).unwrap().strip_suffix("-01").unwrap();
    assert_ne!(span, CALLER);
    // Without a caller's trace one begins.
    let begun = create(None).await.unwrap();
    let (begun, begun_span) = (begun[3..35].to_owned(), begun[36..52].to_owned());
    assert_ne!(begun, TRACE);
    // A caller that does not record its trace keeps it for itself.
    let other = TRACE.replace("0af7", "1bf8");
    let unsampled = format!("00-{other}-{CALLER}-00");
    assert_eq!(create(Some(unsampled.clone())).await, Some(unsampled));

    assert_eq!(process.end(Signal::TERM).await, Some(0));
    // The end of the process has sent the last spans.
    for id in [TRACE, CALLER, span, &begun, &begun_span] {
        assert!(received.has(&bytes_of(id)), "{id} was not sent");
    }
    assert!(!received.has(&bytes_of(&other)), "what is not recorded was sent");
    for text in [
        "registry-4711",
        "trial-4711",
        "service.version",
        "POST /customers",
        "http.response.status_code",
        "command",
        "append_batch",
        "sql",
        "redis",
    ] {
        assert!(received.has(text.as_bytes()), "{text} was not sent");
    }
    let heads = received.heads();
    assert!(
        heads.contains("post /v1/traces http/1.1") && heads.contains("x-tenant: tenant-4711"),
        "{heads}"
    );
    assert!(heads.contains("content-type: application/x-protobuf"), "{heads}");
    for secret in ["Zaphod", "1911-11-17", &login.token] {
        assert!(!received.has(secret.as_bytes()), "{secret} was sent");
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_or_silent_slows_and_stops_nothing() {
    let service = Service::start().await;
    service.add_account("editor", Role::Editor).await;
    // It takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for (what, address) in
        [("away", "127.0.0.1:1".parse().unwrap()), ("silent", silent.local_addr().unwrap())]
    {
        // A batch every 50 ms.
        let process = process(&service, address, &[("OTEL_BSP_SCHEDULE_DELAY", "50")]).await;
        let login = process.log_in("editor").await;
        let began = Instant::now();
        for _ in 0..100 {
            let read = process.request(Method::GET, "/customers?numbers=1").login(&login);
            assert_eq!(send(read).await.status, 200, "{what}");
        }
        assert!(began.elapsed() < PATIENCE, "{what}");
        until("the failures are counted", async || {
            Metrics::of(&process).await.value("customers_trace_exports_failed_total") > 0.0
        })
        .await;
        // Within the 10 s of an orchestrator.
        assert_eq!(process.end(Signal::TERM).await, Some(0), "{what}");
    }
    service.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_is_no_url_stops_the_start() {
    for wrong in ["collector:4318", "grpc://collector:4317", "http://", "http:// x"] {
        let mut serve = command(&["serve"], &folder("traces"));
        let output = serve.env("OTEL_EXPORTER_OTLP_ENDPOINT", wrong).output().await.unwrap();
        let problem = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong}: {problem}");
        assert!(problem.contains("OTEL_EXPORTER_OTLP_ENDPOINT: must be a URL"), "{problem}");
    }
}
