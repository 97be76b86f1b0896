//! Conditional requests (RFC 9110, section 13): `If-None-Match` beside `If-Match`, and what happens to a
//! condition on a route that compares none. `If-Match` on changes is tested in `if_match`.

use customers::api;
use customers::events::log::read;
use customers::events::values::Role;
use reqwest::header::HeaderValue;
use reqwest::{Method, RequestBuilder};
use serde_json::json;

use crate::harness::{Answer, Login, Service, With as _, address_of, send};
use crate::if_match::{ada, at_version_2};

/// The values of `If-None-Match`, and whether one of them names version 2, by the weak comparison.
const TAGS: [(&[&str], bool); 17] = [
    (&["*"], true),
    (&["\t* "], true),
    (&[r#""2""#], true),
    (&[r#"W/"2""#], true),
    (&[r#""1", W/"2""#], true),
    (&[r#""1""#, r#""2""#], true),
    (&[r#", "9",,W/"2","#], true),
    // Tags of others, with all that a tag may hold (section 8.8.3).
    (&["\"a,b\", \"\u{fc}'\\\", \"2\""], true),
    (&[r#""1""#], false),
    (&[r#"W/"3", "1""#], false),
    (&[r#""*""#], false),
    (&[r#""""#], false),
    (&[r#""02""#], false),
    (&[r#""2-gzip""#], false),
    (&[r#""-2""#], false),
    (&["\"\u{fc}\""], false),
    (&[r#""99999999999999999999""#], false),
];

const BROKEN: [&[&str]; 12] = [
    &[""],
    &[",, ,"],
    &["2"],
    &[r#""2"#],
    &[r#""2" "3""#],
    &[r#""2"3"#],
    &[r#""2 3""#],
    &[r#"w/"2""#],
    &[r#"W /"2""#],
    &[r#"*, "2""#],
    &["*", r#""2""#],
    &[r#""2""#, "garbage"],
];

/// The request with a header of each value, as UTF-8.
fn with(request: RequestBuilder, name: &str, values: &[&str]) -> RequestBuilder {
    values.iter().fold(request, |request, value| {
        request.header(name, HeaderValue::from_bytes(value.as_bytes()).unwrap())
    })
}

fn assert_malformed(answer: &Answer, name: &str, what: &str) {
    assert_eq!(answer.status, 400, "{what}: {answer:?}");
    assert_eq!(answer.body["errors"][0]["field"], name, "{what}: {answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_the_client_has_is_not_sent_again() {
    let (service, editor) = at_version_2().await;
    let read = |method: Method| service.request(method, "/customers/1").token(&editor);
    let whole = send(read(Method::GET)).await;
    for (values, has_it) in TAGS {
        for method in [Method::GET, Method::HEAD] {
            let is_head = method == Method::HEAD;
            let answer = send(with(read(method), "if-none-match", values)).await;
            assert_eq!(answer.header("etag"), Some(r#""2""#), "{values:?}");
            assert_eq!(answer.header("cache-control"), Some("no-store"), "{values:?}");
            assert!(answer.header("date").is_some(), "{values:?}");
            if has_it {
                // What describes a body that is not sent would overwrite what the client stored.
                assert_eq!((answer.status, answer.text.as_str()), (304, ""), "{values:?}");
                assert_eq!(answer.header("content-type"), None, "{values:?}");
                assert_eq!(answer.header("content-length"), None, "{values:?}");
                assert_eq!(answer.header("transfer-encoding"), None, "{values:?}");
            } else {
                let expected = if is_head { "" } else { &whole.text };
                assert_eq!((answer.status, answer.text.as_str()), (200, expected), "{values:?}");
            }
        }
    }
    for values in BROKEN {
        let answer = send(with(read(Method::GET), "if-none-match", values)).await;
        assert_malformed(&answer, "if-none-match", &format!("{values:?}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_has_the_conditions_of_the_version_that_it_shows() {
    let (service, _) = at_version_2().await;
    let auditor = service.log_in_as(Role::Auditor).await;
    let ask = async |path: &str, conditions: &[(&str, &str)]| {
        let request = service.get(path).token(&auditor);
        let add =
            |request: RequestBuilder, (name, value): &(&str, &str)| with(request, name, &[value]);
        send(conditions.iter().fold(request, add)).await
    };
    let created = "/customers/1?version=1";
    for (path, conditions, status) in [
        ("/customers/1", &[("if-match", r#""2""#)][..], 200),
        ("/customers/1", &[("if-match", r#"W/"2""#)], 412),
        ("/customers/1", &[("if-match", r#""1""#)], 412),
        ("/customers/1", &[("if-match", "*"), ("if-none-match", "*")], 304),
        // If-Match comes first (section 13.2.2).
        ("/customers/1", &[("if-match", r#""1""#), ("if-none-match", r#""2""#)], 412),
        ("/customers/1", &[("if-match", r#""2""#), ("if-none-match", r#""1""#)], 200),
        (created, &[("if-none-match", r#""1""#)], 304),
        (created, &[("if-none-match", r#""2""#)], 200),
        (created, &[("if-match", r#""2""#)], 412),
        // Nothing to compare with: there is no version, or no date.
        ("/customers/77", &[("if-none-match", "*")], 404),
        ("/customers/77", &[("if-match", "*")], 404),
        ("/customers/1", &[("if-modified-since", "Sat, 01 Jan 2050 00:00:00 GMT")], 200),
        ("/customers/1", &[("if-unmodified-since", "Sat, 01 Jan 2000 00:00:00 GMT")], 200),
    ] {
        assert_eq!(ask(path, conditions).await.status, status, "{path} {conditions:?}");
    }
    assert_eq!(
        ask("/customers/1", &[("if-match", r#""1""#)]).await.shape(),
        r#"412 {"detail":"the customer is at version 2","request_id":"[id]","status":412,"title":"Version mismatch","type":"/problems/version-mismatch"}"#
    );
}

/// A request of each spelling of an update with the current values, and of a deletion.
fn changes(service: &Service, editor: &Login, id: &str) -> [RequestBuilder; 4] {
    let mut named = ada();
    named["id"] = id.parse::<i64>().unwrap().into();
    [
        service.put(&format!("/customers/{id}")).json(&ada()),
        service.post("/customers/update").json(&named),
        service.delete(&format!("/customers/{id}")),
        service.delete(&format!("/customers/delete?id={id}")),
    ]
    .map(|request| request.token(editor))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_made_only_of_a_version_that_was_not_named() {
    let (service, editor) = at_version_2().await;
    for (values, is_named) in TAGS {
        for (number, request) in changes(&service, &editor, "1").into_iter().enumerate() {
            // A deletion that is made would end the test.
            if number < 2 || is_named {
                let answer = send(with(request, "if-none-match", values)).await;
                assert_eq!(answer.status, if is_named { 412 } else { 200 }, "{values:?}");
                if is_named {
                    assert_eq!(answer.body["detail"], "the customer is at version 2");
                }
            }
        }
    }
    for values in BROKEN {
        for request in changes(&service, &editor, "1") {
            let answer = send(with(request, "if-none-match", values)).await;
            assert_malformed(&answer, "if-none-match", &format!("{values:?}"));
        }
    }
    // An update creates no customer, so there is none to protect.
    for request in changes(&service, &editor, "77") {
        assert_eq!(send(request.header("if-none-match", "*")).await.status, 404);
    }
    let delete = service.delete("/customers/1").token(&editor).header("if-none-match", r#""1""#);
    assert_eq!(send(delete).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_conditions_hold_or_nothing_changes() {
    let (service, editor) = at_version_2().await;
    for (if_match, if_none_match, status) in [
        (r#""2""#, r#""1", "3""#, 200),
        (r#""1", "2""#, r#""1""#, 200),
        ("*", r#""1""#, 200),
        (r#""2""#, r#"W/"2""#, 412),
        (r#""2""#, "*", 412),
        ("*", "*", 412),
        (r#""1", "2""#, r#""2", "1""#, 412),
        (r#""1""#, r#""1""#, 412),
        (r#"W/"2""#, r#""1""#, 412),
    ] {
        let [request, ..] = changes(&service, &editor, "1");
        let request = request.header("if-match", if_match).header("if-none-match", if_none_match);
        assert_eq!(send(request).await.status, status, "{if_match} {if_none_match}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_date_is_no_version_and_protects_no_change() {
    const DATES: [&str; 4] =
        ["Sat, 01 Jan 2050 00:00:00 GMT", "Sat, 01 Jan 2000 00:00:00 GMT", "yesterday", ""];
    let (service, editor) = at_version_2().await;
    for date in DATES {
        for request in changes(&service, &editor, "1") {
            let answer = send(request.header("if-unmodified-since", date)).await;
            assert_malformed(&answer, "if-unmodified-since", date);
            let detail = answer.body["errors"][0]["detail"].as_str().unwrap();
            assert!(detail.contains("If-Match"), "{detail}");
        }
        // Of both, If-Match counts (section 13.1.4).
        for (version, status) in [(r#""2""#, 200), (r#""1""#, 412)] {
            let [update, ..] = changes(&service, &editor, "1");
            let update = update.header("if-unmodified-since", date).header("if-match", version);
            assert_eq!(send(update).await.status, status, "{date:?} {version}");
        }
        // Not for changes (section 13.1.3).
        let [update, ..] = changes(&service, &editor, "1");
        assert_eq!(send(update.header("if-modified-since", date)).await.status, 200, "{date:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_condition_is_part_of_a_request_that_is_executed_once() {
    let (service, editor) = at_version_2().await;
    let update = async |conditions: &[(&'static str, &'static str)]| {
        let body = json!({"name": "Grace", "dob": "1990-12-10"});
        let request = service.put("/customers/1").token(&editor).json(&body);
        let request = request.header("idempotency-key", "one");
        send(
            conditions.iter().fold(request, |request, (name, value)| request.header(*name, *value)),
        )
        .await
    };
    assert_eq!(update(&[("if-none-match", r#""1""#)]).await.status, 200);
    let again = update(&[("if-none-match", r#"W/"1""#)]).await;
    assert_eq!((again.status, again.header("idempotent-replayed")), (200, Some("true")));
    for other in [&[][..], &[("if-none-match", r#""2""#)], &[("if-match", r#""1""#)]] {
        assert_eq!(update(other).await.status, 422, "{other:?}");
    }
}

/// The routes that compare the version of a customer before they change it.
const COMPARED: [(&str, &str); 6] = [
    ("POST", "/customers/update"),
    ("DELETE", "/customers/delete"),
    ("PUT", "/customers/{id}"),
    ("PUT", "/customers/external/{external_id}"),
    ("POST", "/customers/{id}/restore"),
    ("DELETE", "/customers/{id}"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_route_that_changes_something_ignores_a_condition() {
    let (service, _) = at_version_2().await;
    let admin = service.log_in_as(Role::Admin).await;
    let head = async || read::head(&service.pools.short).await.unwrap();
    let before = head().await;
    let others = api::routes().into_iter().filter(|route| route.method != "GET");
    let others = others.filter(|route| !COMPARED.contains(&(route.method, route.path)));
    let mut tried = 0;
    for route in others {
        for (name, value) in [
            ("if-match", r#""2""#),
            ("if-match", "garbage"),
            ("if-none-match", "*"),
            ("if-none-match", r#""2""#),
            ("if-unmodified-since", "Sat, 01 Jan 2050 00:00:00 GMT"),
        ] {
            let path = route.path.replace("{sid}", "0").replace("{name}", "customers");
            let request = service.request(route.method.parse().unwrap(), &path).token(&admin);
            let request = if route.path == "/customers/import" {
                request.header("content-type", "text/csv").body("name,dob\nAda,1990-12-10\n")
            } else if route.path == "/oauth/token" {
                request
                    .header("content-type", "application/x-www-form-urlencoded")
                    .body("grant_type=client_credentials")
            } else {
                request.json(&json!({
                    "name": "Ada", "dob": "1990-12-10", "username": "admin", "password": "x",
                    "old": crate::harness::PASSWORD, "new": "another password"
                }))
            };
            let what = format!("{} {} {name}", route.method, route.path);
            assert_malformed(&send(request.header(name, value)).await, name, &what);
            tried += 1;
        }
    }
    assert!(tried >= 40, "only {tried} requests");
    assert_eq!(head().await, before, "a request with a condition changed something");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_that_reads_compares_what_it_has() {
    let (service, _) = at_version_2().await;
    let admin = service.log_in_as(Role::Admin).await;
    for route in api::routes().into_iter().filter(|route| route.method == "GET") {
        let path = address_of(&route);
        let ask = async |name: &str, value: &str| {
            let request = service.get(&path).login(&admin);
            let answer = request.header(name, value).send().await.unwrap();
            (answer.status().as_u16(), answer.headers().contains_key("content-type"))
        };
        let has_version = route.path == "/customers/{id}";
        for (name, value, expected) in [
            ("if-none-match", "*", (304, false)),
            ("if-none-match", r#""other""#, (200, true)),
            ("if-none-match", r#"W/"2""#, if has_version { (304, false) } else { (200, true) }),
            ("if-match", "*", (200, true)),
            ("if-match", r#""2""#, if has_version { (200, true) } else { (412, true) }),
            ("if-match", r#""other""#, (412, true)),
            ("if-none-match", "garbage", (400, true)),
            ("if-match", "garbage", (400, true)),
        ] {
            assert_eq!(ask(name, value).await, expected, "{path} {name}: {value}");
        }
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_any_version_meets_is_met_where_there_is_none() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    let create = service.post("/customers").token(&editor).json(&ada()).header("if-match", "*");
    assert_eq!(send(create).await.status, 201);
}
