//! Clients that open no window for an answer, or a small one (RFC 9113, section 5.2): they hold nothing for
//! long.

use axum::body::Bytes;
use axum::http::request::Builder;
use axum::http::{Method, Request, Response, header};
use customers::api::{import, list, stream};
use customers::commands::Bus;
use customers::demo;
use customers::events::customer::CustomerValues;
use customers::events::metadata::Metadata;
use customers::events::values::Role;
use futures_util::future::join_all;
use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use tokio::net::TcpStream;

use crate::harness::{Login, PATIENCE, Service, With as _, send, until};
use crate::sessions::verdict;
use crate::stream::stalled_client;

/// Of customers whose list is spooled to disk.
const MANY: u64 = 4_000;

/// A connection with this window for each answer.
struct Client {
    requests: SendRequest<Bytes>,
    address: String,
}

impl Client {
    async fn new(service: &Service, window: u32) -> Self {
        let address = service.address.to_string();
        let connection = TcpStream::connect(&address).await.unwrap();
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(window);
        let (requests, connection) = builder.handshake(connection).await.unwrap();
        tokio::spawn(connection);
        Self { requests, address }
    }

    /// The head of the answer; its body is read by the caller, or not at all.
    async fn get(&self, path: &str, login: &Login) -> Response<RecvStream> {
        self.send(self.request(Method::GET, path, login), Bytes::new()).await
    }

    fn request(&self, method: Method, path: &str, login: &Login) -> Builder {
        Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .header(header::AUTHORIZATION, format!("Bearer {}", login.token))
            .header(header::COOKIE, &login.cookie)
    }

    async fn send(&self, request: Builder, body: Bytes) -> Response<RecvStream> {
        let mut requests = self.requests.clone().ready().await.unwrap();
        let (response, mut sending) =
            requests.send_request(request.body(()).unwrap(), false).unwrap();
        sending.send_data(body, true).unwrap();
        response.await.unwrap()
    }
}

/// A service with many customers, which are appended without HTTP.
async fn with_customers() -> Service {
    let service = Service::start().await;
    let bus = Bus::new(service.pools.appender.clone(), service.pools.short.clone());
    for start in (0..MANY).step_by(200) {
        let creates = (start..start + 200).map(|i| {
            let (name, dob) = demo::person(i);
            bus.create(CustomerValues::new(name, dob), Metadata::of_program("test"))
        });
        for created in join_all(creates).await {
            created.unwrap();
        }
    }
    service.caught_up().await;
    service
}

