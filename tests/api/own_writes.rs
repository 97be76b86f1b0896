//! Read your own writes: a write is answered when the read table shows it, or with
//! `Projection-Pending`; a read may name a position that it must show.

use std::time::{Duration, Instant};

use customers::events::values::Role;
use reqwest::header::HeaderName;
use secrecy::ExposeSecret as _;
use serde_json::json;
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::harness::{Answer, Login, Service, With as _, send, until};

const MIN_EVENT_POSITION: HeaderName = HeaderName::from_static("min-event-position");

async fn create(service: &Service, login: &Login) -> Answer {
    let body = json!({"name": "Ada", "dob": "1990-12-10"});
    send(service.post("/customers").token(login).json(&body)).await
}

/// A connection that holds the lock on the checkpoint of the projection, so that no page is applied.
async fn hold_projection(service: &Service) -> PgConnection {
    let url = service.config.database_url.as_ref().unwrap().expose_secret();
    let mut holder = PgConnection::connect(url).await.unwrap();
    holder.execute("begin").await.unwrap();
    let row = "select from projections where name = 'customers' for update";
    assert_eq!(holder.execute(row).await.unwrap().rows_affected(), 1);
    holder
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_write_is_shown_by_the_next_read() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    for id in 1..=20 {
        let path = format!("/customers/{id}");
        let created = create(&service, &admin).await;
        assert_eq!(created.header("projection-pending"), None);
        assert_eq!(send(service.get(&path).token(&admin)).await.text, created.text);
        let body = json!({"name": "Grace", "dob": "1990-12-10"});
        let updated = send(service.put(&path).token(&admin).json(&body)).await;
        assert_eq!(send(service.get(&path).token(&admin)).await.text, updated.text);
        assert_eq!(send(service.delete(&path).token(&admin)).await.status, 200);
        assert_eq!(send(service.get(&path).token(&admin)).await.status, 404);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_is_answered_and_marked_when_the_projection_cannot_go_on() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    assert_eq!(create(&service, &admin).await.header("projection-pending"), None);
    let mut holder = hold_projection(&service).await;

    let asked = Instant::now();
    let created = create(&service, &admin).await;
    let waited = asked.elapsed();
    assert_eq!(created.status, 201);
    assert_eq!(created.header("projection-pending"), Some("true"));
    assert_eq!((&created.body["id"], &created.body["version"]), (&json!(2), &json!(1)));
    assert!((1900..6000).contains(&waited.as_millis()), "{waited:?}");

    // A read without a position shows the old state, at once.
    let read = send(service.get("/customers/2").token(&admin)).await;
    assert_eq!(read.status, 404);
    let list = async |position: i64| {
        let request = service.get("/customers").header(MIN_EVENT_POSITION, position);
        send(request.token(&admin)).await
    };
    assert_eq!(list(created.position() - 1).await.body["number"], 1);

    // A read with the position of the write waits, then gets a 503 with `Retry-After`.
    let asked = Instant::now();
    let late = list(created.position()).await;
    assert!(asked.elapsed() < Duration::from_secs(6));
    assert_eq!(late.header("retry-after"), Some("1"));
    insta::assert_snapshot!(late.shape(), @r#"503 {"detail":"the requested position is not shown yet; retry later","request_id":"[id]","status":503,"title":"Service unavailable","type":"/problems/unavailable"}"#);

    holder.execute("rollback").await.unwrap();
    until("the read shows the write", async || {
        send(service.get("/customers/2").token(&admin)).await.text == created.text
    })
    .await;
    assert_eq!(list(created.position()).await.body["number"], 2);
    assert_eq!(create(&service, &admin).await.header("projection-pending"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_prefers_not_to_wait_is_answered_at_once() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    let mut holder = hold_projection(&service).await;
    let asked = Instant::now();
    let body = json!({"name": "Ada", "dob": "1990-12-10"});
    let mut position = 0;
    for preference in ["respond-async", "handling=lenient, Respond-Async"] {
        let request = service.post("/customers").header("prefer", preference).json(&body);
        let created = send(request.token(&admin)).await;
        assert_eq!(created.status, 201);
        assert_eq!(created.header("preference-applied"), Some("respond-async"));
        assert_eq!(created.header("projection-pending"), Some("true"));
        position = created.position();
    }
    // A write that waits for the projection takes two seconds.
    assert!(asked.elapsed() < Duration::from_millis(3900), "{:?}", asked.elapsed());

    let read = service.get("/customers/2").header(MIN_EVENT_POSITION, position).token(&admin);
    let (read, released) = tokio::join!(send(read), holder.execute("rollback"));
    assert_eq!((read.status, released.is_ok()), (200, true));
    assert_eq!(create(&service, &admin).await.header("preference-applied"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_shows_at_least_the_position_that_it_asks_for() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    let head = create(&service, &admin).await.position();
    for path in ["/customers", "/customers?numbers=1", "/customers/1", "/customers/1/history"] {
        let ask = async |position: &str| {
            send(service.get(path).header(MIN_EVENT_POSITION, position).token(&admin)).await
        };
        for position in [0, 1, head] {
            assert_eq!(ask(&position.to_string()).await.status, 200, "{path} {position}");
        }
        for beyond in [(head + 1).to_string(), i64::MAX.to_string(), "9".repeat(20)] {
            let answer = ask(&beyond).await;
            assert_eq!(
                answer.shape(),
                r#"400 {"detail":"the request cannot be parsed","errors":[{"detail":"is beyond the end of the log","field":"min-event-position"}],"request_id":"[id]","status":400,"title":"Malformed request","type":"/problems/malformed"}"#
            );
        }
        for garbage in ["", "abc", "-1", "+1", "1.0", "1e3", "0x1", "1, 2", "\"1\""] {
            let answer = ask(garbage).await;
            assert_eq!(answer.status, 400, "{path} {garbage}");
            assert_eq!(answer.body["errors"][0]["field"], "min-event-position");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_counts_also_when_it_is_no_customers_event() {
    let service = Service::start().await;
    let viewer = service.log_in_as(Role::Viewer).await;
    // The log has two events: AccountAdded and SessionOpened.
    let ask = async |position: i64| {
        let request = service.get("/customers").header(MIN_EVENT_POSITION, position);
        send(request.token(&viewer)).await.status
    };
    assert_eq!([ask(1).await, ask(2).await, ask(3).await], [200, 200, 400]);
}
