//! The filters of the feed, of the stream and of histories: what they select, that they combine, and that none of them
//! makes a page long.

use customers::events::log::read;
use customers::events::values::Role;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::harness::{Answer, Login, Service, With as _, send};
use crate::sessions::sid;
use crate::stream::Listener;

/// A service with changes of two customers by two accounts and three sessions, each with a request id of its own; and an
/// auditor, with the log that it was shown whole.
struct Registry {
    service: Service,
    auditor: Login,
    sessions: [String; 3],
    log: Vec<Value>,
}

async fn registry() -> Registry {
    let service = Service::start().await;
    let (editor, admin) =
        (service.log_in_as(Role::Editor).await, service.log_in_as(Role::Admin).await);
    let again = service.log_in("editor").await;
    let body = |name: &str| json!({"name": name, "dob": "1990-12-10"});
    let requests: [(Method, &str, &Login, Value); 7] = [
        (Method::POST, "/customers", &editor, body("Ada")),
        (Method::POST, "/customers", &admin, body("Grace")),
        (Method::PUT, "/customers/1", &again, body("Ada King")),
        (Method::PUT, "/customers/2", &editor, body("Grace H.")),
        (Method::PUT, "/customers/1", &editor, body("Augusta")),
        (Method::DELETE, "/customers/2", &admin, Value::Null),
        (Method::PUT, "/customers/1", &again, body("Ada L.")),
    ];
    for (number, (method, path, login, body)) in requests.into_iter().enumerate() {
        let request = service.request(method, path).login(login);
        let request = request.header("x-request-id", format!("change-{number}"));
        let request = if body.is_null() { request } else { request.json(&body) };
        assert!(send(request).await.status < 300);
    }
    let auditor = service.log_in_as(Role::Auditor).await;
    // This request binds the session, which appends an event.
    send(service.get("/me").login(&auditor)).await;
    let log = send(service.get("/events?limit=1000").login(&auditor)).await;
    let log = log.body["events"].as_array().unwrap().clone();
    let sessions = [sid(&editor), sid(&admin), sid(&again)];
    Registry { service, auditor, sessions, log }
}

async fn get(service: &Service, login: &Login, path: &str) -> Answer {
    let answer = send(service.get(path).login(login)).await;
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer
}

/// The events of all pages, by their links.
async fn all_pages(service: &Service, login: &Login, path: &str) -> Vec<Value> {
    let (mut path, mut found) = (path.to_owned(), vec![]);
    loop {
        let page = get(service, login, &path).await;
        found.extend(page.body["events"].as_array().unwrap().iter().cloned());
        let (next, head) = (&page.body["next"], &page.body["head"]);
        let Some(link) = page.header("link") else {
            assert_eq!(next, head, "{path}: the last page has no link");
            return found;
        };
        assert_ne!(next, head, "{path}");
        let of_link = link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap();
        assert!(of_link.starts_with(&format!("/events?after={next}&")), "{of_link}");
        of_link.clone_into(&mut path);
    }
}

/// Whether a filter selects an event.
type Wanted = Box<dyn Fn(&Value) -> bool>;