/// Reads an answer without opening its window again; returns how much of it came, and how it ended.
async fn stalled(mut body: RecvStream) -> (usize, Option<h2::Error>) {
    let mut taken = 0;
    loop {
        match tokio::time::timeout(PATIENCE * 3, body.data()).await.expect("the answer ends") {
            Some(Ok(bytes)) => taken += bytes.len(),
            Some(Err(error)) => return (taken, Some(error)),
            None => return (taken, None),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_of_which_nothing_is_taken_ends() {
    let service = with_customers().await;
    let admin = service.log_in_as(Role::Admin).await;
    let paths = [
        "/customers/1",
        "/customers/77777",
        "/customers?limit=1000",
        "/customers",
        "/customers/1/history",
        "/events?limit=1000",
        "/events/stream",
        "/events/stream?after=0",
        "/projections",
        "/metrics",
        "/.well-known/jwks.json",
    ];
    let mut ends = vec![];
    for window in [0, 1, 10] {
        let client = Client::new(&service, window).await;
        for path in paths {
            let body = client.get(path, &admin).await.into_body();
            ends.push(async move { (path, window, stalled(body).await) });
        }
    }
    for (path, window, (taken, end)) in join_all(ends).await {
        let reason = end.and_then(|end| end.reason());
        assert_eq!((taken, reason), (window as usize, Some(Reason::CANCEL)), "{path}, {window}");
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_has_ended_frees_its_places_whatever_its_client_does() {
    let service = with_customers().await;
    let auditor = service.log_in_as(Role::Auditor).await;
    let client = Client::new(&service, 0).await;
    let (mut held, mut of_http1) = (vec![], vec![]);
    for _ in 0..stream::PER_ACCOUNT / 2 {
        held.push(client.get("/events/stream", &auditor).await);
        of_http1.push(stalled_client(&client.address, &auditor, "?after=0").await);
    }
    for _ in 0..list::PER_ACCOUNT {
        held.push(client.get("/customers", &auditor).await);
    }
    assert!(held.iter().all(|answer| answer.status() == 200));
    for path in ["/events/stream", "/customers"] {
        assert_eq!(verdict(service.get(path).login(&auditor)).await, "429 rate-limited", "{path}");
    }
    assert_eq!(verdict(service.delete("/logout").login(&auditor)).await, "200");
    let again = service.log_in("auditor").await;
    let other = Client::new(&service, 0).await;
    // The places of streams that are not read are free before the time limit of slow clients.
    let mut places = vec![];
    until("all streams are free", async || {
        let answer = other.get("/events/stream", &again).await;
        if answer.status() == 200 {
            places.push(answer);
        }
        places.len() == stream::PER_ACCOUNT
    })
    .await;
    assert_eq!(send(service.get("/customers").login(&again)).await.status, 200);
    drop((held, of_http1));
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_of_an_ended_session_frees_its_place_whether_its_client_reads_or_not() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    let client = Client::new(&service, 0).await;
    // Its refused lines are more than what waits for the client.
    let lines = "{\"name\":\"\",\"dob\":\"yesterday\"}\n".repeat(5_000);
    let mut held = vec![];
    for _ in 0..import::PER_ACCOUNT {
        let request = client.request(Method::POST, "/customers/import", &editor);
        let request = request.header(header::CONTENT_TYPE, "application/x-ndjson");
        held.push(client.send(request, lines.clone().into()).await);
    }
    assert!(held.iter().all(|answer| answer.status() == 200));
    let import = |login: &Login| {
        let import = service.post("/customers/import").login(login);
        import.header(header::CONTENT_TYPE, "text/csv").body("name,dob\nAda,1990-12-10\n")
    };
    assert_eq!(verdict(import(&editor)).await, "429 rate-limited");
    assert_eq!(verdict(service.delete("/logout").login(&editor)).await, "200");
    let again = service.log_in("editor").await;
    until("a place is free", async || send(import(&again)).await.status == 200).await;
    drop(held);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answer_to_head_has_the_headers_of_the_one_to_get_and_no_body() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    let created = service.post("/customers").login(&editor);
    let ada = serde_json::json!({"name": "Ada", "dob": "1990-12-10"});
    assert_eq!(send(created.json(&ada)).await.status, 201);
    let client = Client::new(&service, 65_535).await;
    let nobody = Login { token: "none".to_owned(), ..editor.clone() };
    let cases = [
        ("/livez", &editor, 200),
        ("/customers/1", &editor, 200),
        ("/customers", &editor, 200),
        ("/customers/77", &editor, 404),
        ("/nowhere", &editor, 404),
        ("/login", &editor, 405),
        ("/customers/1", &nobody, 401),
        ("/customers?numbers=x", &editor, 400),
    ];
    for (path, login, status) in cases {
        let get = service.request(Method::GET, path).login(login).send().await.unwrap();
        assert_eq!(get.status(), status, "{path}");
        let length = get.headers().get(header::CONTENT_LENGTH).cloned();
        let over_http_1 = service.request(Method::HEAD, path).login(login).send().await.unwrap();
        assert_eq!(over_http_1.status(), status, "{path}");
        assert_eq!(over_http_1.headers().get(header::CONTENT_LENGTH), length.as_ref(), "{path}");
        let head = client.request(Method::HEAD, path, login);
        let mut over_http_2 = client.send(head, Bytes::new()).await;
        assert_eq!(over_http_2.status(), status, "{path}");
        assert_eq!(over_http_2.headers().get(header::CONTENT_LENGTH), length.as_ref(), "{path}");
        assert!(over_http_2.body_mut().data().await.is_none(), "{path}: a body");
    }
    service.stop().await;
}
