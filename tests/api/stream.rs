//! `GET /events/stream`: the log as server-sent events, as it grows.

use std::time::Duration;

use customers::api::stream::PER_ACCOUNT;
use customers::commands::Bus;
use customers::demo;
use customers::events::customer::CustomerValues;
use customers::events::log::notify::{CHANNEL, Subscription};
use customers::events::log::read;
use customers::events::metadata::Metadata;
use customers::events::values::Role;
use customers::pools::Pools;
use customers::tasks::Tasks;
use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::harness::{Login, PATIENCE, Service, With as _, folder, send, until, variables};
use crate::process::{Process, command};
use crate::sessions::verdict;

/// A client that parses server-sent events.
pub struct Listener {
    response: Response,
    text: String,
    /// The last received `id:`.
    at: i64,
}

impl Listener {
    pub async fn of(request: RequestBuilder) -> Self {
        // The response does not end, so the default timeout of the client does not fit.
        let response = request.timeout(Duration::from_mins(3)).send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut listener = Self { response, text: String::new(), at: -1 };
        let opening = listener.block().await.unwrap();
        listener.at = opening.strip_prefix("retry: 2000\nid: ").unwrap().parse().unwrap();
        listener
    }

    /// The position of the last received `id:`.
    pub fn at(&self) -> i64 {
        self.at
    }

    /// The value of a header; empty without it.
    pub fn header(&self, name: &str) -> String {
        let value = self.response.headers().get(name);
        value.map_or_else(String::new, |value| value.to_str().unwrap().to_owned())
    }

    /// The next block; `None` at the end of the stream.
    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                return Some(block);
            }
            let chunk = tokio::time::timeout(PATIENCE * 2, self.response.chunk()).await.unwrap();
            let Some(chunk) = chunk.unwrap() else {
                assert_eq!(self.text, "", "the stream ended inside an event");
                return None;
            };
            self.text += std::str::from_utf8(&chunk).unwrap();
        }
    }

    /// The next event. Checks that it is the next one in the log.
    pub async fn event(&mut self) -> Option<Value> {
        loop {
            let block = self.block().await?;
            if block.starts_with([':', 'r']) {
                continue;
            }
            let (id, data) = block.split_once('\n').unwrap();
            let id: i64 = id.strip_prefix("id: ").unwrap().parse().unwrap();
            let event: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
            assert_eq!((id, &event["position"]), (self.at + 1, &json!(id)), "a gap or a duplicate");
            self.at = id;
            return Some(event);
        }
    }

    /// The next event, whatever was left out before it.
    pub async fn selected_event(&mut self) -> Value {
        loop {
            let block = self.block().await.expect("the stream continues");
            if let Some((id, data)) = block.split_once("\ndata: ") {
                self.at = id.strip_prefix("id: ").unwrap().parse().unwrap();
                return serde_json::from_str(data).unwrap();
            }
        }
    }

    async fn up_to(&mut self, position: i64) -> Vec<Value> {
        let mut events = vec![];
        while self.at < position {
            events.push(self.event().await.expect("the stream continues"));
        }
        events
    }

    /// The last block of the stream, which ends.
    pub async fn last(mut self) -> Option<String> {
        let mut last = None;
        while let Some(block) = self.block().await {
            last = Some(block);
        }
        last
    }

    /// Waits until the stream ends.
    async fn ends(mut self) {
        while self.block().await.is_some() {}
    }
}

async fn create(service: &Service, login: &Login, name: &str) -> i64 {
    let body = json!({"name": name, "dob": "1990-12-10"});
    send(service.post("/customers").login(login).json(&body)).await.position()
}

async fn head(service: &Service) -> i64 {
    read::head(&service.pools.short).await.unwrap()
}

