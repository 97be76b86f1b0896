//! The order of refusals when several apply (docs/api.md, Errors); unknown routes, request ids and the
//! rate limit of a client.

use std::time::Instant;

use customers::events::values::Role;
use reqwest::{Method, RequestBuilder};

use crate::harness::{Service, With as _, config, send};

/// Adds a body over the limit, with its `Content-Length`.
fn too_large(request: RequestBuilder) -> RequestBuilder {
    request.body(" ".repeat(64 * 1024 + 1))
}

fn plain(request: RequestBuilder, body: &str) -> RequestBuilder {
    request.header("content-type", "text/plain").body(body.to_owned())
}

fn json(request: RequestBuilder, body: &str) -> RequestBuilder {
    request.header("content-type", "application/json").body(body.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_refusal_in_order_is_the_one_that_is_answered() {
    let service = Service::start().await;
    let viewer = service.log_in_as(Role::Viewer).await;
    let editor = service.log_in_as(Role::Editor).await;
    let put = |id: i64| service.put(&format!("/customers/{id}")).token(&editor);
    let post = || service.post("/customers");
    let ada = r#"{"id":1,"name":"Ada","dob":"1990-12-10"}"#;
    assert_eq!(send(json(post().token(&editor), ada)).await.status, 201);
    let reason = "x".repeat(501);

    for (what, request, status) in [
        ("404 before 413", too_large(service.post("/nothing")), 404),
        ("405 before 413", too_large(service.request(Method::PATCH, "/customers")), 405),
        ("404 before 401", service.get("/nothing"), 404),
        ("405 before 401", service.request(Method::PATCH, "/customers"), 405),
        ("413 before 401", too_large(post()), 413),
        ("413 before 403", too_large(post().token(&viewer)), 413),
        ("413 before 415", plain(too_large(post().token(&editor)), &" ".repeat(65_537)), 413),
        ("401 before 415", plain(post(), "{"), 401),
        ("401 before 400", json(service.post("/customers?x=1"), "{"), 401),
        ("401 before 400, header", post().header("x-reason", &reason), 401),
        ("403 before 415", plain(post().token(&viewer), "{"), 403),
        ("403 before 400", json(service.post("/customers?x=1").token(&viewer), "{"), 403),
        ("403 before 400, header", post().token(&viewer).header("x-reason", &reason), 403),
        ("403 before 422", json(post().token(&viewer), "{}"), 403),
        ("403 before 404", json(service.put("/customers/9").token(&viewer), ada), 403),
        ("415 before 400", plain(service.post("/customers?x=1").token(&editor), "{"), 415),
        (
            "415 before 400, reason",
            plain(post().token(&editor), ada).header("x-reason", &reason),
            415,
        ),
        ("415 before 400, match", plain(put(1), ada).header("if-match", "garbage"), 415),
        ("415 before 404", plain(put(9), ada), 415),
        ("400 before 404", json(put(9), "{"), 400),
        ("400 before 404, match", json(put(9), ada).header("if-match", "garbage"), 400),
        ("400 before 404, reason", json(put(9), ada).header("x-reason", &reason), 400),
        ("400 before 404, query", service.get("/customers/abc?x=1").token(&editor), 400),
        ("422 before 404", json(put(9), r#"{"name":""}"#), 422),
        ("422 before 404, id", json(service.put("/customers/abc").token(&editor), "{}"), 422),
        ("422 before 412", json(put(1), "{}").header("if-match", "\"9\""), 422),
        (
            "400 before 412",
            json(service.put("/customers/1?x=1").token(&editor), ada).header("if-match", "\"9\""),
            400,
        ),
        ("404 before 412", json(put(9), ada).header("if-match", "\"9\""), 404),
        ("412", json(put(1), ada).header("if-match", "\"9\""), 412),
    ] {
        let answer = send(request).await;
        assert_eq!(answer.status, status, "{what}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_paths_and_methods_are_problems_that_say_so() {
    let service = Service::start().await;
    for path in [
        "/",
        "/nothing",
        "/customers/",
        "/customers/1/",
        "/customers/1/nothing",
        "//customers",
        "/Customers",
        "/livez/",
    ] {
        let answer = send(service.get(path)).await;
        assert_eq!(
            answer.shape(),
            r#"404 {"detail":"no such resource","request_id":"[id]","status":404,"title":"Not found","type":"/problems/not-found"}"#,
            "{path}"
        );
    }
    for (method, path, allow) in [
        (Method::PATCH, "/customers", "GET,HEAD,OPTIONS,POST"),
        (Method::DELETE, "/customers", "GET,HEAD,OPTIONS,POST"),
        (Method::POST, "/customers/1", "DELETE,GET,HEAD,OPTIONS,PUT"),
        (Method::GET, "/login", "OPTIONS,POST"),
        (Method::POST, "/logout", "DELETE,OPTIONS"),
        (Method::GET, "/customers/create", "OPTIONS,POST"),
        (Method::POST, "/customers/1/history", "GET,HEAD,OPTIONS"),
        (Method::PUT, "/livez", "GET,HEAD,OPTIONS"),
        (Method::TRACE, "/readyz", "GET,HEAD,OPTIONS"),
    ] {
        let answer = send(service.request(method.clone(), path)).await;
        assert_eq!(
            answer.shape(),
            r#"405 {"detail":"the resource does not support this method","request_id":"[id]","status":405,"title":"Method not allowed","type":"/problems/method-not-allowed"}"#,
            "{method} {path}"
        );
        let mut allowed: Vec<_> =
            answer.header("allow").unwrap().split(',').map(str::trim).collect();
        allowed.sort_unstable();
        assert_eq!(allowed.join(","), allow, "{method} {path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_keeps_its_own_id_if_that_is_short_and_plain() {
    let service = Service::start().await;
    let longest = "x".repeat(64);
    for id in ["a", "0198c1a2-7b3c-7def-8123-456789abcdef", "A.b_c-9", longest.as_str()] {
        for path in ["/livez", "/nothing", "/customers"] {
            let answer = send(service.get(path).header("x-request-id", id)).await;
            assert_eq!(answer.header("x-request-id"), Some(id));
        }
    }
    let too_long = "x".repeat(65);
    for id in ["", " ", "a b", "a/b", "a,b", "\"a\"", "<script>", "a\tb", "é", too_long.as_str()] {
        let answer = send(service.get("/livez").header("x-request-id", id)).await;
        let given = answer.header("x-request-id").unwrap();
        assert_ne!(given, id);
        assert!(uuid::Uuid::parse_str(given).is_ok(), "{given}");
    }
    let own = |answer: crate::harness::Answer| answer.header("x-request-id").unwrap().to_owned();
    let ids = [own(send(service.get("/livez")).await), own(send(service.get("/livez")).await)];
    assert_ne!(ids[0], ids[1]);
}

/// The rate limit in these tests, in requests per second.
const PER_SECOND: u32 = 5;

/// Sends requests until one gets a 429. Checks that at least `least` requests before it got `status`, and
/// no more than the limit allows.
async fn exhaust(
    service: &Service,
    (path, status): (&str, u16),
    least: u32,
    from: impl Fn(u32) -> String,
) {
    let started = Instant::now();
    for number in 0..1000 {
        let answer = send(service.get(path).header("x-forwarded-for", from(number))).await;
        if answer.status == 429 {
            assert!(number >= least, "only {number} requests were admitted");
            assert!(answer.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
            assert_eq!(
                answer.shape(),
                r#"429 {"detail":"too many requests","request_id":"[id]","status":429,"title":"Too many requests","type":"/problems/rate-limited"}"#
            );
            return;
        }
        assert_eq!(answer.status, status);
        // The burst is the limit of a full second; then one more request per fifth of a second.
        let most = f64::from(PER_SECOND) * (started.elapsed().as_secs_f64() + 1.0) + 1.0;
        assert!(f64::from(number) <= most, "{number} requests in {:?}", started.elapsed());
    }
    panic!("no request was refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_requests_per_second_than_configured_are_refused() {
    let mut config = config().await;
    config.rate_limit = PER_SECOND;
    let service = Service::with(config).await;
    // Requests with an unknown route, a wrong method or too large a body do not count.
    for _ in 0..20 {
        assert_eq!(send(service.get("/nothing")).await.status, 404);
        assert_eq!(send(service.put("/livez")).await.status, 405);
        assert_eq!(send(too_large(service.post("/customers"))).await.status, 413);
    }
    exhaust(&service, ("/livez", 200), PER_SECOND, |_| "192.0.2.1".to_owned()).await;

    // One limit covers all routes. It is checked after 404, 405 and 413, and before authentication.
    exhaust(&service, ("/customers", 401), 0, |_| "192.0.2.1".to_owned()).await;
    assert_eq!(send(service.get("/nothing")).await.status, 404);
    assert_eq!(send(too_large(service.post("/customers"))).await.status, 413);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gets_more_requests_by_naming_other_addresses() {
    let mut config = config().await;
    config.rate_limit = PER_SECOND;
    let service = Service::with(config).await;
    exhaust(&service, ("/livez", 200), PER_SECOND, |number| format!("192.0.2.{}", number % 250))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_behind_a_trusted_proxy_have_a_limit_each() {
    let mut config = config().await;
    config.rate_limit = PER_SECOND;
    config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let service = Service::with(config).await;
    for number in 0..30 {
        let from = format!("198.51.100.7, 192.0.2.{number}");
        assert_eq!(send(service.get("/livez").header("x-forwarded-for", from)).await.status, 200);
    }
    // Only the last address is the proxy's; the addresses before it come from the client and are ignored.
    exhaust(&service, ("/livez", 200), PER_SECOND, |number| {
        format!("198.51.100.{number}, 192.0.2.99")
    })
    .await;
}
