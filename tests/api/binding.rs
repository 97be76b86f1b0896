//! Cookie binding, the defence against stolen tokens: when a session is bound, and how a token replay
//! ends it.

use customers::config::{Config, CookieBinding};
use customers::events::values::Role;
use futures_util::future::join_all;
use reqwest::RequestBuilder;
use serde_json::json;

use crate::harness::{Login, PASSWORD, Service, With as _, config, send};
use crate::sessions::{
    account_events, events_of_type, login_of, logins_of, sid, token_alone, token_and_cookie,
    try_to_log_in, verdict,
};
use crate::tokens::claims;

async fn service_with(cookie_binding: CookieBinding) -> Service {
    Service::with(Config { cookie_binding, ..config().await }).await
}

fn request(service: &Service, login: &Login, cookie: &str) -> RequestBuilder {
    service.get("/customers?numbers=0").token(login).header("cookie", cookie)
}

fn experiment(service: &Service) -> RequestBuilder {
    service.get("/session_cookie_experiment")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_cookies_works_under_first_use() {
    let service = Service::start().await;
    let login = service.log_in_as(Role::Admin).await;
    for _ in 0..3 {
        assert_eq!(token_alone(&service, &login).await, "200");
    }
    assert_eq!(verdict(service.delete("/logout").token(&login)).await, "200");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_right_cookie_binds_and_the_token_alone_is_a_replay() {
    let service = Service::start().await;
    let login = service.log_in_as(Role::Viewer).await;
    let other = service.log_in("viewer").await;
    assert_eq!(token_alone(&service, &login).await, "200");
    assert_eq!(token_and_cookie(&service, &login).await, "200");
    let answer = send(service.get("/customers?numbers=0").token(&login)).await;
    insta::assert_snapshot!(
        answer.shape(),
        @r#"401 {"detail":"the token came without its session cookie","request_id":"[id]","status":401,"title":"Token replay","type":"/problems/token-replay"}"#
    );
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    // A token replay ends the session, for its owner too.
    assert_eq!(token_and_cookie(&service, &login).await, "401 unauthenticated");
    assert_eq!(token_alone(&service, &login).await, "401 unauthenticated");
    assert_eq!(token_alone(&service, &other).await, "200");
    assert_eq!(events_of_type(&service, "viewer", "TokenReplayDetected").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_is_recorded_with_both_sides() {
    let mut config = config().await;
    config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let service = Service::with(config).await;
    service.add_account("ada", Role::Editor).await;
    let from = |request: RequestBuilder, ip: &str, agent: &str| {
        request.header("x-forwarded-for", ip).header("user-agent", agent)
    };
    for (owner, thief) in [("203.0.113.1", "198.51.100.9"), ("2001:db8::1:2:3:4", "2001:db8::9")] {
        let body = json!({"username": "ada", "password": PASSWORD, "binding": "cookie"});
        let request = from(service.post("/login").json(&body), owner, "owner/1");
        let login = login_of(&send(request).await);
        let request = from(service.get("/customers").token(&login), thief, "thief/2");
        let request = request.header("x-request-id", "stolen");
        assert_eq!(verdict(request).await, "401 token-replay");
        let event = account_events(&service, "ada").await.pop().unwrap();
        assert_eq!(
            event.data,
            json!({"type": "TokenReplayDetected", "session": sid(&login),
                   "jti": claims(&login)["jti"], "opened_ip": owner,
                   "opened_user_agent": "owner/1"})
        );
        assert_eq!(
            event.metadata,
            json!({"session": sid(&login), "ip": thief, "user_agent": "thief/2",
                   "request_id": "stolen"})
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_cookie_is_refused_but_ends_only_a_bound_session() {
    let service = Service::start().await;
    let a = service.log_in_as(Role::Viewer).await;
    let b = service.log_in_as(Role::Editor).await;
    let of_b = logins_of(&send(try_to_log_in(&service, "editor", PASSWORD)).await);
    for wrong in [&b.cookie, &of_b[0].cookie, &of_b[1].cookie] {
        assert_eq!(verdict(request(&service, &a, wrong)).await, "401 token-replay", "{wrong}");
        assert_eq!(token_alone(&service, &a).await, "200", "the session lives on after {wrong}");
    }
    assert_eq!(token_and_cookie(&service, &a).await, "200");
    assert_eq!(verdict(request(&service, &a, &b.cookie)).await, "401 token-replay");
    assert_eq!(token_and_cookie(&service, &a).await, "401 unauthenticated");
    assert_eq!(token_and_cookie(&service, &b).await, "200");
    assert_eq!(events_of_type(&service, "viewer", "TokenReplayDetected").await.len(), 1);
    assert_eq!(events_of_type(&service, "editor", "TokenReplayDetected").await.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_cookies_of_our_name_are_refused_and_others_ignored() {
    let service = Service::start().await;
    let login = service.log_in_as(Role::Viewer).await;
    let mine = &login.cookie;
    for other in ["theme=dark", "__Host-session=x; a=b", "xcustomers_session=1", "noise", ";;=;"] {
        assert_eq!(verdict(request(&service, &login, other)).await, "200", "{other}");
    }
    let foreign = format!("theme=\u{e9}; {mine}");
    let foreign = reqwest::header::HeaderValue::from_bytes(foreign.as_bytes()).unwrap();
    let request_with = |value| service.get("/customers").token(&login).header("cookie", value);
    assert_eq!(verdict(request_with(foreign)).await, "200", "a foreign cookie is not ASCII");
    let twice = format!("{mine}; {mine}");
    assert_eq!(verdict(request(&service, &login, &twice)).await, "401 unauthenticated");
    let other = service.log_in("viewer").await.cookie;
    let in_two = request(&service, &login, mine).header("cookie", &other);
    assert_eq!(verdict(in_two).await, "401 unauthenticated");
    let [_, own] = logins_of(&send(try_to_log_in(&service, "viewer", PASSWORD)).await);
    let [_, other] = logins_of(&send(try_to_log_in(&service, "viewer", PASSWORD)).await);
    let twice = format!("{}; {}", own.cookie, other.cookie);
    assert_eq!(verdict(request(&service, &own, &twice)).await, "401 unauthenticated");
    let among = format!("theme=dark; {mine}; lang=de");
    assert_eq!(verdict(request(&service, &login, &among)).await, "200");
    assert_eq!(verdict(request(&service, &login, "theme=dark")).await, "401 token-replay");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_in_may_ask_to_be_bound_at_once() {
    let service = Service::start().await;
    service.add_account("ada", Role::Viewer).await;
    let body = json!({"username": "ada", "password": PASSWORD, "binding": "cookie"});
    let login = login_of(&send(service.post("/login").json(&body)).await);
    assert_eq!(token_and_cookie(&service, &login).await, "200");
    let login = login_of(&send(service.post("/login").json(&body)).await);
    assert_eq!(token_alone(&service, &login).await, "401 token-replay");
    assert_eq!(token_and_cookie(&service, &login).await, "401 unauthenticated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strict_binds_admins_and_auditors_at_log_in() {
    let service = service_with(CookieBinding::Strict).await;
    for role in [Role::Admin, Role::Auditor] {
        let login = service.log_in_as(role).await;
        assert_eq!(token_alone(&service, &login).await, "401 token-replay", "{role}");
        assert_eq!(token_and_cookie(&service, &login).await, "401 unauthenticated", "{role}");
    }
    for role in [Role::Editor, Role::Viewer] {
        let login = service.log_in_as(role).await;
        assert_eq!(token_alone(&service, &login).await, "200", "{role}");
        assert_eq!(token_and_cookie(&service, &login).await, "200", "{role}");
        assert_eq!(token_alone(&service, &login).await, "401 token-replay", "{role}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn always_binds_every_session_at_log_in() {
    let service = service_with(CookieBinding::Always).await;
    let login = service.log_in_as(Role::Viewer).await;
    assert_eq!(token_and_cookie(&service, &login).await, "200");
    assert_eq!(token_alone(&service, &login).await, "401 token-replay");
    let login = service.log_in("viewer").await;
    assert_eq!(token_alone(&service, &login).await, "401 token-replay");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn off_ignores_the_cookie() {
    let service = service_with(CookieBinding::Off).await;
    let login = service.log_in_as(Role::Admin).await;
    assert_eq!(token_and_cookie(&service, &login).await, "200");
    assert_eq!(token_alone(&service, &login).await, "200");
    assert_eq!(verdict(request(&service, &login, "customers_session=wrong")).await, "200");
    let twice = format!("{0}; {0}", login.cookie);
    assert_eq!(verdict(request(&service, &login, &twice)).await, "200");
    assert_eq!(events_of_type(&service, "admin", "TokenReplayDetected").await.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_experiment_demands_the_cookie_and_ends_only_a_bound_session() {
    let service = Service::start().await;
    let login = service.log_in_as(Role::Viewer).await;
    assert_eq!(verdict(experiment(&service).token(&login)).await, "401 token-replay");
    assert_eq!(token_alone(&service, &login).await, "200", "an unbound session lives on");
    let answer = send(experiment(&service).login(&login)).await;
    insta::assert_snapshot!(
        answer.shape(),
        @r#"200 {"msg":"welcome, viewer: token and cookie belong together"}"#
    );
    assert_eq!(verdict(experiment(&service).token(&login)).await, "401 token-replay");
    assert_eq!(verdict(experiment(&service).login(&login)).await, "401 unauthenticated");
    assert_eq!(events_of_type(&service, "viewer", "TokenReplayDetected").await.len(), 1);
    assert_eq!(verdict(experiment(&service)).await, "401 unauthenticated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_experiment_lets_nobody_in_with_another_cookie_or_with_garbage_for_a_token() {
    let service = Service::start().await;
    let (login, other) =
        (service.log_in_as(Role::Viewer).await, service.log_in_as(Role::Editor).await);
    for wrong in [other.cookie.as_str(), "customers_session=", "customers_session=guess", "a=b"] {
        let request = experiment(&service).token(&login).header("cookie", wrong);
        assert_eq!(verdict(request).await, "401 token-replay", "{wrong}");
    }
    assert_eq!(token_alone(&service, &login).await, "200", "an unbound session lives on");
    let token = &login.token;
    for garbage in [
        "",
        "Bearer",
        "Bearer ",
        "Bearer null",
        "Bearer a.b.c",
        "Basic dmlld2VyOnZpZXdlcg==",
        "Token x",
        &format!("Basic {token}"),
        &format!("Bearer {token}x"),
        &format!("Bearer {token} x"),
        &format!("Bearer{token}"),
        token,
        &format!("Bearer \"{token}\""),
    ] {
        let request = experiment(&service).header("authorization", garbage);
        let told = verdict(request.header("cookie", &login.cookie)).await;
        assert_eq!(told, "401 unauthenticated", "{garbage}");
    }
    assert_eq!(verdict(experiment(&service).login(&login)).await, "200");
    let wrong = experiment(&service).token(&login).header("cookie", &other.cookie);
    assert_eq!(verdict(wrong).await, "401 token-replay");
    assert_eq!(token_and_cookie(&service, &login).await, "401 unauthenticated", "bound");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_experiment_binds() {
    let service = Service::start().await;
    let login = service.log_in_as(Role::Viewer).await;
    assert_eq!(verdict(experiment(&service).login(&login)).await, "200");
    assert_eq!(token_alone(&service, &login).await, "401 token-replay");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_race_to_bind_all_pass() {
    let service = Service::start().await;
    let login = service.log_in_as(Role::Viewer).await;
    let verdicts = join_all((0..50).map(|_| token_and_cookie(&service, &login))).await;
    assert_eq!(verdicts, vec!["200"; 50]);
    assert_eq!(token_alone(&service, &login).await, "401 token-replay");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_by_many_at_once_is_recorded_once_and_lets_nobody_in() {
    let service = service_with(CookieBinding::Always).await;
    let login = service.log_in_as(Role::Viewer).await;
    let mut verdicts = join_all((0..20).map(|_| token_alone(&service, &login))).await;
    verdicts.sort();
    assert_eq!(verdicts[..1], ["401 token-replay"]);
    assert_eq!(verdicts[1..], vec!["401 unauthenticated"; 19]);
    assert_eq!(events_of_type(&service, "viewer", "TokenReplayDetected").await.len(), 1);
}
