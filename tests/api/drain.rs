//! A process that is told to stop: it goes on serving for the drain delay, so that balancers find out.

use std::collections::HashSet;

use customers::events::values::Role;
use futures_util::future::join_all;
use rustix::process::Signal;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{
    PASSWORD, Service, With as _, config_on, database, folder, send, until, variables,
};
use crate::process::{Process, command};
use crate::stream::Listener;

/// A connection that a proxy keeps open between requests.
struct Kept(TcpStream);

impl Kept {
    async fn open(url: &str) -> Self {
        Self(TcpStream::connect(url.strip_prefix("http://").unwrap()).await.unwrap())
    }

    /// The head of the answer, in lower case.
    async fn get(&mut self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: customers.test\r\n\r\n");
        self.0.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        while !answer.contains("\r\n\r\n") {
            let mut part = [0; 4096];
            let length = self.0.read(&mut part).await.unwrap();
            assert!(length > 0, "the connection was closed without an answer: {answer}");
            answer.push_str(std::str::from_utf8(&part[..length]).unwrap());
        }
        answer.split("\r\n\r\n").next().unwrap().to_lowercase()
    }

    /// Whether the service closes the connection in order: no more data, no reset.
    async fn ends(&mut self) -> bool {
        self.0.read_to_end(&mut Vec::new()).await.is_ok()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_told_to_stop_serves_for_the_drain_delay_as_not_ready() {
    let database = database().await;
    let setup = Service::with(config_on(&database)).await;
    setup.add_account("editor", Role::Editor).await;
    let mut serve = command(&["serve"], &folder("drain"));
    serve.envs(variables(&database)).env("CUSTOMERS_DRAIN_DELAY", "3s");
    let process = Process::start(serve).await;
    let ready = async || send(process.request(reqwest::Method::GET, "/readyz")).await.status == 200;
    until("it is ready", ready).await;
    let (mut used, mut idle) = (Kept::open(&process.url).await, Kept::open(&process.url).await);
    for kept in [&mut used, &mut idle] {
        let head = kept.get("/readyz").await;
        assert!(head.starts_with("http/1.1 200") && !head.contains("connection: close"), "{head}");
    }

    process.signal(Signal::TERM);
    until("it is not ready", async || {
        let answer = send(process.request(reqwest::Method::GET, "/readyz")).await;
        let stopping = json!({"status": "unavailable", "checks": {"process": "stopping"}});
        assert!(answer.status == 200 || (answer.status, &answer.body) == (503, &stopping));
        answer.status == 503
    })
    .await;
    let head = used.get("/livez").await;
    assert!(head.starts_with("http/1.1 200") && head.contains("connection: close"), "{head}");
    assert!(used.ends().await);
    // It serves new connections, too.
    let login = json!({"username": "editor", "password": PASSWORD});
    let answer = send(process.request(reqwest::Method::POST, "/login").json(&login)).await;
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    let address = process.url.strip_prefix("http://").unwrap().to_owned();
    until("the port is closed", async || TcpStream::connect(&address).await.is_err()).await;
    assert!(idle.ends().await);
    assert_eq!(process.ended().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_the_process_at_once() {
    for (first, second) in [(Signal::TERM, Signal::INT), (Signal::INT, Signal::INT)] {
        let mut serve = command(&["serve"], &folder("drain"));
        serve.envs(variables(&database().await)).env("CUSTOMERS_DRAIN_DELAY", "5m");
        let process = Process::start(serve).await;
        process.signal(first);
        until("it is not ready", async || {
            send(process.request(reqwest::Method::GET, "/readyz")).await.status == 503
        })
        .await;
        assert_eq!(process.end(second).await, Some(1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_a_process_that_stops_ends_with_a_pause_of_its_own() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    let mut streams = vec![];
    for _ in 0..8 {
        streams.push(Listener::of(service.get("/events/stream").login(&admin)).await);
    }
    let ((), blocks) =
        tokio::join!(service.stop(), join_all(streams.into_iter().map(Listener::last)));
    let pause = |block: Option<String>| -> u32 {
        block.unwrap().strip_prefix("retry: ").unwrap().parse().unwrap()
    };
    let pauses: HashSet<u32> = blocks.into_iter().map(pause).collect();
    assert!(pauses.iter().all(|pause| (1000..=3000).contains(pause)), "{pauses:?}");
    assert!(pauses.len() > 1, "all clients would come back in one moment: {pauses:?}");
}
