//! What HTTP expects of every route: OPTIONS and HEAD, 406 for a client that can read no answer, and 428 where changes
//! must name a version.

use customers::api;
use customers::api::problem_types;
use customers::config::{Config, ConfigError};
use customers::events::log::read;
use customers::events::values::Role;
use reqwest::{Method, RequestBuilder};
use serde_json::json;

use crate::contract::DOCUMENT;
use crate::harness::{Answer, Service, With as _, address_of, config, empty_body_of, send};
use crate::sessions::verdict;

/// Routes that watch a process, which disregard `Accept`.
const PROBES: [&str; 3] = ["/livez", "/readyz", "/metrics"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_path_says_what_it_can_do() {
    let service = Service::start().await;
    let routes = api::routes();
    for route in &routes {
        let path = address_of(route);
        let answer = send(service.request(Method::OPTIONS, &path)).await;
        assert_eq!((answer.status, answer.text.as_str()), (204, ""), "{path}");
        let allowed: Vec<&str> = answer.header("allow").unwrap().split(',').collect();
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            let row = if method == "HEAD" { "GET" } else { method };
            let is_there =
                routes.iter().any(|other| (other.method, other.path) == (row, route.path));
            let expected = is_there || method == "OPTIONS";
            assert_eq!(allowed.contains(&method), expected, "{method} {path}: {allowed:?}");
        }
        // As those of every answer.
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    for path in ["/nothing", "/customers/1/nothing"] {
        let answer = send(service.request(Method::OPTIONS, path)).await;
        assert_eq!(answer.status, 404, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn head_is_get_without_the_body_on_every_route() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    let body = json!({"name": "Ada", "dob": "1990-12-10"});
    assert_eq!(send(service.post("/customers").login(&admin).json(&body)).await.status, 201);
    service.caught_up().await;
    let ask = async |method: Method, path: &str| {
        let request = service.request(method, path).login(&admin);
        // A stream does not end, so only its head is compared.
        request.send().await.unwrap()
    };
    for route in api::routes().iter().filter(|route| route.method == "GET") {
        let path = address_of(route);
        let (get, head) = (ask(Method::GET, &path).await, ask(Method::HEAD, &path).await);
        assert_eq!((get.status(), head.status().as_u16()), (head.status(), 200), "{path}");
        for name in ["content-type", "etag", "event-position", "cache-control", "vary"] {
            assert_eq!(get.headers().get(name), head.headers().get(name), "{path}: {name}");
        }
        assert_eq!(head.bytes().await.unwrap().len(), 0, "{path}");
    }
    service.stop().await;
}

/// A request that its route answers with success, or with a problem of its own.
fn request(service: &Service, route: &api::Route) -> RequestBuilder {
    let request = service.request(route.method.parse().unwrap(), &address_of(route));
    match (route.method, route.path) {
        (_, "/customers/import") => {
            request.header("content-type", "text/csv").body("name,dob\nAda,1990-12-10\n")
        }
        ("POST" | "PUT" | "PATCH", _) => {
            let (media_type, body) = empty_body_of(route);
            request.header("content-type", media_type).body(body)
        }
        _ => request,
    }
}

/// The media types that the document has for the answers of a route.
fn media_types(route: &api::Route) -> Vec<String> {
    let operation = &DOCUMENT["paths"][route.path][route.method.to_lowercase()];
    let answers = operation["responses"].as_object().unwrap();
    let good = answers.iter().filter(|(status, _)| status.starts_with('2'));
    let contents = good.filter_map(|(_, answer)| answer["content"].as_object());
    contents.flat_map(|content| content.keys().cloned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_can_read_no_answer_is_told_so_before_anything_is_done() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    send(service.get("/me").login(&admin)).await;
    let head = async || read::head(&service.pools.short).await.unwrap();
    let before = head().await;
    for route in api::routes() {
        let what = format!("{} {}", route.method, route.path);
        let types = media_types(&route);
        assert!(!types.is_empty(), "{what}");
        for accept in ["image/png", "image/*, text/html;q=0, application/*;q=0, text/*;q=0.0"] {
            let answer =
                send(request(&service, &route).login(&admin).header("accept", accept)).await;
            if PROBES.contains(&route.path) {
                assert_ne!(answer.status, 406, "{what}");
                continue;
            }
            assert_eq!(answer.status, 406, "{what} {accept}: {answer:?}");
            assert_eq!(answer.body["type"], "/problems/not-acceptable", "{what}");
            let detail = answer.body["detail"].as_str().unwrap();
            assert!(types.iter().all(|media_type| detail.contains(media_type)), "{what}: {detail}");
        }
        // Nothing, anything, a part of it, or more precisely than the service says (RFC 9110, section 12.5.1).
        let one = &types[0];
        let group = format!("{}/*;q=0.001", one.split('/').next().unwrap());
        for accept in
            ["", "*/*", "image/png, */*;q=0.1", one, &group, &format!("{one};charset=utf-8")]
        {
            let ask = request(&service, &route).header("accept", accept);
            let answer = ask.send().await.unwrap();
            assert_ne!(answer.status(), 406, "{what} {accept:?}");
        }
    }
    assert_eq!(head().await, before, "a request that was not acceptable changed something");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_problem_is_replaced_by_that_of_accept() {
    let service = Service::start().await;
    let (viewer, admin) =
        (service.log_in_as(Role::Viewer).await, service.log_in_as(Role::Admin).await);
    let body = json!({"name": "Ada", "dob": "1990-12-10"});
    let post = || service.post("/customers");
    for (request, expected) in [
        (service.get("/nothing"), "404 not-found"),
        (service.put("/customers"), "405 method-not-allowed"),
        (post().body("x".repeat(100_000)), "413 too-large"),
        (post().json(&body), "401 unauthenticated"),
        (post().login(&viewer).json(&body), "403 forbidden"),
        (post().login(&admin).body("{}"), "415 unsupported-media-type"),
        (
            post().login(&admin).header("content-type", "application/json").body("{"),
            "400 malformed",
        ),
        (service.get("/customers?x=1").login(&admin), "400 malformed"),
        (post().login(&admin).json(&json!({})), "406 not-acceptable"),
        (service.get("/customers/77").login(&admin), "406 not-acceptable"),
        (service.delete("/customers/77").login(&admin), "406 not-acceptable"),
    ] {
        let what = format!("{request:?}");
        assert_eq!(verdict(request.header("accept", "image/png")).await, expected, "{what}");
    }
    // A client that accepts the answer gets a problem as a problem, whatever it says of those.
    let missing = service.get("/customers/77").login(&admin).header("accept", "application/json");
    assert_eq!(verdict(missing).await, "404 not-found");
    service.stop().await;
}

fn refused(answer: &Answer) -> bool {
    assert_eq!(
        (answer.status == 428, answer.body["type"] == "/problems/precondition-required"),
        (answer.status == 428, answer.status == 428),
        "{answer:?}"
    );
    answer.status == 428
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_names_its_version_where_the_installation_demands_it() {
    let demanding = Config { require_if_match: true, ..config().await };
    for config in [config().await, demanding] {
        let is_demanded = config.require_if_match;
        let service = Service::with(config).await;
        let editor = service.log_in_as(Role::Editor).await;
        let ada = json!({"name": "Ada", "dob": "1990-12-10"});
        let named = json!({"id": 1, "name": "Ada", "dob": "1990-12-10"});
        // Creates and imports have no version to name.
        assert_eq!(send(service.post("/customers").login(&editor).json(&ada)).await.status, 201);
        let changes = || {
            [
                service.put("/customers/1").json(&ada),
                service.post("/customers/update").json(&named),
                service.delete("/customers/77"),
                service.delete("/customers/delete?id=77"),
            ]
            .map(|request| request.login(&editor))
        };
        for (number, request) in changes().into_iter().enumerate() {
            let answer = send(request).await;
            assert_eq!(refused(&answer), is_demanded, "{number}: {answer:?}");
        }
        let restored = service.post("/customers/1/restore").json(&json!({"version": 1}));
        assert_eq!(refused(&send(restored.login(&editor)).await), is_demanded);
        // A create names no version, but that there is none.
        let put = || service.put("/customers/external/a").login(&editor).json(&ada);
        assert_eq!(refused(&send(put()).await), is_demanded);
        let created = send(put().header("if-none-match", "*")).await.status;
        assert_eq!(created, if is_demanded { 201 } else { 412 });
        // What cannot be read comes first; another condition is no version.
        let broken = service.put("/customers/1").login(&editor).json(&json!({"name": ""}));
        assert_eq!(send(broken).await.status, 422);
        let other = changes().into_iter().next().unwrap().header("if-none-match", "\"9\"");
        assert_eq!(refused(&send(other).await), is_demanded);
        for (version, statuses) in [("\"1\"", [200, 200, 404, 404]), ("*", [200, 200, 404, 404])] {
            for (request, status) in changes().into_iter().zip(statuses) {
                let answer = send(request.header("if-match", version)).await;
                assert_eq!(answer.status, status, "{version}: {answer:?}");
            }
        }
        let stale = service.put("/customers/1").login(&editor).header("if-match", "\"9\"");
        assert_eq!(send(stale.json(&ada)).await.status, 412);
        service.stop().await;
    }
    let lookup = |value: &'static str| {
        Config::from_lookup(move |name| {
            (name == "CUSTOMERS_REQUIRE_IF_MATCH").then(|| value.to_owned())
        })
    };
    assert!(lookup("true").unwrap().require_if_match);
    assert!(!lookup("false").unwrap().require_if_match);
    assert!(!lookup("").unwrap().require_if_match);
    for wrong in ["yes", "1", "TRUE", "on"] {
        let expected = ConfigError::new("CUSTOMERS_REQUIRE_IF_MATCH", "must be true or false");
        assert_eq!(lookup(wrong).unwrap_err(), expected, "{wrong}");
    }
}

#[test]
fn the_new_problems_are_explained() {
    for (slug, status) in [("not-acceptable", 406), ("precondition-required", 428)] {
        let kind = problem_types::ALL.into_iter().find(|kind| kind.slug == slug).unwrap();
        assert_eq!(kind.status.as_u16(), status);
    }
}
