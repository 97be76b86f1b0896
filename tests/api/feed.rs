//! `GET /events`, the feed: formats, pages and filters.

use std::fmt::Write as _;

use customers::events::values::Role;
use serde_json::{Value, json};

use crate::harness::{Answer, Login, Service, With as _, send};

/// A service with three customers, one of them updated and deleted, written by two accounts; and an
/// auditor.
async fn registry() -> (Service, Login) {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    let admin = service.log_in_as(Role::Admin).await;
    for (login, name) in [(&editor, "Ada"), (&admin, "Grace \"é\" /"), (&editor, "Alan")] {
        let body = json!({"name": name, "dob": "1990-12-10"});
        assert_eq!(send(service.post("/customers").login(login).json(&body)).await.status, 201);
    }
    let body = json!({"name": "Ada King", "dob": "1990-12-10"});
    let update = service.put("/customers/1").login(&admin).header("x-reason", "married");
    assert_eq!(send(update.json(&body)).await.status, 200);
    assert_eq!(send(service.delete("/customers/1").login(&editor)).await.status, 200);
    let auditor = service.log_in_as(Role::Auditor).await;
    (service, auditor)
}

async fn get(service: &Service, login: &Login, path: &str) -> Answer {
    send(service.get(path).login(login)).await
}

/// The event with placeholders for the values that differ between runs.
fn redacted(mut event: Value) -> Value {
    for name in ["recorded_at", "time"] {
        if event.get(name).is_some() {
            event[name] = "[time]".into();
        }
    }
    if event.get("source").is_some() {
        let source = event["source"].as_str().unwrap();
        let (url, log) = source.split_once("?log=").unwrap();
        assert_eq!(log.len(), 36, "{source}");
        event["source"] = format!("{url}?log=[log]").into();
    }
    for name in ["metadata", "data"] {
        for secret in ["session", "request_id", "jti", "user_agent"] {
            if event[name].get(secret).is_some() {
                event[name][secret] = format!("[{secret}]").into();
            }
        }
    }
    event
}

fn events(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body["events"].as_array().unwrap().clone()
}

