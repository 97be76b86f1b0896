//! A path in `CUSTOMERS_PUBLIC_URL`: the service among others on one host. What it says of itself has the path,
//! and it answers with the path and without, so a proxy may remove it or leave it.

use customers::api;
use customers::config::Config;
use customers::events::values::Role;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Service, With as _, address_of, config, empty_body_of, send};
use crate::sessions::{login_of, try_to_log_in, verdict};
use crate::tokens::claims;

async fn service_at(public_url: &str) -> Service {
    // As `Config::from_lookup` reads it.
    let read =
        Config::from_lookup(|name| (name == "CUSTOMERS_PUBLIC_URL").then(|| public_url.to_owned()));
    Service::with(Config { public_url: read.unwrap().public_url, ..config().await }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_address_that_the_service_gives_has_the_path() {
    for (public_url, path) in [
        ("https://h.test/registry", "/registry"),
        ("http://h.test:8080/a/b-c.d_e~f/", "/a/b-c.d_e~f"),
        ("http://h.test/customers", "/customers"),
        ("http://h.test/", ""),
    ] {
        let service = service_at(public_url).await;
        let login = service.log_in_as(Role::Admin).await;
        let base = public_url.trim_end_matches('/');
        assert_eq!(claims(&login)["iss"], base, "the issuer of tokens");
        for _ in 0..2 {
            let body = json!({"name": "Ada", "dob": "1990-12-10"});
            let created = send(service.post("/customers").login(&login).json(&body)).await;
            let location = created.header("location").unwrap();
            assert_eq!(location, format!("{path}/customers/{}", created.body["id"]));
            let shown = send(service.get(location).login(&login)).await;
            assert_eq!(shown.body, created.body, "the address leads to the customer");
        }
        let page = send(service.get("/customers?limit=1").login(&login)).await;
        let link = page.header("link").unwrap().strip_prefix('<').unwrap();
        let link = link.strip_suffix(">; rel=\"next\"").unwrap();
        assert!(link.starts_with(&format!("{path}/customers?")), "{link}");
        let next = send(service.get(link).login(&login)).await;
        assert_eq!((next.status, &next.body["number"]), (200, &json!(1)), "{next:?}");

        let events = service.get("/events?customer=1").login(&login);
        let events = events.header("accept", "application/cloudevents-batch+json");
        let source = send(events).await.body[0]["source"].as_str().unwrap().to_owned();
        assert!(source.starts_with(&format!("{base}/events?log=")), "{source}");

        for (request, slug) in [
            (service.get("/nothing"), "not-found"),
            (service.get("/customers"), "unauthenticated"),
            (service.put("/livez"), "method-not-allowed"),
            (service.get("/customers?x=1").login(&login), "malformed"),
            (service.post("/login").json(&json!({})), "invalid"),
            (service.post("/login").body("x".repeat(100_000)), "too-large"),
            (
                service.get("/events?log=019ac4f2-5c1d-7f30-8e2a-6b7c8d9e0f1a").login(&login),
                "log-restarted",
            ),
        ] {
            let answer = send(request).await;
            assert_eq!(answer.body["type"], format!("{path}/problems/{slug}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cookie_goes_to_the_service_and_not_to_its_neighbours() {
    for (public_url, name, attributes) in [
        (
            "http://h.test/registry",
            "customers_session",
            "HttpOnly; SameSite=Strict; Path=/registry; ",
        ),
        // Browsers take __Host- for the path / only (RFC 6265bis, section 4.1.3.2).
        (
            "https://h.test/registry/",
            "__Secure-session",
            "Secure; HttpOnly; SameSite=Strict; Path=/registry; ",
        ),
        ("https://h.test/", "__Host-session", "Secure; HttpOnly; SameSite=Strict; Path=/; "),
    ] {
        let service = service_at(public_url).await;
        service.add_account("ada", Role::Viewer).await;
        let answer = send(try_to_log_in(&service, "ada", crate::harness::PASSWORD)).await;
        let cookie = answer.header("set-cookie").unwrap();
        assert!(cookie.starts_with(&format!("{name}=")), "{cookie}");
        assert!(cookie.contains(attributes), "{cookie}");
        let login = login_of(&answer);
        let experiment = service.get("/session_cookie_experiment").login(&login);
        assert_eq!(verdict(experiment).await, "200");
        let answer = send(service.delete("/logout").login(&login)).await;
        let cookie = answer.header("set-cookie").unwrap();
        assert_eq!(cookie, format!("{name}=; {attributes}Max-Age=0"), "a log-out removes it");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_answers_with_the_path_and_without() {
    // Also where the path is the beginning of a route.
    for path in ["/registry", "/a/b", "/customers", "/events", "/sessions", "/projections"] {
        let service = service_at(&format!("http://h.test{path}")).await;
        let admin = service.log_in_as(Role::Admin).await;
        let body = json!({"name": "Ada", "dob": "1990-12-10"});
        assert_eq!(send(service.post("/customers").login(&admin).json(&body)).await.status, 201);
        for route in api::routes() {
            let of_route = address_of(&route).replace("{name}", "x");
            let of_route = of_route.replace("{sid}", "x");
            let method: Method = route.method.parse().unwrap();
            let mut statuses = vec![];
            for prefix in ["", path] {
                let request =
                    service.request(method.clone(), &format!("{prefix}{of_route}?surprise=1"));
                let (media_type, body) = empty_body_of(&route);
                let request = request.login(&admin).header("content-type", media_type).body(body);
                let answer = send(request).await;
                statuses.push((answer.status, answer.body["errors"].clone()));
            }
            assert_eq!(statuses[0], statuses[1], "{method} {path} {of_route}");
            assert_ne!(statuses[0].0, 404, "{method} {path} {of_route}");
        }
        for missing in ["/", "/nothing/livez", "x/livez"] {
            let answer = send(service.get(&format!("{path}{missing}"))).await;
            assert_eq!(answer.status, 404, "{path}{missing}: {answer:?}");
        }
        let wrong = send(service.put(&format!("{path}/livez"))).await;
        assert_eq!(
            (wrong.status, wrong.header("allow")),
            (405, Some("GET,HEAD,OPTIONS")),
            "{wrong:?}"
        );
    }
    let elsewhere = service_at("http://h.test").await;
    assert_eq!(send(elsewhere.get("/registry/livez")).await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_waits_for_its_database_answers_with_the_path_too() {
    let place = crate::harness::folder("path");
    let mut serve = crate::process::command(&["serve"], &place);
    serve.envs(crate::harness::variables("postgres://u:p@127.0.0.1:1/x"));
    let port = crate::nginx::free_port();
    serve.env("CUSTOMERS_LISTEN", format!("127.0.0.1:{port}"));
    serve.env("CUSTOMERS_PUBLIC_URL", "https://h.test/registry");
    let mut child = serve.spawn().unwrap();
    let get = async |path: &str| {
        let url = format!("http://127.0.0.1:{port}{path}");
        let answer = crate::harness::client().get(url).send().await.ok()?;
        let status = answer.status();
        Some((status, answer.json::<Value>().await.unwrap()))
    };
    crate::harness::until("it answers", async || get("/livez").await.is_some()).await;
    for prefix in ["", "/registry"] {
        let (status, body) = get(&format!("{prefix}/livez")).await.unwrap();
        assert_eq!((status, &body["status"]), (StatusCode::OK, &json!("ok")));
        let (status, body) = get(&format!("{prefix}/readyz")).await.unwrap();
        assert_eq!(
            (status, &body["status"]),
            (StatusCode::SERVICE_UNAVAILABLE, &json!("unavailable"))
        );
        let (status, body) = get(&format!("{prefix}/customers")).await.unwrap();
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(body["type"], "/registry/problems/unavailable");
    }
    child.kill().await.unwrap();
}

#[test]
fn a_public_url_that_cannot_be_said_of_the_service_is_refused() {
    let read = |text: &str| {
        Config::from_lookup(|name| (name == "CUSTOMERS_PUBLIC_URL").then(|| text.to_owned()))
    };
    for (text, url) in [
        ("https://h.test", "https://h.test"),
        ("https://h.test/", "https://h.test"),
        ("https://h.test:8443", "https://h.test:8443"),
        ("http://[::1]:8080/", "http://[::1]:8080"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("https://h.test/registry/", "https://h.test/registry"),
        ("https://h.test/a/b.c~d_e-f", "https://h.test/a/b.c~d_e-f"),
        ("https://xn--kln-sna.test/x", "https://xn--kln-sna.test/x"),
    ] {
        assert_eq!(read(text).unwrap().public_url(), url);
    }
    for (text, problem) in [
        ("h.test", "must start with http:// or https://"),
        ("ftp://h.test", "must start with http:// or https://"),
        ("https://", "must name a host"),
        ("https:///registry", "must name a host"),
        ("https://:8443", "must name a host"),
        ("https://h.test:0x50", "must name a host"),
        ("https://h.test:99999", "must name a host"),
        ("https://me@h.test", "must name a host"),
        ("https://me:hunter2@h.test/", "must name a host"),
        ("https://a b.test", "must name a host"),
        ("https://[::1", "must name a host"),
        ("https://köln.test", "must name a host"),
        ("https://h.test?x", "must have neither a query nor a fragment"),
        ("https://h.test/registry#x", "must have neither a query nor a fragment"),
        ("https://h.test//registry", "path"),
        ("https://h.test/a//b", "path"),
        ("https://h.test/a/../b", "path"),
        ("https://h.test/./a", "path"),
        ("https://h.test/a%20b", "path"),
        ("https://h.test/a b", "path"),
        ("https://h.test/a;Path=/", "path"),
        ("https://h.test/{id}", "path"),
        ("https://h.test/a\\b", "path"),
        ("https://h.test/köln", "path"),
    ] {
        let error = read(text).expect_err(text);
        assert_eq!(error.variable, "CUSTOMERS_PUBLIC_URL");
        assert!(error.problem.contains(problem), "{text}: {error}");
        assert!(!error.problem.contains("hunter2"), "{error}");
    }
}
