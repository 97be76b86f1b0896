//! Invalid paths, query parameters and headers, checked as the bodies in `bad_input` are.

use customers::api;
use reqwest::{Method, RequestBuilder};

use crate::bad_input::table::{Table, named};
use crate::harness::{address_of, empty_body_of};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_customers_id_is_refused_wherever_it_stands() {
    let mut table = Table::start().await;
    let path_ids = "0|-1|+1|01|1.0|1e3|0x1|abc|null|%20|1%20|%00|%ff|%F0%9F|١|1%2F2|\
        9007199254740992|9223372036854775807|9223372036854775808|\
        18446744073709551616"
        .split('|');
    for id in path_ids {
        table.ask(Method::GET, &format!("/customers/{id}"), "", |request| request).await;
        table.ask(Method::DELETE, &format!("/customers/{id}"), "", |request| request).await;
        let body = named("Grace");
        table.json(Method::PUT, &format!("/customers/{id}"), "", body).await;
        let path = format!("/customers/{id}/history");
        table.ask(Method::GET, &path, "", |request| request).await;
        let path = format!("/customers/delete?id={id}");
        table.ask(Method::DELETE, &path, "", |request| request).await;
    }
    for query in ["", "?", "?id", "?id=", "?id=1&id=1", "?id=1&id=2", "?ID=1", "?id=1&x=1"] {
        let path = format!("/customers/delete{query}");
        table.ask(Method::DELETE, &path, "", |request| request).await;
    }
    for id in "0|-1|1.0|1.5|1e3|-0|\"1\"|null|true|[1]|{}|9007199254740992|\
        9223372036854775807|9223372036854775808|18446744073709551615|\
        18446744073709551616|1e400"
        .split('|')
    {
        let body = format!(r#"{{"id":{id},"name":"Grace","dob":"1990-12-10"}}"#);
        table.json(Method::POST, "/customers/update", &format!("id {id}"), body).await;
    }
    insta::assert_snapshot!("bad_ids", table.lines().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_the_parameter_asked_for_is_refused() {
    let mut table = Table::start().await;
    for name in ["numbers", "number"] {
        for value in
            "-1|abc||+1|%2B1|1.0|1.|1e3|0x1|1%00|%201|1,2|null|%EF%BC%91|%ff|NaN".split('|')
        {
            let path = format!("/customers?{name}={value}");
            table.ask(Method::GET, &path, "", |request| request).await;
        }
    }
    for query in "numbers|numbers=1&numbers=1|numbers=1&numbers=2&numbers=3|\
        number=1&number=2|numbers=1&number=1|numbers=1&number=2|Numbers=1|\
        numbers=1&x=2&y=3|&&=|=1|limit=0|limit=1001|limit=x|limit=1&limit=1|after=|after=1|\
        after=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA|numbers=1&limit=1|numbers=1&after=x|number=1&limit=1|\
        as_of=|as_of=2026-02-30|as_of=2026-01-01T00:00:00|as_of=2026-13-01T00:00:00Z|as_of=yesterday|\
        as_of=2999-01-01T00:00:00Z|as_of=2026-01-01T00:00:00Z&as_of=2026-01-01T00:00:00Z"
        .split('|')
    {
        table.ask(Method::GET, &format!("/customers?{query}"), "", |request| request).await;
    }
    for query in [
        "version=",
        "version=x",
        "version=-1",
        "version=1.0",
        "version=1&as_of=2026-01-01T00:00:00Z",
        "as_of=",
        "as_of=now",
        "as_of=2999-01-01T00:00:00Z",
        "numbers=1",
    ] {
        table.ask(Method::GET, &format!("/customers/1?{query}"), "", |request| request).await;
    }
    for query in "limit=0|limit=1001|limit=-1|limit=|limit=abc|limit=99999999999999999999|\
        limit=1&limit=2|after=-1|after=|after=abc|after=1.0|after=1&after=1|\
        numbers=1"
        .split('|')
    {
        let path = format!("/customers/1/history?{query}");
        table.ask(Method::GET, &path, "", |request| request).await;
    }
    insta::assert_snapshot!("bad_parameters", table.lines().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_route_passes_over_a_parameter_that_it_does_not_know() {
    let mut table = Table::start().await;
    for route in api::routes() {
        let path = address_of(&route);
        let method: Method = route.method.parse().unwrap();
        for query in ["surprise=1", "surprise=1&other=&surprise=1"] {
            let path = format!("{path}?{query}");
            if route.path == "/customers/import" {
                let lines = |request: RequestBuilder| request.header("content-type", "text/csv");
                table.ask(method.clone(), &path, "", lines).await;
            } else if route.path == "/oauth/token" {
                let (media_type, body) = empty_body_of(&route);
                let form = |request: RequestBuilder| request.header("content-type", media_type);
                table.ask(method.clone(), &path, body, |request| form(request).body(body)).await;
            } else if matches!(route.method, "POST" | "PUT" | "PATCH") {
                table.json(method.clone(), &path, "{}", "{}").await;
            } else {
                table.ask(method.clone(), &path, "", |request| request).await;
            }
        }
    }
    let lines = table.lines().await;
    assert!(lines.lines().all(|line| line.contains("400 malformed; surprise: ")), "{lines}");
    insta::assert_snapshot!("bad_unknown_parameters", lines);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_that_cannot_be_read_is_refused() {
    let mut table = Table::start().await;
    let min = "min-event-position";
    for path in ["/customers", "/customers/1", "/customers/1/history"] {
        for value in ["", "abc", "-1", "+1", "1.0", "é", "99999999999999999999"] {
            table.header(Method::GET, path, min, &[value]).await;
        }
        table.header(Method::GET, path, min, &["1", "1"]).await;
    }
    for value in ["", "1", "garbage", "\"1", "\"1\" \"2\"", "*, \"1\""] {
        table.header(Method::DELETE, "/customers/1", "if-match", &[value]).await;
        table.header(Method::DELETE, "/customers/delete?id=1", "if-match", &[value]).await;
    }
    table.header(Method::DELETE, "/customers/1", "x-reason", &["a", "b"]).await;
    table.header(Method::DELETE, "/customers/1", "x-reason", &[&"é".repeat(501)]).await;
    insta::assert_snapshot!("bad_headers", table.lines().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_not_said_to_be_json_is_refused() {
    let mut table = Table::start().await;
    let ada = named("Ada");
    let with_body = |route: &&api::Route| matches!(route.method, "POST" | "PUT" | "PATCH");
    let is_form = |route: &&api::Route| route.path == "/oauth/token";
    for route in api::routes().iter().filter(with_body).filter(|route| !is_form(route)) {
        let path = address_of(route);
        let method: Method = route.method.parse().unwrap();
        for value in ["text/plain", "application/x-www-form-urlencoded", "text/json"] {
            let shape = |request: RequestBuilder| request.header("content-type", value);
            let shape = |request| shape(request).body(ada.clone());
            table.ask(method.clone(), &path, value, shape).await;
        }
        table.ask(method.clone(), &path, "no type", |request| request.body(ada.clone())).await;
        table.ask(method, &path, "no type, no body", |request| request).await;
    }
    for value in ["", "json", "application/json5", "application/*", "x, application/json"] {
        table.header(Method::POST, "/customers", "content-type", &[value]).await;
    }
    insta::assert_snapshot!("bad_media_types", table.lines().await);
}
