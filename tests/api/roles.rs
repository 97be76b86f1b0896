//! Authorization: every route with every role, and the forms of `Authorization`.

use customers::api;
use customers::events::values::Role;
use reqwest::header::HeaderValue;
use reqwest::{Method, RequestBuilder};
use serde_json::json;

use crate::harness::{Answer, Login, Service, With as _, address_of, empty_body_of, send};

/// A request that an authorized caller gets a 400 for: it shows whether the route admits the role, and
/// changes nothing. Of accounts it is for the caller's own.
fn probe(service: &Service, route: &api::Route, role: Role) -> RequestBuilder {
    let address = address_of(route).replace("/accounts/admin", &format!("/accounts/{role}"));
    let request = service.request(route.method.parse().unwrap(), &format!("{address}?surprise=1"));
    match route.method {
        "POST" | "PUT" | "PATCH" => {
            let (media_type, body) = empty_body_of(route);
            request.header("content-type", media_type).body(body)
        }
        _ => request,
    }
}

fn assert_not_logged_in(answer: &Answer, what: &str) {
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{what}");
    assert_eq!(
        answer.shape(),
        r#"401 {"detail":"a valid token and its session are required","request_id":"[id]","status":401,"title":"Unauthenticated","type":"/problems/unauthenticated"}"#,
        "{what}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_role_is_let_in_exactly_where_the_table_of_routes_says() {
    let service = Service::start().await;
    for role in Role::ALL {
        let login = service.log_in_as(role).await;
        for route in api::routes() {
            let what = format!("{role}: {} {}", route.method, route.path);
            let answer = send(probe(&service, &route, role).login(&login)).await;
            match route.role {
                Some(needed) if !role.covers(needed) => {
                    let whole = format!(
                        r#"403 {{"detail":"the role {needed} is required","request_id":"[id]","status":403,"title":"Forbidden","type":"/problems/forbidden"}}"#
                    );
                    assert_eq!(answer.shape(), whole, "{what}");
                }
                Some(_) | None => {
                    assert_eq!(answer.status, 400, "{what}");
                    assert_eq!(answer.body["errors"][0]["field"], "surprise", "{what}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_let_in_without_a_token_where_one_is_needed() {
    let service = Service::start().await;
    for route in api::routes() {
        let what = format!("{} {}", route.method, route.path);
        let probe = || probe(&service, &route, Role::Admin);
        let bare = send(probe()).await;
        let garbage = send(probe().bearer_auth("garbage")).await;
        if route.role.is_some() {
            assert_not_logged_in(&bare, &what);
            assert_not_logged_in(&garbage, &what);
        } else {
            assert_eq!([bare.status, garbage.status], [400, 400], "{what}");
        }
    }
}

/// The roles and routes of docs/api.md, written independently of the code.
#[test]
fn the_roles_are_what_the_design_says() {
    let covered = |role: Role| Role::ALL.map(|needed| role.covers(needed));
    // viewer, editor, subscriber, auditor, admin
    assert_eq!(covered(Role::Viewer), [true, false, false, false, false]);
    assert_eq!(covered(Role::Editor), [true, true, false, false, false]);
    assert_eq!(covered(Role::Subscriber), [true, false, true, false, false]);
    assert_eq!(covered(Role::Auditor), [true, false, true, true, false]);
    assert_eq!(covered(Role::Admin), [true, true, true, true, true]);
    let table: Vec<_> = api::routes()
        .iter()
        .map(|route| {
            let role = route.role.map_or("-", Role::as_str);
            format!("{} {} {role}", route.method, route.path)
        })
        .collect();
    insta::assert_snapshot!("routes", table.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_one_plain_bearer_token_is_a_log_in() {
    let service = Service::start().await;
    let Login { token, .. } = service.log_in_as(Role::Viewer).await;
    let ask = async |values: &[&[u8]]| {
        let add = |request: RequestBuilder, value: &&[u8]| {
            request.header("authorization", HeaderValue::from_bytes(value).unwrap())
        };
        send(values.iter().fold(service.get("/customers"), add)).await
    };
    let bearer = |word: &str| format!("{word} {token}").into_bytes();
    for word in ["Bearer", "bearer", "BEARER"] {
        assert_eq!(ask(&[&bearer(word)]).await.status, 200, "{word}");
    }
    let (head, rest) = token.split_once('.').unwrap();
    let (claims, signature) = rest.rsplit_once('.').unwrap();
    let twice = format!("Bearer {token}, Bearer {token}");
    let unsigned = format!("Bearer {head}.{claims}.");
    let changed = format!("Bearer {head}.{claims}x.{signature}");
    let bad: [&[&[u8]]; 14] = [
        &[b""],
        &[b"Bearer"],
        &[b"Bearer "],
        &[b"Bearer  "],
        &[b"Basic dmlld2VyOnB3"],
        &[b"Bearer \xc3\xa9"],
        &[b"\xff"],
        &[token.as_bytes()],
        &[&bearer("Token")],
        &[&bearer("Bearer"), &bearer("Bearer")],
        &[&bearer("Bearer"), b"Basic dmlld2VyOnB3"],
        &[twice.as_bytes()],
        &[unsigned.as_bytes()],
        &[changed.as_bytes()],
    ];
    for values in bad {
        let what: Vec<_> = values.iter().map(|value| String::from_utf8_lossy(value)).collect();
        assert_not_logged_in(&ask(values).await, &format!("{what:?}"));
    }
    // A token is accepted only in the header `Authorization`.
    for request in [
        service.get("/customers").header("cookie", format!("access_token={token}")),
        service.get("/customers").header("x-authorization", format!("Bearer {token}")),
        service.get(&format!("/customers?access_token={token}")),
    ] {
        assert_not_logged_in(&send(request).await, "elsewhere");
    }
    // No refusal above has ended the session.
    assert_eq!(ask(&[&bearer("Bearer")]).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_reads_an_editor_changes_and_an_auditor_looks_back() {
    let service = Service::start().await;
    let [viewer, editor, auditor] = [
        service.log_in_as(Role::Viewer).await,
        service.log_in_as(Role::Editor).await,
        service.log_in_as(Role::Auditor).await,
    ];
    let body = json!({"name": "Ada", "dob": "1990-12-10"});
    let ask = async |login: &Login, method: Method, path: &str| {
        send(service.request(method, path).json(&body).token(login)).await.status
    };
    let mut statuses = vec![];
    for login in [&viewer, &auditor, &editor] {
        statuses.push([
            ask(login, Method::POST, "/customers").await,
            ask(login, Method::GET, "/customers").await,
            ask(login, Method::GET, "/customers/1/history").await,
        ]);
    }
    assert_eq!(statuses, [[403, 200, 403], [403, 200, 404], [201, 200, 403]]);
    assert_eq!(ask(&auditor, Method::GET, "/customers/1/history").await, 200);
    assert_eq!(ask(&viewer, Method::DELETE, "/customers/1").await, 403);
    assert_eq!(ask(&viewer, Method::GET, "/customers/1").await, 200);
}
