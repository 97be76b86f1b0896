//! Log-in, log-out, expiry, and the limit of live sessions per account.

use customers::config::Config;
use customers::events::values::Role;
use futures_util::future::join_all;
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::harness::{Answer, Login, PASSWORD, Service, With as _, config, send};
use crate::tokens::claims;

/// One event of an account.
#[derive(Debug)]
pub struct Recorded {
    pub kind: String,
    pub data: Value,
    pub metadata: Value,
}

/// The events of an account, oldest first.
pub async fn account_events(service: &Service, name: &str) -> Vec<Recorded> {
    let rows: Vec<(String, String, String)> = sqlx::query_as(
        "select event_type, payload::text, metadata::text from events
         where aggregate_type = 'account' and aggregate_id = $1 order by position",
    )
    .bind(name)
    .fetch_all(&service.pools.short)
    .await
    .unwrap();
    rows.into_iter()
        .map(|(kind, data, metadata)| Recorded {
            kind,
            data: serde_json::from_str(&data).unwrap(),
            metadata: serde_json::from_str(&metadata).unwrap(),
        })
        .collect()
}

/// The events of an account that have one type.
pub async fn events_of_type(service: &Service, name: &str, kind: &str) -> Vec<Recorded> {
    account_events(service, name).await.into_iter().filter(|event| event.kind == kind).collect()
}

/// The status of the response, with the slug of the problem if it is one: `401 token-replay`.
pub async fn verdict(request: RequestBuilder) -> String {
    let answer = send(request).await;
    match answer.body["type"].as_str().and_then(|kind| kind.strip_prefix("/problems/")) {
        Some(slug) => format!("{} {slug}", answer.status),
        None => answer.status.to_string(),
    }
}

/// The verdict of a request with the token and without the cookie.
pub async fn token_alone(service: &Service, login: &Login) -> String {
    verdict(service.get("/customers?numbers=0").token(login)).await
}

/// The verdict of a request with token and cookie.
pub async fn token_and_cookie(service: &Service, login: &Login) -> String {
    verdict(service.get("/customers?numbers=0").login(login)).await
}

/// The credentials in the response to a log-in.
pub fn login_of(answer: &Answer) -> Login {
    assert_eq!(answer.status, 200, "{answer:?}");
    let token = answer.body["access_token"].as_str().unwrap().to_owned();
    Login { token, cookie: answer.cookie().unwrap() }
}

/// The same, with each name of the cookie: the one that all installations share, and the installation's own.
pub fn logins_of(answer: &Answer) -> [Login; 2] {
    let lines: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
    let [shared, own] = lines[..] else { panic!("{lines:?}") };
    [shared, own].map(|line| {
        let cookie = line.to_str().unwrap().split(';').next().unwrap().to_owned();
        Login { cookie, ..login_of(answer) }
    })
}

pub fn sid(login: &Login) -> String {
    claims(login)["sid"].as_str().unwrap().to_owned()
}

pub fn try_to_log_in(service: &Service, username: &str, password: &str) -> RequestBuilder {
    service.post("/login").json(&json!({"username": username, "password": password}))
}

