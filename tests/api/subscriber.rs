//! The role `subscriber`: a program that keeps a copy reads customers and their events, and is told neither where
//! changes came from nor what accounts do.

use customers::events::values::Role;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::harness::{Answer, Login, Service, With as _, send};
use crate::sessions::verdict;
use crate::stream::Listener;

/// A service with changes of two customers between log-ins, an auditor and a subscriber.
async fn registry() -> (Service, Login, Login) {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    for name in ["Ada", "Grace"] {
        create(&service, &editor, name).await;
        service.log_in("editor").await;
    }
    let body = json!({"name": "Ada King", "dob": "1990-12-10", "reason": "married"});
    let update = service.put("/customers/1").login(&editor).header("user-agent", "a secret agent");
    assert_eq!(send(update.json(&body)).await.status, 200);
    let auditor = service.log_in_as(Role::Auditor).await;
    let subscriber = service.log_in_as(Role::Subscriber).await;
    // The first request with the cookie binds a session, which appends an event.
    for login in [&auditor, &subscriber] {
        assert_eq!(send(service.get("/me").login(login)).await.status, 200);
    }
    (service, auditor, subscriber)
}

async fn create(service: &Service, login: &Login, name: &str) -> i64 {
    let body = json!({"name": name, "dob": "1990-12-10"});
    send(service.post("/customers").login(login).json(&body)).await.position()
}

async fn get(service: &Service, login: &Login, path: &str) -> Answer {
    let answer = send(service.get(path).login(login)).await;
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer
}

fn events(page: &Answer) -> Vec<Value> {
    page.body["events"].as_array().unwrap().clone()
}

/// What a subscriber shall be shown of the log: written independently of the code.
fn shown(log: Vec<Value>) -> Vec<Value> {
    let mut log = log;
    log.retain(|event| event["aggregate_type"] == "customer");
    for event in &mut log {
        let metadata = event["metadata"].as_object_mut().unwrap();
        assert!(metadata.remove("ip").is_some(), "{metadata:?}");
        metadata.remove("user_agent");
    }
    log
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_is_shown_the_events_of_customers_without_where_they_came_from() {
    let (service, auditor, subscriber) = registry().await;
    let whole = get(&service, &auditor, "/events?limit=1000").await;
    let expected = shown(events(&whole));
    assert_eq!(expected.len(), 3);
    assert!(whole.text.contains("a secret agent"));
    let page = get(&service, &subscriber, "/events?limit=1000").await;
    assert_eq!(events(&page), expected);
    // The last events are of accounts: `next` moves past them.
    assert_eq!(
        (&page.body["next"], &page.body["head"]),
        (&whole.body["head"], &whole.body["head"])
    );
    let (mut after, mut walked) = (json!(0), vec![]);
    while after != page.body["head"] {
        let page = get(&service, &subscriber, &format!("/events?limit=1&after={after}")).await;
        walked.extend(events(&page));
        after = page.body["next"].clone();
    }
    assert_eq!(walked, expected);
    // No filter shows more, and each shows as much as it does to an auditor.
    for filter in [
        "aggregate_type=account",
        "type=SessionOpened,SessionBound",
        "actor=editor",
        "customer=1",
        "aggregate_type=customer&type=CustomerUpdated",
        "from=2000-01-01T00:00:00Z",
    ] {
        let path = format!("/events?limit=1000&{filter}");
        let expected = shown(events(&get(&service, &auditor, &path).await));
        assert_eq!(events(&get(&service, &subscriber, &path).await), expected, "{filter}");
    }
    for accept in ["application/x-ndjson", "application/cloudevents-batch+json"] {
        let request = service.get("/events?limit=1000").login(&subscriber);
        let text = send(request.header("accept", accept)).await.text;
        for hidden in ["127.0.0.1", "a secret agent", "accounts/", "SessionOpened"] {
            assert!(!text.contains(hidden), "{accept}: {hidden} in {text}");
        }
        assert!(text.contains("Ada King"), "{accept}: {text}");
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stream_of_a_subscriber_is_the_feed_of_one() {
    let (service, auditor, subscriber) = registry().await;
    let expected = shown(events(&get(&service, &auditor, "/events?limit=1000").await));
    let stream = |query: &str| service.get(&format!("/events/stream{query}")).login(&subscriber);
    // From the log itself, and then from what all streams share.
    let mut all = Listener::of(stream("?after=0")).await;
    for event in expected {
        assert_eq!(all.selected_event().await, event);
    }
    let mut of_two = Listener::of(stream("?customer=2")).await;
    let editor = service.log_in("editor").await;
    create(&service, &editor, "Alan").await;
    service.log_in("editor").await;
    let body = json!({"name": "Grace H.", "dob": "1990-12-10"});
    assert_eq!(send(service.put("/customers/2").login(&editor).json(&body)).await.status, 200);
    let log = shown(events(&get(&service, &auditor, "/events?limit=1000").await));
    let (created, updated) = (&log[log.len() - 2], &log[log.len() - 1]);
    assert_eq!(all.selected_event().await, *created);
    assert_eq!(all.selected_event().await, *updated);
    assert_eq!(of_two.selected_event().await, *updated);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_reads_the_present_and_neither_changes_nor_looks_back() {
    let (service, _, subscriber) = registry().await;
    let ask = async |request: RequestBuilder| verdict(request.login(&subscriber)).await;
    for path in ["/customers", "/customers?numbers=1", "/customers?limit=1", "/customers/1", "/me"]
    {
        assert_eq!(ask(service.get(path)).await, "200", "{path}");
    }
    let now = customers::clock::rfc3339(service.hands.clock().now());
    for path in [
        "/customers/1/history".to_owned(),
        "/customers/1?version=1".to_owned(),
        format!("/customers?as_of={now}"),
        "/customers?as_of=2020-01-01".to_owned(),
        "/projections".to_owned(),
    ] {
        assert_eq!(ask(service.get(&path)).await, "403 forbidden", "{path}");
    }
    let body = json!({"name": "Ada", "dob": "1990-12-10"});
    for (method, path) in [
        (Method::POST, "/customers"),
        (Method::PUT, "/customers/1"),
        (Method::DELETE, "/customers/1"),
    ] {
        assert_eq!(ask(service.request(method, path).json(&body)).await, "403 forbidden", "{path}");
    }
    // A viewer and an editor are no subscribers.
    for role in [Role::Viewer, Role::Editor] {
        service.add_account(&format!("no {role}").replace(' ', "-"), role).await;
        let login = service.log_in(&format!("no-{role}")).await;
        for path in ["/events", "/events/stream"] {
            assert_eq!(verdict(service.get(path).login(&login)).await, "403 forbidden", "{role}");
        }
    }
    service.stop().await;
}
