//! Packed answers: the same bytes for clients that ask for gzip or zstd, and only where the length of an answer tells
//! nothing of a secret.

use std::io::Read as _;

use customers::api;
use customers::events::values::Role;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::json;

use crate::harness::{Login, PASSWORD, Service, With as _, address_of, send};

/// So many customers that a list is spilled to a file (over 256 KiB).
const MANY: usize = 4_000;

/// A service with many customers, and an admin.
async fn with_many() -> (Service, Login) {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    let lines: Vec<String> =
        (0..MANY).map(|n| format!("Person {n},19{:02}-12-10\n", n % 100)).collect();
    let import = service.post("/customers/import").login(&admin).header("content-type", "text/csv");
    let imported = send(import.body(format!("name,dob\n{}", lines.concat()))).await;
    assert!(imported.text.contains(&format!("\"created\":{MANY}")), "{imported:?}");
    service.caught_up().await;
    (service, admin)
}

fn unpack(coding: &str, packed: &[u8]) -> Vec<u8> {
    let mut whole = vec![];
    match coding {
        "gzip" => flate2::read::GzDecoder::new(packed).read_to_end(&mut whole).unwrap(),
        "zstd" => {
            zstd::stream::read::Decoder::new(packed).unwrap().read_to_end(&mut whole).unwrap()
        }
        other => panic!("an unknown coding: {other}"),
    };
    whole
}

fn header(answer: &Response, name: &str) -> String {
    let values = answer.headers().get_all(name).iter();
    values.map(|value| value.to_str().unwrap()).collect::<Vec<_>>().join(", ")
}

async fn ask(request: RequestBuilder, accepted: &str) -> Response {
    request.header("accept-encoding", accepted).send().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_packed_answer_is_the_same_answer() {
    let (service, admin) = with_many().await;
    for path in [
        "/customers?numbers=20",
        "/customers?numbers=1000",
        "/customers?limit=500",
        "/customers?numbers=2000",
        "/customers",
        "/customers?as_of=2999-01-01T00:00:00Z",
        "/events?limit=1000",
        "/openapi.json",
        "/docs/swagger-ui.css",
        "/docs/swagger-ui-bundle.js",
    ] {
        // Of a moment that both answers show.
        let path = &path.replace("2999-01-01T00:00:00Z", &service_now(&service).await);
        let plain = service.get(path).login(&admin).send().await.unwrap();
        assert_eq!(
            (plain.status().as_u16(), header(&plain, "content-encoding")),
            (200, String::new())
        );
        assert!(header(&plain, "vary").contains("accept-encoding"), "{path}");
        let (tag, kind) = (header(&plain, "etag"), header(&plain, "content-type"));
        let whole = plain.bytes().await.unwrap();
        for coding in ["gzip", "zstd"] {
            let packed = ask(service.get(path).login(&admin), coding).await;
            assert_eq!(packed.status(), 200, "{path}");
            assert_eq!(header(&packed, "content-encoding"), coding, "{path}");
            assert!(header(&packed, "vary").contains("accept-encoding"), "{path}");
            assert_eq!(
                (header(&packed, "etag"), header(&packed, "content-type")),
                (tag.clone(), kind.clone())
            );
            // It names the same state, not the same bytes.
            assert!(tag.is_empty() || tag.starts_with("W/"), "{path}: {tag}");
            let told: Option<usize> = header(&packed, "content-length").parse().ok();
            let bytes = packed.bytes().await.unwrap();
            assert!(told.is_none_or(|told| told == bytes.len()), "{path}");
            assert!(bytes.len() < whole.len() / 2, "{path} {coding}: {} bytes", bytes.len());
            assert!(unpack(coding, &bytes) == whole, "{path} {coding}: other bytes");
            let head = service.request(Method::HEAD, path).login(&admin);
            let head = ask(head, coding).await;
            assert_eq!(header(&head, "content-encoding"), coding, "{path}");
            if !tag.is_empty() {
                let poll = service.get(path).login(&admin).header("if-none-match", &tag);
                let poll = ask(poll, coding).await;
                assert_eq!(
                    (poll.status().as_u16(), header(&poll, "content-encoding")),
                    (304, String::new())
                );
            }
        }
    }
    service.stop().await;
}

/// The time of the last event.
async fn service_now(service: &Service) -> String {
    let at: chrono::DateTime<chrono::Utc> =
        sqlx::query_scalar("select recorded_at from events order by position desc limit 1")
            .fetch_one(&service.pools.short)
            .await
            .unwrap();
    customers::clock::rfc3339(at)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_a_secret_is_short_or_flows_is_not_packed() {
    let (service, admin) = with_many().await;
    let long = "x".repeat(2000);
    let requests = [
        // The token, beside what the client has sent; with all that makes the answer longer.
        service
            .post("/login")
            .json(&json!({"username": "admin", "password": PASSWORD, "other": long})),
        service.get("/session_cookie_experiment").login(&admin),
        service.delete("/sessions/none").login(&admin),
        // A customer has a strong tag, which If-Match compares.
        service.get("/customers/1").login(&admin),
        service.get("/customers?numbers=1").login(&admin),
        service.get("/events/stream?after=0").login(&admin),
        service
            .post("/customers/import")
            .login(&admin)
            .header("content-type", "text/csv")
            .body("x"),
        service.get("/metrics"),
        service.get(&format!("/customers?{long}=1&{long}2=1")).login(&admin),
    ];
    for request in requests {
        let what = format!("{request:?}");
        let answer = ask(request, "gzip, zstd").await;
        assert_eq!(header(&answer, "content-encoding"), "", "{what}");
    }
    // No answer to a change, and none with a cookie, on any route.
    for route in api::routes() {
        let request = service.request(route.method.parse().unwrap(), &address_of(&route));
        let login = service.log_in("admin").await;
        let answer = ask(request.login(&login).json(&json!({})), "gzip").await;
        if header(&answer, "content-encoding") == "gzip" {
            assert_eq!(route.method, "GET", "{}", route.path);
            assert_eq!(header(&answer, "set-cookie"), "", "{}", route.path);
        }
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_ask_gets_the_answer_as_it_is() {
    let (service, admin) = with_many().await;
    for accepted in
        ["", "identity", "br", "gzip;q=0", "*;q=0", "identity, gzip;q=0.5", "nonsense;;,"]
    {
        let answer = ask(service.get("/customers?numbers=100").login(&admin), accepted).await;
        assert_eq!(header(&answer, "content-encoding"), "", "{accepted}");
        assert!(header(&answer, "content-length").parse::<usize>().unwrap() > 1024, "{accepted}");
    }
    service.stop().await;
}