/// The attributes of the cookie that the response sets by two names. Checks them and the length of its value.
fn attributes<'a>(answer: &'a Answer, name: &str) -> &'a str {
    let lines: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
    let [shared, own] = lines[..] else { panic!("{lines:?}") };
    let (pair, attributes) = shared.to_str().unwrap().split_once("; ").unwrap();
    let value = pair.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')).unwrap();
    assert_eq!(value.len(), 54, "256 random bits and 64 of their MAC in base64url");
    let own = own.to_str().unwrap();
    assert!(own.starts_with(&format!("{name}_")), "{own}");
    assert!(own.ends_with(&format!("={value}; {attributes}")), "{own}");
    attributes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_in_gives_a_token_and_a_cookie() {
    let service = Service::start().await;
    service.add_account("ada", Role::Viewer).await;
    let answer = send(try_to_log_in(&service, "ada", PASSWORD)).await;
    insta::assert_snapshot!(
        answer.shape(),
        @r#"200 {"access_token":"[token]","expires_in":3600,"token_type":"Bearer"}"#
    );
    let expected = "HttpOnly; SameSite=Strict; Path=/; Max-Age=3600";
    assert_eq!(attributes(&answer, "customers_session"), expected);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(token_alone(&service, &login_of(&answer)).await, "200");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_https_the_cookie_is_kept_to_this_host_and_to_https() {
    let public_url = Some("https://customers.test".to_owned());
    let service = Service::with(Config { public_url, ..config().await }).await;
    service.add_account("ada", Role::Viewer).await;
    let answer = send(try_to_log_in(&service, "ada", PASSWORD)).await;
    let expected = "Secure; HttpOnly; SameSite=Strict; Path=/; Max-Age=3600";
    assert_eq!(attributes(&answer, "__Host-session"), expected);
    let login = login_of(&answer);
    assert_eq!(verdict(service.get("/session_cookie_experiment").login(&login)).await, "200");
    let answer = send(service.delete("/logout").login(&login)).await;
    assert_eq!(
        answer.header("set-cookie"),
        Some("__Host-session=; Secure; HttpOnly; SameSite=Strict; Path=/; Max-Age=0")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_failed_log_in_says_the_same() {
    let service = Service::start().await;
    service.add_account("ada", Role::Viewer).await;
    service.add_account("gone", Role::Admin).await;
    sqlx::query("update accounts set disabled = true where username = 'gone'")
        .execute(&service.pools.accounts)
        .await
        .unwrap();
    let attempts = [
        ("ada", "wrong password"),
        ("ada", ""),
        ("nobody", PASSWORD),
        ("gone", PASSWORD),
        ("no name at all\u{0}", PASSWORD),
        ("", PASSWORD),
    ];
    let mut answers = vec![];
    for (username, password) in attempts {
        let answer = send(try_to_log_in(&service, username, password)).await;
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        assert_eq!(answer.cookie(), None);
        answers.push(answer.shape());
    }
    insta::assert_snapshot!(
        answers[0],
        @r#"401 {"detail":"wrong user name or password","request_id":"[id]","status":401,"title":"Unauthenticated","type":"/problems/unauthenticated"}"#
    );
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn user_names_are_folded() {
    let service = Service::start().await;
    service.add_account("demo", Role::Viewer).await;
    let login = login_of(&send(try_to_log_in(&service, "ＤＥＭＯ ", PASSWORD)).await);
    assert_eq!(claims(&login)["sub"], "demo");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_in_names_every_member_that_is_missing_or_wrong() {
    let service = Service::start().await;
    service.add_account("ada", Role::Viewer).await;
    let refused = async |body: Value| {
        let answer = send(service.post("/login").json(&body)).await;
        assert_eq!((answer.status, &answer.body["type"]), (422, &json!("/problems/invalid")));
        let errors = answer.body["errors"].as_array().unwrap();
        let fields = errors.iter().map(|error| error["field"].as_str().unwrap().to_owned());
        fields.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(refused(json!({})).await, "username password");
    assert_eq!(refused(json!({"username": "ada"})).await, "password");
    assert_eq!(refused(json!({"username": 1, "password": null})).await, "username password");
    assert_eq!(refused(json!([])).await, "body");
    for binding in [json!("Cookie"), json!(""), json!(true)] {
        let body = json!({"username": "ada", "password": PASSWORD, "binding": binding});
        assert_eq!(refused(body).await, "binding");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_logged_out_token_is_dead_everywhere() {
    let here = Service::start().await;
    let there = Service::with(here.config.clone()).await;
    let login = here.log_in_as(Role::Viewer).await;
    let other = here.log_in("viewer").await;
    assert_eq!(token_alone(&there, &login).await, "200");
    let answer = send(here.delete("/logout").token(&login)).await;
    insta::assert_snapshot!(answer.shape(), @r#"200 {"msg":"logged out"}"#);
    assert_eq!(
        answer.header("set-cookie"),
        Some("customers_session=; HttpOnly; SameSite=Strict; Path=/; Max-Age=0")
    );
    for service in [&here, &there] {
        assert_eq!(token_alone(service, &login).await, "401 unauthenticated");
        assert_eq!(token_and_cookie(service, &login).await, "401 unauthenticated");
        assert_eq!(verdict(service.delete("/logout").token(&login)).await, "401 unauthenticated");
        assert_eq!(token_alone(service, &other).await, "200");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_lives_as_long_as_it_says_and_a_leeway() {
    let service = Service::start().await;
    let login = service.log_in_as(Role::Viewer).await;
    let ttl = i64::try_from(service.config.token_ttl.as_secs()).unwrap();
    service.hands.forward(ttl + 4);
    assert_eq!(token_alone(&service, &login).await, "200");
    service.hands.forward(2);
    assert_eq!(token_alone(&service, &login).await, "401 unauthenticated");
    assert_eq!(token_and_cookie(&service, &login).await, "401 unauthenticated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_was_logged_out_is_dead_within_the_leeway_too() {
    let service = Service::start().await;
    let login = service.log_in_as(Role::Viewer).await;
    let ttl = i64::try_from(service.config.token_ttl.as_secs()).unwrap();
    service.hands.forward(ttl + 2);
    assert_eq!(token_alone(&service, &login).await, "200");
    assert_eq!(verdict(service.delete("/logout").token(&login)).await, "200");
    assert_eq!(token_alone(&service, &login).await, "401 unauthenticated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_limit_of_one_a_log_in_ends_the_older_session() {
    let service = Service::with(Config { session_limit: 1, ..config().await }).await;
    let older = service.log_in_as(Role::Viewer).await;
    let stranger = service.log_in_as(Role::Editor).await;
    let newer = service.log_in("viewer").await;
    assert_eq!(token_alone(&service, &older).await, "401 unauthenticated");
    assert_eq!(token_alone(&service, &newer).await, "200");
    assert_eq!(token_alone(&service, &stranger).await, "200");
    let closed = events_of_type(&service, "viewer", "SessionClosed").await;
    assert_eq!(closed.len(), 1);
    assert_eq!(closed[0].data["session"], sid(&older));
    assert_eq!(closed[0].data["jti"], claims(&older)["jti"]);
    assert_eq!(closed[0].data["cause"], "session-limit");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_limit_of_three_the_three_youngest_sessions_live() {
    let service = Service::with(Config { session_limit: 3, ..config().await }).await;
    service.add_account("ada", Role::Viewer).await;
    let mut logins = vec![];
    for expected in
        [&[200][..], &[200, 200], &[200; 3], &[401, 200, 200, 200], &[401, 401, 200, 200, 200]]
    {
        logins.push(service.log_in("ada").await);
        let mut statuses = vec![];
        for login in &logins {
            statuses.push(send(service.get("/customers").token(login)).await.status);
        }
        assert_eq!(statuses, expected);
    }
    assert_eq!(events_of_type(&service, "ada", "SessionClosed").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_log_ins_at_once_leave_one_session() {
    let service = Service::with(Config { session_limit: 1, ..config().await }).await;
    service.add_account("ada", Role::Viewer).await;
    let logins = join_all((0..50).map(|_| service.log_in("ada"))).await;
    let verdicts = join_all(logins.iter().map(|login| token_alone(&service, login))).await;
    assert_eq!(verdicts.iter().filter(|verdict| *verdict == "200").count(), 1, "{verdicts:?}");
    assert_eq!(events_of_type(&service, "ada", "SessionOpened").await.len(), 50);
    assert_eq!(events_of_type(&service, "ada", "SessionClosed").await.len(), 49);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_recorded_in_order_with_who_and_from_where() {
    let service = Service::start().await;
    service.add_account("ada", Role::Editor).await;
    let request = try_to_log_in(&service, "ada", PASSWORD);
    let request = request.header("x-request-id", "first").header("user-agent", "curl/8");
    let login = login_of(&send(request).await);
    let request = service.delete("/logout").token(&login).header("x-request-id", "second");
    assert_eq!(verdict(request).await, "200");
    let events = account_events(&service, "ada").await;
    let kinds: Vec<_> = events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["AccountAdded", "SessionOpened", "SessionClosed"]);
    let [_, opened, closed] = &events[..] else { unreachable!() };
    assert_eq!(opened.data, json!({"type": "SessionOpened", "session": sid(&login)}));
    assert_eq!(
        opened.metadata,
        json!({"actor": "ada", "role": "editor", "session": sid(&login), "ip": "127.0.0.1",
               "user_agent": "curl/8", "request_id": "first"})
    );
    assert_eq!(
        closed.data,
        json!({"type": "SessionClosed", "session": sid(&login), "jti": claims(&login)["jti"],
               "cause": "log-out"})
    );
    assert_eq!(
        closed.metadata,
        json!({"actor": "ada", "role": "editor", "session": sid(&login), "ip": "127.0.0.1",
               "request_id": "second"})
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_ins_of_an_account_have_a_rate() {
    let service = Service::with(Config { session_rate: 5, ..config().await }).await;
    service.add_account("ada", Role::Viewer).await;
    service.add_account("bob", Role::Viewer).await;
    for _ in 0..5 {
        assert_eq!(verdict(try_to_log_in(&service, "ada", PASSWORD)).await, "200");
    }
    let refused = send(try_to_log_in(&service, "ada", PASSWORD)).await;
    assert_eq!(refused.status, 429);
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=12).contains(&seconds), "{seconds}");
    assert_eq!(verdict(try_to_log_in(&service, "bob", PASSWORD)).await, "200");
    assert_eq!(events_of_type(&service, "ada", "SessionOpened").await.len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_configuration_an_account_has_a_hundred_sessions() {
    let service = Service::start().await;
    let first = service.log_in_as(Role::Viewer).await;
    let second = service.log_in("viewer").await;
    for _ in 0..99 {
        service.log_in("viewer").await;
    }
    assert_eq!(token_alone(&service, &first).await, "401 unauthenticated");
    assert_eq!(token_alone(&service, &second).await, "200");
    let open = send(service.get("/sessions").login(&second)).await;
    assert_eq!(open.body["sessions"].as_array().unwrap().len(), 100);
    // A change of the account ends them all, in several steps.
    let body = json!({"old": PASSWORD, "new": "another password"});
    assert_eq!(send(service.post("/password").json(&body).login(&second)).await.status, 200);
    let open = send(service.get("/sessions").login(&second)).await;
    assert_eq!(open.body["sessions"].as_array().unwrap().len(), 1);
    assert_eq!(events_of_type(&service, "viewer", "SessionClosed").await.len(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lower_limit_ends_the_sessions_over_it_in_steps() {
    let many = Service::with(Config { session_limit: 300, ..config().await }).await;
    many.add_account("ada", Role::Viewer).await;
    let mut logins = vec![];
    for _ in 0..260 {
        logins.push(many.log_in("ada").await);
    }
    let few = Service::with(Config { session_limit: 2, ..many.config.clone() }).await;
    let last = few.log_in("ada").await;
    let open = send(few.get("/sessions").login(&last)).await;
    assert_eq!(open.body["sessions"].as_array().unwrap().len(), 2);
    assert_eq!(token_alone(&few, &logins[0]).await, "401 unauthenticated");
    assert_eq!(token_alone(&few, &logins[259]).await, "200");
    assert_eq!(events_of_type(&few, "ada", "SessionClosed").await.len(), 259);
}