#[tokio::test]
async fn an_event_is_shown_with_all_that_is_known_of_it_in_each_format() {
    let (service, auditor) = registry().await;
    let json = get(&service, &auditor, "/events?customer=1").await;
    assert_eq!(json.header("content-type"), Some("application/json"));
    let shown: Vec<_> = events(&json).into_iter().map(redacted).collect();
    insta::assert_json_snapshot!("feed_json", shown);
    assert_eq!(json.body["head"], json.body["next"]);

    // The response has the stored bytes: the members in their order, without `type`, which is next to
    // `data`.
    assert!(json.text.contains(r#""data":{"name":"Ada King","dob":"1990-12-10"},"metadata":{"actor":"admin","role":"admin","#));
    let ask = |accept: &'static str| {
        send(service.get("/events?customer=1").login(&auditor).header("accept", accept))
    };
    let lines = ask("application/x-ndjson").await;
    assert_eq!(lines.header("content-type"), Some("application/x-ndjson"));
    let parsed: Vec<Value> =
        lines.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(parsed, events(&json));
    assert_eq!(lines.header("event-next"), Some(json.body["next"].to_string().as_str()));
    assert_eq!(lines.header("event-head"), Some(json.body["head"].to_string().as_str()));

    let batch = ask("application/cloudevents-batch+json, application/json;q=0.5").await;
    assert_eq!(batch.header("content-type"), Some("application/cloudevents-batch+json"));
    let shown: Vec<_> = batch.body.as_array().unwrap().iter().cloned().map(redacted).collect();
    insta::assert_json_snapshot!("feed_cloud_events", shown);
    for (accept, expected) in [
        ("*/*", "application/json"),
        ("application/*;q=0.1, application/x-ndjson", "application/x-ndjson"),
        ("application/json;q=0, application/*", "application/x-ndjson"),
        ("text/html, application/*;q=0.1", "application/json"),
    ] {
        assert_eq!(ask(accept).await.header("content-type"), Some(expected), "{accept}");
    }
    // A client that can read none of them is told so, and not sent another one (RFC 9110, section 15.5.7).
    assert_eq!(ask("text/html").await.status, 406);
    service.stop().await;
}

/// Whether a filter selects an event.
type Wanted = Box<dyn Fn(&Value) -> bool>;

/// The events of all pages of a filter, up to the head.
async fn all(service: &Service, login: &Login, filter: &str, limit: usize) -> Vec<Value> {
    let (mut found, mut after) = (vec![], 0);
    loop {
        let path = format!("/events?after={after}&limit={limit}{filter}");
        let page = get(service, login, &path).await;
        assert!(events(&page).len() <= limit);
        found.extend(events(&page));
        after = page.body["next"].as_i64().unwrap();
        if after == page.body["head"].as_i64().unwrap() {
            return found;
        }
    }
}

#[tokio::test]
async fn pages_of_any_size_and_filter_give_what_the_log_holds() {
    let (service, auditor) = registry().await;
    let log = all(&service, &auditor, "", 1000).await;
    let positions: Vec<_> = log.iter().map(|event| event["position"].as_u64().unwrap()).collect();
    assert_eq!(positions, (1..=log.len() as u64).collect::<Vec<_>>());
    let is = |member: &'static str, value: &'static str| {
        move |event: &Value| event[member] == value || event["metadata"][member] == value
    };
    let of_customer =
        |event: &Value| event["aggregate_type"] == "customer" && event["aggregate_id"] == "1";
    let filters: Vec<(&str, Wanted)> = vec![
        ("", Box::new(|_| true)),
        ("&type=CustomerCreated", Box::new(is("type", "CustomerCreated"))),
        ("&type=SessionOpened", Box::new(is("type", "SessionOpened"))),
        ("&type=LoginThrottled", Box::new(|_| false)),
        ("&customer=1", Box::new(of_customer)),
        ("&customer=99", Box::new(|_| false)),
        ("&actor=admin", Box::new(is("actor", "admin"))),
        ("&actor=nobody", Box::new(|_| false)),
        (
            "&customer=1&actor=editor&type=CustomerDeleted",
            Box::new(|event| event["type"] == "CustomerDeleted"),
        ),
    ];
    for (filter, wanted) in &filters {
        let expected: Vec<_> = log.iter().filter(|event| wanted(event)).cloned().collect();
        for limit in [1, 2, 3, 1000] {
            assert_eq!(all(&service, &auditor, filter, limit).await, expected, "{filter} {limit}");
        }
    }
    service.stop().await;
}

#[tokio::test]
async fn a_filter_that_nothing_meets_looks_at_a_bounded_stretch_and_moves_on() {
    let (service, auditor) = registry().await;
    // This request binds the session, which appends an event.
    get(&service, &auditor, "/events").await;
    let query = "insert into events
         select position, 'customer', '7', position, 'CustomerUpdated', '1',
                '{\"type\":\"CustomerUpdated\",\"name\":\"A\",\"dob\":\"1990-12-10\"}', '{}',
                gen_random_uuid(), now() + position * interval '1 millisecond'
         from generate_series($1::bigint, 25000) position";
    let head = customers::events::log::read::head(&service.pools.short).await.unwrap();
    sqlx::query(query).bind(head + 1).execute(&service.pools.long).await.unwrap();
    let mut next = vec![];
    let mut after = 0;
    while after < 25_000 {
        let path = format!("/events?after={after}&actor=nobody");
        let page = get(&service, &auditor, &path).await;
        assert_eq!(events(&page), Vec::<Value>::new());
        after = page.body["next"].as_i64().unwrap();
        next.push(after);
    }
    assert_eq!(next, [10_000, 20_000, 25_000]);
    service.stop().await;
}

#[tokio::test]
async fn what_cannot_be_read_is_named() {
    let (service, auditor) = registry().await;
    let mut lines = String::new();
    for query in [
        "after=999",
        "after=-1",
        "after=x",
        "after=99999999999999999999",
        "limit=0",
        "limit=1001",
        "limit=",
        "type=CustomerErased",
        "type=",
        "customer=0",
        "customer=x",
        "actor=",
        "actor=a%00b",
        "page=2",
        "after=1&after=2",
    ] {
        let answer = get(&service, &auditor, &format!("/events?{query}")).await;
        assert_eq!(answer.status, 400, "{query}: {answer:?}");
        writeln!(lines, "{query}: {}", answer.body["errors"]).unwrap();
    }
    insta::assert_snapshot!("feed_bad_parameters", lines);
    let beyond = service.get("/events").login(&auditor).header("min-event-position", "999");
    let beyond = send(beyond).await;
    assert_eq!(
        (beyond.status, &beyond.body["errors"][0]["field"]),
        (400, &json!("min-event-position"))
    );
    service.stop().await;
}