/// Appends `count` customers without HTTP.
async fn append(pools: &Pools, count: u64) {
    let bus = Bus::new(pools.appender.clone(), pools.short.clone());
    // A small batch at a time, so that no command times out in the queue on a busy machine.
    for start in (0..count).step_by(200) {
        let creates = (start..count.min(start + 200)).map(|i| {
            let (bus, (name, dob)) = (bus.clone(), demo::person(i));
            tokio::spawn(async move {
                bus.create(CustomerValues::new(name, dob), Metadata::of_program("test")).await
            })
        });
        for create in creates.collect::<Vec<_>>() {
            create.await.unwrap().unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_shows_each_event_once_and_goes_on_where_it_was() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    let stream = |query: &str| service.get(&format!("/events/stream{query}")).login(&admin);
    create(&service, &admin, "Ada").await;
    let before = head(&service).await;

    // A stream without a position begins at the head.
    let mut live = Listener::of(stream("")).await;
    assert_eq!(live.at, before);
    let position = create(&service, &admin, "Grace").await;
    let event = live.event().await.unwrap();
    assert_eq!((&event["position"], &event["data"]["name"]), (&json!(position), &json!("Grace")));

    // A stream from the beginning has the same objects as the feed.
    let mut all = Listener::of(stream("?after=0")).await;
    let shown = all.up_to(position).await;
    let feed = send(service.get("/events").login(&admin)).await;
    assert_eq!(json!(shown), feed.body["events"]);

    // A browser reconnects to the same URL with `Last-Event-ID`, which has precedence over `after`.
    let back = stream("?after=0").header("last-event-id", before);
    let mut back = Listener::of(back).await;
    assert_eq!((back.at, back.event().await), (before, Some(event)));

    let position = create(&service, &admin, "Alan").await;
    for stream in [&mut live, &mut all, &mut back] {
        assert_eq!(stream.event().await.unwrap()["position"], position);
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_from_anywhere_see_everything_while_others_write() {
    let service = Service::start().await;
    let auditor = service.log_in_as(Role::Auditor).await;
    append(&service.pools, 3000).await;
    let (start, total) = (head(&service).await, head(&service).await + 3000);
    let following = (0..24).map(|i| {
        let after = [0, start / 2, start][i % 3];
        let request = service.get(&format!("/events/stream?after={after}")).login(&auditor);
        tokio::spawn(async move {
            let shown = Listener::of(request).await.up_to(total).await;
            assert_eq!(shown.len(), usize::try_from(total - after).unwrap());
        })
    });
    let following: Vec<_> = following.collect();
    append(&service.pools, 3000).await;
    for follower in following {
        follower.await.unwrap();
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_process_says_that_the_log_has_grown() {
    let service = Service::start().await;
    let one = Pools::new(service.config.database_url.as_ref().unwrap()).unwrap();
    let tasks = Tasks::default();
    let mut appends = Subscription::start(&one.appender, one.notify.clone(), &tasks);
    // A notification before the subscription listens is lost, so it is repeated until it arrives.
    until("the subscription listens", async || {
        appends.mark_seen();
        let mut other = PgConnection::connect(service.database_url()).await.unwrap();
        other.execute(format!("notify {CHANNEL}").as_str()).await.unwrap();
        tokio::time::timeout(Duration::from_millis(200), appends.wait(PATIENCE)).await.is_ok()
    })
    .await;
    appends.mark_seen();
    // The appender of the service notifies other processes.
    let woken = async { tokio::time::timeout(PATIENCE, appends.wait(PATIENCE * 2)).await };
    let (woken, ()) = tokio::join!(woken, append(&service.pools, 1));
    woken.expect("the notification arrives");

    // The subscription reconnects after a lost connection, and then wakes up, because it may have missed
    // notifications.
    appends.mark_seen();
    let mut admin = PgConnection::connect(service.database_url()).await.unwrap();
    let listeners = "select pg_terminate_backend(pid) from pg_stat_activity
                     where datname = current_database() and query ilike 'listen%'";
    admin.execute(listeners).await.unwrap();
    tokio::time::timeout(PATIENCE, appends.wait(PATIENCE * 2))
        .await
        .expect("the subscription reconnects");
    tasks.shut_down(PATIENCE).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_with_its_session_and_with_the_service() {
    let service = Service::start().await;
    let auditor = service.log_in_as(Role::Auditor).await;
    let again = service.log_in("auditor").await;
    let of = |login: &Login| Listener::of(service.get("/events/stream").login(login));
    let (first, mut second) = (of(&auditor).await, of(&again).await);
    assert_eq!(verdict(service.delete("/logout").login(&auditor)).await, "200");
    first.ends().await;
    // The stream of the other session continues and shows the log-out.
    let closed = second.event().await.unwrap();
    assert_eq!(
        (&closed["type"], &closed["aggregate_type"]),
        (&json!("SessionClosed"), &json!("account"))
    );
    let ((), ()) = tokio::join!(service.stop(), second.ends());
}

#[tokio::test]
async fn a_position_that_is_none_is_refused() {
    let service = Service::start().await;
    let auditor = service.log_in_as(Role::Auditor).await;
    let stream = |query: &str| service.get(&format!("/events/stream{query}")).login(&auditor);
    for query in
        ["?after=-1", "?after=x", "?after=", "?after=1&after=1", "?limit=1", "?after=999999"]
    {
        assert_eq!(verdict(stream(query)).await, "400 malformed", "{query}");
    }
    for id in ["", "x", "-1", "1.0", "999999", "99999999999999999999"] {
        let answer = send(stream("?after=0").header("last-event-id", id)).await;
        assert_eq!(answer.status, 400, "{id:?}");
        assert_eq!(answer.body["errors"][0]["field"], "last-event-id", "{id:?}");
    }
    service.stop().await;
}

/// Requests a stream and never reads it.
pub async fn stalled_client(address: &str, login: &Login, after: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(address.parse().unwrap()).await.unwrap();
    let (token, cookie) = (&login.token, &login.cookie);
    let head = format!("GET /events/stream{after} HTTP/1.1\r\nhost: {address}\r\n");
    let head = format!("{head}authorization: Bearer {token}\r\ncookie: {cookie}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 200", "{}", String::from_utf8_lossy(&status));
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_who_read_nothing_cost_little_and_are_cut() {
    let service = Service::start().await;
    let mut serve = command(&["serve"], &folder("slow"));
    serve.envs(variables(service.database_url()));
    let process = Process::start(serve).await;
    // One account may have 100 streams.
    let mut auditors = vec![];
    for number in 0..6 {
        let name = format!("auditor{number}");
        service.add_account(&name, Role::Auditor).await;
        auditors.push(process.log_in(&name).await);
    }
    let address = process.url.strip_prefix("http://").unwrap().to_owned();
    append(&service.pools, 2000).await;
    let before = process.resident();
    let mut still = vec![];
    for number in 0..500 {
        let after = if number % 2 == 0 { "" } else { "?after=0" };
        still.push(stalled_client(&address, &auditors[number % 5], after).await);
    }
    let streams = async || {
        let metrics = send(process.request(reqwest::Method::GET, "/metrics")).await.text;
        let line = metrics.lines().find_map(|line| line.strip_prefix("customers_event_streams "));
        line.map_or(0, |number| number.parse::<u32>().unwrap())
    };
    assert_eq!(streams().await, 500);

    // Stalled clients do not delay a client that reads.
    let reading = process.request(reqwest::Method::GET, "/events/stream").login(&auditors[5]);
    let mut reading = Listener::of(reading).await;
    append(&service.pools, 6_000).await;
    reading.up_to(head(&service).await).await;
    let stalled = process.resident();
    append(&service.pools, 6_000).await;
    reading.up_to(head(&service).await).await;
    let after = process.resident();
    println!("{before} MiB before, {stalled} MiB with 500 stalled clients, {after} MiB later");
    assert!(after < stalled + 16, "the memory of stalled clients grows with the log");
    assert!(after < before + 96, "500 stalled clients cost more than 96 MiB");
    let cut = async {
        while streams().await > 1 {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(2), cut)
        .await
        .expect("stalled clients are disconnected");
    drop(still);
    append(&service.pools, 1).await;
    reading.up_to(head(&service).await).await;
    process.kill().await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_account_cannot_take_all_streams() {
    let service = Service::start().await;
    let crowd = service.log_in_as(Role::Auditor).await;
    service.add_account("other", Role::Auditor).await;
    let other = service.log_in("other").await;
    let stream = |login: &Login| service.get("/events/stream").login(login).send();
    let mut streams = vec![];
    for _ in 0..PER_ACCOUNT {
        let answer = stream(&crowd).await.unwrap();
        assert_eq!(answer.status(), 200);
        streams.push(answer);
    }
    assert_eq!(verdict(service.get("/events/stream").login(&crowd)).await, "429 rate-limited");
    assert_eq!(stream(&other).await.unwrap().status(), 200);
    // A slot is free again when its stream ends.
    drop(streams);
    until("a stream is admitted", async || stream(&crowd).await.unwrap().status() == 200).await;
    service.stop().await;
}