/// The filters, each with what it means, written independently of the code.
fn filters(sessions: &[String; 3]) -> Vec<(String, Wanted)> {
    let [first, _, third] = sessions.clone();
    let is_customer = |event: &Value| event["aggregate_type"] == "customer";
    vec![
        ("aggregate_type=customer".to_owned(), Box::new(is_customer) as Wanted),
        ("aggregate_type=account".to_owned(), Box::new(move |event| !is_customer(event))),
        (
            "type=CustomerCreated,CustomerDeleted".to_owned(),
            Box::new(|event| {
                event["type"] == "CustomerCreated" || event["type"] == "CustomerDeleted"
            }),
        ),
        (
            "type=SessionOpened,CustomerUpdated&aggregate_type=account".to_owned(),
            Box::new(|event| event["type"] == "SessionOpened"),
        ),
        ("aggregate_type=account&customer=1".to_owned(), Box::new(|_| false)),
        (
            "request_id=change-3".to_owned(),
            Box::new(|event| event["metadata"]["request_id"] == "change-3"),
        ),
        ("request_id=change-3&type=CustomerDeleted".to_owned(), Box::new(|_| false)),
        ("request_id=nothing".to_owned(), Box::new(|_| false)),
        ("request_id=%27%3B--".to_owned(), Box::new(|_| false)),
        (format!("session={first}"), {
            let first = first.clone();
            Box::new(move |event| event["metadata"]["session"] == first.as_str())
        }),
        (format!("session={third}&aggregate_type=customer&actor=editor"), {
            let third = third.clone();
            Box::new(move |event| {
                event["metadata"]["session"] == third.as_str() && is_customer(event)
            })
        }),
        (
            format!("session={first}&customer=1&request_id=change-4"),
            Box::new(|event| event["metadata"]["request_id"] == "change-4"),
        ),
        (format!("session={third}&request_id=change-0"), Box::new(|_| false)),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_filter_selects_what_it_says_in_pages_of_any_size_and_on_the_stream() {
    let Registry { service, auditor, sessions, log } = registry().await;
    for (filter, wanted) in filters(&sessions) {
        let expected: Vec<_> = log.iter().filter(|event| wanted(event)).cloned().collect();
        for limit in [1, 2, 1000] {
            let path = format!("/events?limit={limit}&{filter}");
            assert_eq!(all_pages(&service, &auditor, &path).await, expected, "{path}");
        }
        let stream = service.get(&format!("/events/stream?after=0&{filter}")).login(&auditor);
        let mut stream = Listener::of(stream).await;
        for event in expected {
            assert_eq!(stream.selected_event().await, event, "{filter}");
        }
    }
    // Not all of the filters select nothing.
    assert!(filters(&sessions).iter().filter(|(_, wanted)| log.iter().any(wanted)).count() > 7);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_goes_on_with_what_it_selects_as_it_is_written() {
    let Registry { service, auditor, .. } = registry().await;
    let editor = service.log_in("editor").await;
    let of = |filter: &str| service.get(&format!("/events/stream?{filter}")).login(&auditor);
    let mut changes = Listener::of(of("aggregate_type=customer&actor=editor")).await;
    let mut log_ins = Listener::of(of("type=SessionOpened,SessionBound")).await;
    let mut positions = vec![];
    for number in 0..3 {
        service.log_in("admin").await;
        let body = json!({"name": format!("Person {number}"), "dob": "1990-12-10"});
        let created = send(service.post("/customers").login(&editor).json(&body)).await;
        positions.push(created.position());
    }
    for position in positions {
        assert_eq!(changes.selected_event().await["position"], position);
    }
    let mut opened = 0;
    while opened < 3 {
        let event = log_ins.selected_event().await;
        assert_eq!(event["aggregate_type"], "account", "{event}");
        opened += i32::from(event["type"] == "SessionOpened" && event["aggregate_id"] == "admin");
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_is_inclusive_and_to_is_exclusive_to_the_microsecond() {
    let Registry { service, auditor, log, .. } = registry().await;
    let times: Vec<&str> = log.iter().map(|event| event["recorded_at"].as_str().unwrap()).collect();
    for (number, time) in times.iter().enumerate() {
        for limit in [2, 1000] {
            let page = format!("/events?limit={limit}");
            let since = all_pages(&service, &auditor, &format!("{page}&from={time}")).await;
            assert_eq!(since, log[number..], "from {time}");
            let before = all_pages(&service, &auditor, &format!("{page}&to={time}")).await;
            assert_eq!(before, log[..number], "to {time}");
        }
        if let Some(later) = times.get(number + 3) {
            let path = format!("/events?from={time}&to={later}&aggregate_type=customer");
            let between = all_pages(&service, &auditor, &path).await;
            let expected = log[number..number + 3].iter();
            let expected: Vec<_> =
                expected.filter(|event| event["aggregate_type"] == "customer").cloned().collect();
            assert_eq!(between, expected, "{path}");
        }
        // `after` and `from` both hold.
        let (early, late) = (number / 2, number + 2);
        for after in [early, late.min(log.len())] {
            let path = format!("/events?after={after}&from={time}");
            let both = all_pages(&service, &auditor, &path).await;
            assert_eq!(both, log[after.max(number)..], "{path}");
        }
    }
    // Nothing has happened after now, and everything before tomorrow.
    let future = "2999-01-01T00:00:00Z";
    let none = get(&service, &auditor, &format!("/events?from={future}")).await;
    assert_eq!((&none.body["events"], &none.body["next"]), (&json!([]), &none.body["head"]));
    assert_eq!(all_pages(&service, &auditor, &format!("/events?to={future}")).await, log);
    assert_eq!(all_pages(&service, &auditor, "/events?from=1000-01-01T00:00:00Z").await, log);
    assert_eq!(
        all_pages(&service, &auditor, "/events?to=1000-01-01T00:00:00Z").await,
        json!([]).as_array().unwrap()[..]
    );
    // Finer than the log's times: the next microsecond.
    let finer = times[4].replace('Z', "001Z");
    let later = all_pages(&service, &auditor, &format!("/events?from={finer}")).await;
    assert_eq!(later, log[5..]);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_is_named() {
    let Registry { service, auditor, .. } = registry().await;
    let long = "x".repeat(256);
    for (query, field) in [
        ("aggregate_type=person".to_owned(), "aggregate_type"),
        ("aggregate_type=".to_owned(), "aggregate_type"),
        ("type=CustomerCreated,".to_owned(), "type"),
        ("type=CustomerCreated, CustomerDeleted".to_owned(), "type"),
        ("type=,".to_owned(), "type"),
        ("request_id=".to_owned(), "request_id"),
        (format!("request_id={long}"), "request_id"),
        ("request_id=a%00b".to_owned(), "request_id"),
        ("session=".to_owned(), "session"),
        ("session=1&session=2".to_owned(), "session"),
    ] {
        for path in [format!("/events?{query}"), format!("/events/stream?{query}")] {
            let answer = send(service.get(&path).login(&auditor)).await;
            assert_eq!(
                (answer.status, &answer.body["errors"][0]["field"]),
                (400, &json!(field)),
                "{path}"
            );
        }
    }
    for (query, field) in [
        ("from=yesterday", "from"),
        ("from=2026-01-01", "from"),
        ("to=", "to"),
        ("from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "to"),
        ("from=2026-01-02T00:00:00Z&to=2026-01-02T00:00:00Z", "to"),
    ] {
        for path in ["/events", "/customers/1/history"] {
            let answer = send(service.get(&format!("{path}?{query}")).login(&auditor)).await;
            assert_eq!(
                (answer.status, &answer.body["errors"][0]["field"]),
                (400, &json!(field)),
                "{path}?{query}"
            );
        }
        let stream = send(service.get(&format!("/events/stream?{query}")).login(&auditor)).await;
        assert_eq!(stream.status, 400, "a stream has no end: {query}");
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_within_a_long_session_looks_at_a_bounded_stretch_and_moves_on() {
    let Registry { service, auditor, .. } = registry().await;
    let head = read::head(&service.pools.short).await.unwrap();
    // Every other event is of one session and one request.
    let insert = "insert into events
         select position, 'customer', '7', position, 'CustomerUpdated', '1',
                '{\"type\":\"CustomerUpdated\",\"name\":\"A\",\"dob\":\"1990-12-10\"}',
                case position % 2 when 0 then '{\"session\":\"long\",\"request_id\":\"import\"}'
                                  else '{}' end::json,
                gen_random_uuid(), now() + position * interval '1 millisecond'
         from generate_series($1::bigint, $1 + 49999) position";
    sqlx::query(insert).bind(head + 1).execute(&service.pools.long).await.unwrap();
    let end = head + 50_000;
    for filter in ["session=long", "request_id=import", "session=long&request_id=import"] {
        // Alone it finds them at once.
        let page = get(&service, &auditor, &format!("/events?{filter}&limit=3")).await;
        assert_eq!(page.body["events"].as_array().unwrap().len(), 3, "{filter}");
        let (mut after, mut pages) = (0, vec![]);
        while after < end {
            let path = format!("/events?after={after}&actor=nobody&{filter}");
            let page = get(&service, &auditor, &path).await;
            assert_eq!(page.body["events"], json!([]), "{filter}");
            let next = page.body["next"].as_i64().unwrap();
            pages.push(next - after);
            after = next;
        }
        // 10,000 events of 25,000 at a time.
        assert_eq!(pages.len(), 3, "{filter}: {pages:?}");
        assert!(pages.iter().all(|pages| *pages <= 20_000 + head), "{filter}: {pages:?}");
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_has_the_changes_between_two_times() {
    let Registry { service, auditor, log, .. } = registry().await;
    service.caught_up().await;
    let history = async |query: &str| {
        let mut versions = vec![];
        let mut path = format!("/customers/1/history?{query}");
        loop {
            let page = get(&service, &auditor, &path).await;
            let changes = page.body["history"].as_array().unwrap().clone();
            versions.extend(changes.iter().map(|change| change["version"].as_i64().unwrap()));
            // The first change of a page is compared with the one before the page.
            for change in &changes {
                let from = &change["changes"][0]["from"];
                assert_eq!(from.is_null(), change["version"] == 1, "{change}");
            }
            let Some(link) = page.header("link") else {
                assert_eq!(page.body["next"], Value::Null);
                return versions;
            };
            let next = link.strip_prefix('<').unwrap().split('>').next().unwrap();
            next.clone_into(&mut path);
        }
    };
    let of_customer = log
        .iter()
        .filter(|event| event["aggregate_type"] == "customer" && event["aggregate_id"] == "1");
    let times: Vec<&str> =
        of_customer.map(|event| event["recorded_at"].as_str().unwrap()).collect();
    assert_eq!(times.len(), 4);
    for limit in ["", "&limit=1", "&limit=2"] {
        for (number, time) in (1..).zip(&times) {
            let since = history(&format!("from={time}{limit}")).await;
            assert_eq!(since, (number..=4).collect::<Vec<_>>(), "from {time}{limit}");
            let before = history(&format!("to={time}{limit}")).await;
            assert_eq!(before, (1..number).collect::<Vec<_>>(), "to {time}{limit}");
        }
        let between = history(&format!("from={}&to={}{limit}", times[1], times[3])).await;
        assert_eq!(between, [2, 3], "{limit}");
        assert_eq!(history(&format!("from=2999-01-01T00:00:00Z{limit}")).await, [0; 0]);
        assert_eq!(history(&format!("to=1999-01-01T00:00:00Z{limit}")).await, [0; 0]);
        assert_eq!(history(&format!("to=2999-01-01T00:00:00Z{limit}")).await, [1, 2, 3, 4]);
    }
    let after = history(&format!("after=2&from={}", times[0])).await;
    assert_eq!(after, [3, 4]);
    let unknown: RequestBuilder =
        service.get("/customers/77/history?from=1999-01-01T00:00:00Z").login(&auditor);
    assert_eq!(send(unknown).await.status, 404);
    service.stop().await;
}
