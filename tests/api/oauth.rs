//! `POST /oauth/token`: a program gets a token for a service key (RFC 6749, section 4.4), and finds the endpoint by its
//! metadata (RFC 8414).

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use chrono::TimeDelta;
use customers::config::{Config, CookieBinding};
use customers::events::account_key::ClientId;
use customers::events::metadata::Metadata;
use customers::events::values::{Role, Username};
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::harness::{Answer, Login, PASSWORD, Service, With as _, client, config, send, until};
use crate::own_redis::Redis;
use crate::redis_trouble::second_service;
use crate::service_keys::{Key, add, key_of, listed, revoke};
use crate::sessions::{events_of_type, sid, token_alone, token_and_cookie, try_to_log_in, verdict};
use crate::tokens::claims;

/// The grant of this flow.
const GRANT: (&str, &str) = ("grant_type", "client_credentials");

fn form(service: &Service, pairs: &[(&str, &str)]) -> RequestBuilder {
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
    let request = service.post("/oauth/token");
    request.header("content-type", "application/x-www-form-urlencoded").body(body)
}

/// Headers, or the parameters of a form.
type Pairs<'a> = &'a [(&'a str, &'a str)];

/// With the secret in the form.
fn in_body(service: &Service, key: &Key) -> RequestBuilder {
    form(service, &[GRANT, ("client_id", &key.client_id), ("client_secret", &key.secret)])
}

/// With the secret in the header, each part encoded as a form encodes it.
fn in_header(service: &Service, key: &Key) -> RequestBuilder {
    let encoded = |text: &str| text.replace('-', "%2D").replace('_', "%5f");
    let pair = format!("{}:{}", encoded(&key.client_id), encoded(&key.secret));
    let value = format!("Basic {}", BASE64_STANDARD.encode(pair));
    form(service, &[GRANT]).header("authorization", value)
}

/// The token of a request; no cookie comes with it.
async fn token_of(request: RequestBuilder) -> Login {
    let answer = send(request).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("set-cookie"), None);
    Login { token: answer.body["access_token"].as_str().unwrap().to_owned(), cookie: String::new() }
}

/// The status of a refusal, and its error by RFC 6749 or its type.
fn refusal(answer: &Answer) -> String {
    let kind = answer.body["type"].as_str().and_then(|kind| kind.strip_prefix("/problems/"));
    let error = answer.body["error"].as_str().or(kind).unwrap_or_default();
    format!("{} {error}", answer.status)
}

async fn refused(request: RequestBuilder) -> String {
    refusal(&send(request).await)
}

/// A service, its admin, and a key of the account `robot` with this role.
async fn with_key(config: Config, role: Role) -> (Service, Login, Key) {
    let service = Service::with(config).await;
    let admin = service.log_in_as(Role::Admin).await;
    service.add_account("robot", role).await;
    let key = key_of(&service, &admin, "robot").await;
    (service, admin, key)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_gets_a_token_in_both_ways_and_creates_a_customer() {
    let (service, admin, key) = with_key(config().await, Role::Editor).await;
    for (number, request) in
        [in_body(&service, &key), in_header(&service, &key)].into_iter().enumerate()
    {
        let answer = send(request.header("user-agent", "a sync")).await;
        insta::allow_duplicates! {
            insta::assert_snapshot!(
                answer.shape(),
                @r#"200 {"access_token":"[token]","expires_in":3600,"scope":"editor","token_type":"Bearer"}"#
            );
        }
        assert_eq!(answer.header("set-cookie"), None);
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let token = answer.body["access_token"].as_str().unwrap().to_owned();
        let login = Login { token, cookie: String::new() };
        let told = claims(&login);
        assert_eq!((&told["sub"], &told["client_id"]), (&json!("robot"), &json!(key.client_id)));
        let ada = json!({"name": "Ada", "dob": "1990-12-10"});
        let created = send(service.post("/customers").token(&login).json(&ada)).await;
        assert_eq!(created.status, 201, "{created:?}");
        let opened = events_of_type(&service, "robot", "SessionOpened").await.pop().unwrap();
        let expected =
            json!({"type": "SessionOpened", "session": sid(&login), "client_id": key.client_id});
        assert_eq!(opened.data, expected);
        assert_eq!(
            (&opened.metadata["actor"], &opened.metadata["role"]),
            (&json!("robot"), &json!("editor"))
        );
        assert_eq!(opened.metadata["user_agent"], "a sync");
        // The list of sessions shows the key; a log-in has none.
        let sessions = send(service.get("/sessions").token(&login)).await;
        assert_eq!(sessions.body["sessions"][number]["client_id"], json!(key.client_id));
        let of_admin = send(service.get("/sessions").login(&admin)).await;
        assert_eq!(of_admin.body["sessions"][0]["client_id"], Value::Null);
    }
    until("the use is noted", async || {
        listed(&service, &admin, "robot").await[0]["last_used_at"].is_string()
    })
    .await;
    let used = listed(&service, &admin, "robot").await[0]["last_used_at"].clone();
    assert_eq!(used, json!(customers::clock::rfc3339(service.hands.clock().now())));
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refusal_is_the_one_of_the_standard() {
    let (service, admin, key) = with_key(config().await, Role::Editor).await;
    let other = key_of(&service, &admin, "admin").await;
    let (id, secret) = (key.client_id.as_str(), key.secret.as_str());
    let basic = |pair: &str| format!("Basic {}", BASE64_STANDARD.encode(pair));
    let right = basic(&format!("{id}:{secret}"));
    let wrong = basic(&format!("{id}:{secret}x"));
    let of_other = basic(&format!("{id}:{}", other.secret));
    let none: Pairs<'_> = &[];
    let mut lines = vec![];
    let cases: [(&str, Pairs<'_>, Pairs<'_>); 19] = [
        ("an empty form", none, none),
        ("no client", none, &[GRANT]),
        (
            "another grant",
            none,
            &[("grant_type", "password"), ("client_id", id), ("client_secret", secret)],
        ),
        ("grant twice", none, &[GRANT, GRANT]),
        ("an empty secret", none, &[GRANT, ("client_id", id), ("client_secret", "")]),
        ("a secret without an id", none, &[GRANT, ("client_secret", secret)]),
        ("an unknown client", none, &[GRANT, ("client_id", "x"), ("client_secret", secret)]),
        ("a wrong secret", none, &[GRANT, ("client_id", id), ("client_secret", "x")]),
        (
            "a secret twice",
            none,
            &[GRANT, ("client_id", id), ("client_secret", secret), ("client_secret", secret)],
        ),
        ("a wrong header", &[("authorization", wrong.as_str())], &[GRANT]),
        ("the secret of another key", &[("authorization", of_other.as_str())], &[GRANT]),
        ("no base64", &[("authorization", "Basic !")], &[GRANT]),
        ("another scheme", &[("authorization", "Bearer x")], &[GRANT]),
        ("both ways", &[("authorization", right.as_str())], &[GRANT, ("client_secret", secret)]),
        (
            "another id in the form",
            &[("authorization", right.as_str())],
            &[GRANT, ("client_id", "x")],
        ),
        (
            "two headers",
            &[("authorization", right.as_str()), ("authorization", right.as_str())],
            &[GRANT],
        ),
        ("no role", &[("authorization", right.as_str())], &[GRANT, ("scope", "root")]),
        ("two roles", &[("authorization", right.as_str())], &[GRANT, ("scope", "viewer editor")]),
        ("a greater role", &[("authorization", right.as_str())], &[GRANT, ("scope", "admin")]),
    ];
    for (what, headers, pairs) in cases {
        let request = headers
            .iter()
            .fold(form(&service, pairs), |request, (name, value)| request.header(*name, *value));
        let answer = send(request).await;
        let challenge = answer.header("www-authenticate").unwrap_or("-");
        lines.push(format!("{what} -> {} {challenge}", answer.shape()));
        let description = answer.body["error_description"].as_str().unwrap();
        let is_allowed = |c: char| matches!(c, ' '..='~') && c != '"' && c != '\\';
        assert!(description.chars().all(is_allowed), "{description}");
    }
    insta::assert_snapshot!("token_refusals", lines.join("\n"));
    // What a library may send besides is ignored, and so is what has no value.
    let more = [GRANT, ("client_id", id), ("scope", ""), ("audience", "x"), ("audience", "y")];
    let request = form(&service, &more).header("authorization", &right);
    assert_eq!(send(request).await.status, 200);
    // Nothing of the refusals opened a session.
    assert_eq!(events_of_type(&service, "robot", "SessionOpened").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_may_have_a_lesser_role_than_its_account() {
    let (service, _, key) = with_key(config().await, Role::Editor).await;
    let (id, secret) = (key.client_id.as_str(), key.secret.as_str());
    let pairs = [GRANT, ("client_id", id), ("client_secret", secret), ("scope", "viewer")];
    let answer = send(form(&service, &pairs)).await;
    assert_eq!(answer.body["scope"], "viewer");
    let login = token_of(form(&service, &pairs)).await;
    let ada = json!({"name": "Ada", "dob": "1990-12-10"});
    assert_eq!(token_alone(&service, &login).await, "200");
    assert_eq!(verdict(service.post("/customers").token(&login).json(&ada)).await, "403 forbidden");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_a_key_needs_no_cookie_in_any_mode_and_no_cookie_harms_it() {
    for cookie_binding in
        [CookieBinding::FirstUse, CookieBinding::Strict, CookieBinding::Always, CookieBinding::Off]
    {
        let config = Config { cookie_binding, ..config().await };
        // The role whose log-ins `strict` binds.
        let (service, admin, key) = with_key(config, Role::Auditor).await;
        let login = token_of(in_header(&service, &key)).await;
        for _ in 0..2 {
            assert_eq!(token_alone(&service, &login).await, "200");
            // With the cookie of a log-in, as from a browser's jar.
            let mixed = Login { cookie: admin.cookie.clone(), ..login.clone() };
            assert_eq!(token_and_cookie(&service, &mixed).await, "200");
            let twice = format!("{0}; {0}", admin.cookie);
            assert_eq!(token_and_cookie(&service, &Login { cookie: twice, ..mixed }).await, "200");
        }
        // The experiment asks for a cookie, which this session has not. That ends nothing.
        let experiment = service.get("/session_cookie_experiment").token(&login);
        assert_eq!(verdict(experiment).await, "401 token-replay");
        assert_eq!(token_alone(&service, &login).await, "200");
        for kind in ["TokenReplayDetected", "SessionBound", "SessionClosed"] {
            assert_eq!(events_of_type(&service, "robot", kind).await.len(), 0, "{kind}");
        }
        service.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_key_and_its_tokens_are_dead_on_every_process_at_once() {
    let (service, admin, key) = with_key(config().await, Role::Editor).await;
    let other = second_service(&service).await;
    let kept_key = key_of(&service, &admin, "robot").await;
    let mut logins = vec![];
    for of in [&service, &other] {
        logins.push(token_of(in_body(of, &key)).await);
        logins.push(token_of(in_header(of, &key)).await);
    }
    let kept = token_of(in_body(&other, &kept_key)).await;
    let with_password = service.log_in("robot").await;
    for login in logins.iter().chain([&kept, &with_password]) {
        assert_eq!(token_alone(&other, login).await, "200");
    }
    assert_eq!(verdict(revoke(&service, &admin, "robot", &key)).await, "200");
    for login in &logins {
        for of in [&other, &service] {
            assert_eq!(token_alone(of, login).await, "401 unauthenticated");
        }
    }
    for of in [&other, &service] {
        assert_eq!(refused(in_header(of, &key)).await, "401 invalid_client");
        assert_eq!(refused(in_body(of, &key)).await, "400 invalid_client");
    }
    for login in [&kept, &with_password] {
        assert_eq!(token_alone(&other, login).await, "200");
    }
    // The reconcilers find nothing left to end.
    let closed = async || events_of_type(&service, "robot", "SessionClosed").await;
    until("all ends are recorded", async || closed().await.len() >= logins.len()).await;
    let mut ended: Vec<_> =
        closed().await.iter().map(|event| event.data["session"].clone()).collect();
    let mut expected: Vec<_> = logins.iter().map(|login| Value::from(sid(login))).collect();
    ended.sort_by_key(Value::to_string);
    expected.sort_by_key(Value::to_string);
    assert_eq!(ended, expected);
    assert!(closed().await.iter().all(|event| event.data["cause"] == "key-revoked"));
    service.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_revoked_while_tokens_are_issued_leaves_none() {
    let config = Config { login_limit: 0, ..config().await };
    let (service, admin, _) = with_key(config, Role::Editor).await;
    let other = second_service(&service).await;
    for _ in 0..10 {
        let key = key_of(&service, &admin, "robot").await;
        let (first, second, third, revoked) = tokio::join!(
            send(in_body(&other, &key)),
            send(in_header(&service, &key)),
            send(in_header(&other, &key)),
            verdict(revoke(&service, &admin, "robot", &key)),
        );
        assert_eq!(revoked, "200");
        for answer in [first, second, third] {
            let Some(token) = answer.body["access_token"].as_str() else {
                assert!(["400 invalid_client", "401 invalid_client"].contains(&&*refusal(&answer)));
                continue;
            };
            let login = Login { token: token.to_owned(), cookie: String::new() };
            assert_eq!(token_alone(&other, &login).await, "401 unauthenticated");
        }
    }
    service.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_was_revoked_without_redis_or_before_an_older_dump_opens_nothing() {
    let mut redis = Redis::start(&[]).await;
    let redis_url = Some(redis.url().into());
    let (service, admin, key) =
        with_key(Config { redis_url, ..config().await }, Role::Editor).await;
    let other_key = key_of(&service, &admin, "robot").await;
    let first = token_of(in_body(&service, &key)).await;
    let second = token_of(in_body(&service, &other_key)).await;
    redis.ask("SAVE").await;
    // The command line revokes a key so when it cannot connect to Redis: in the log only.
    let robot = Username::parse("robot").unwrap();
    let id = ClientId::parse(&key.client_id).unwrap();
    let by = Metadata::of_program("test");
    assert!(service.accounts().remove_key(&robot, id, by.clone()).await.unwrap());
    assert!(!service.accounts().remove_key(&robot, id, by).await.unwrap());
    until("the service has ended the session", async || {
        token_alone(&service, &first).await == "401 unauthenticated"
    })
    .await;
    assert_eq!(verdict(revoke(&service, &admin, "robot", &other_key)).await, "200");
    redis.kill().await;
    redis.start_again().await;
    for login in [&first, &second] {
        let mut told = String::new();
        until("Redis is trusted", async || {
            told = token_alone(&service, login).await;
            told != "503 unavailable"
        })
        .await;
        assert_eq!(told, "401 unauthenticated");
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_lives_no_longer_than_its_key_and_an_expired_key_gets_none() {
    let (service, admin, _) = with_key(config().await, Role::Editor).await;
    let end = service.hands.clock().now() + TimeDelta::minutes(10);
    let body = json!({"name": "short", "expires_at": customers::clock::rfc3339(end)});
    let added = send(service.post("/accounts/robot/keys").login(&admin).json(&body)).await;
    let text = |name: &str| added.body[name].as_str().unwrap().to_owned();
    let key = Key { client_id: text("client_id"), secret: text("client_secret") };
    assert_eq!(send(in_body(&service, &key)).await.body["expires_in"], 600);
    service.hands.forward(599);
    let answer = send(in_body(&service, &key)).await;
    assert_eq!(answer.body["expires_in"], 1);
    let login = Login {
        token: answer.body["access_token"].as_str().unwrap().to_owned(),
        cookie: String::new(),
    };
    assert_eq!(token_alone(&service, &login).await, "200");
    service.hands.forward(1);
    // More often than a limit of failures allows: the secret is right, so it is no guess.
    for _ in 0..12 {
        assert_eq!(refused(in_header(&service, &key)).await, "401 invalid_client");
    }
    service.hands.forward(10);
    assert_eq!(token_alone(&service, &login).await, "401 unauthenticated");
    assert_eq!(listed(&service, &admin, "robot").await.len(), 2, "expired keys are listed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disabled_account_and_a_log_out_end_the_tokens_of_keys() {
    let (service, admin, key) = with_key(config().await, Role::Editor).await;
    let login = token_of(in_body(&service, &key)).await;
    assert_eq!(verdict(service.delete("/logout").token(&login)).await, "200");
    assert_eq!(token_alone(&service, &login).await, "401 unauthenticated");

    let login = token_of(in_body(&service, &key)).await;
    let change = async |body: Value| {
        let request = service.patch("/accounts/robot").login(&admin).json(&body);
        assert_eq!(verdict(request).await, "200");
    };
    change(json!({"disabled": true})).await;
    assert_eq!(token_alone(&service, &login).await, "401 unauthenticated");
    assert_eq!(refused(in_body(&service, &key)).await, "400 invalid_client");
    // The key is good again with its account, and has the role that the account has now.
    change(json!({"disabled": false, "role": "viewer"})).await;
    assert_eq!(send(in_body(&service, &key)).await.body["scope"], "viewer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_adds_no_key_to_its_own_account() {
    let (service, _, key) = with_key(config().await, Role::Admin).await;
    let login = token_of(in_body(&service, &key)).await;
    let by_key = |request: RequestBuilder| request.token(&login);
    let body =
        json!({"name": "a way back", "expires_at": crate::service_keys::in_days(&service, 1)});
    let own = by_key(service.post("/accounts/robot/keys")).json(&body);
    let refused = send(own).await;
    insta::assert_snapshot!(
        refused.shape(),
        @r#"403 {"detail":"a service key adds no key to its own account: log in with the password","request_id":"[id]","status":403,"title":"Forbidden","type":"/problems/forbidden"}"#
    );
    // An admin's key may do what an admin does for other accounts; and it may end itself.
    assert_eq!(verdict(by_key(service.post("/accounts/admin/keys")).json(&body)).await, "201");
    assert_eq!(verdict(by_key(service.get("/accounts/robot/keys"))).await, "200");
    let path = format!("/accounts/robot/keys/{}", key.client_id);
    assert_eq!(verdict(by_key(service.delete(&path))).await, "200");
    assert_eq!(token_alone(&service, &login).await, "401 unauthenticated");
    // With the password it may add one.
    assert_eq!(verdict(add(&service, &service.log_in("robot").await, "robot")).await, "201");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_secrets_are_throttled_and_recorded_but_keep_no_program_from_its_token() {
    let trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let config = Config { login_limit: 3, trusted_proxies, ..config().await };
    let (service, _, key) = with_key(config, Role::Editor).await;
    let wrong = Key { secret: format!("{}x", key.secret), ..key.clone() };
    let from = |request: RequestBuilder, address: &str| request.header("x-forwarded-for", address);
    for number in 1..=3 {
        let guess = from(in_header(&service, &wrong), &format!("192.0.2.{number}"));
        assert_eq!(refused(guess).await, "401 invalid_client");
    }
    // The key is closed to guesses, from everywhere; not to its secret.
    let guess = send(from(in_header(&service, &wrong), "192.0.2.4")).await;
    assert_eq!(refusal(&guess), "429 rate-limited");
    assert!(guess.header("retry-after").is_some());
    let right = from(in_header(&service, &key), "192.0.2.5");
    assert_eq!(send(right).await.status, 200);
    let throttled = async || events_of_type(&service, "robot", "LoginThrottled").await;
    until("the event is in the log", async || !throttled().await.is_empty()).await;
    let expected = json!({"type": "LoginThrottled", "by": "key"});
    assert_eq!(throttled().await[0].data, expected);
    // An address that guesses is closed for everything: unknown ids, right secrets, log-ins.
    let unknown =
        Key { client_id: "019ac4f2-6d8e-7c51-9a0b-3f1d2e4c5b6a".to_owned(), ..key.clone() };
    for _ in 0..3 {
        let guess = from(in_body(&service, &unknown), "198.51.100.1");
        assert_eq!(refused(guess).await, "400 invalid_client");
    }
    for request in [in_body(&service, &unknown), in_header(&service, &key)] {
        assert_eq!(refused(from(request, "198.51.100.1")).await, "429 rate-limited");
    }
    let log_in = from(try_to_log_in(&service, "robot", PASSWORD), "198.51.100.1");
    assert_eq!(verdict(log_in).await, "429 rate-limited");
    // The password of the account has limits of its own.
    let log_in = from(try_to_log_in(&service, "robot", PASSWORD), "192.0.2.9");
    assert_eq!(verdict(log_in).await, "200");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_no_program_gets_in() {
    let mut redis = Redis::start(&[]).await;
    let redis_url = Some(redis.url().into());
    let (service, _, key) = with_key(Config { redis_url, ..config().await }, Role::Editor).await;
    let login = token_of(in_body(&service, &key)).await;
    redis.kill().await;
    for request in [in_body(&service, &key), in_header(&service, &key)] {
        let answer = send(request).await;
        assert_eq!(refusal(&answer), "503 unavailable");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    assert_eq!(token_alone(&service, &login).await, "503 unavailable");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_ins_per_minute_and_sessions_are_limited_for_keys_too() {
    let config = Config { session_rate: 2, session_limit: 2, ..config().await };
    let (service, _, key) = with_key(config, Role::Editor).await;
    let first = token_of(in_body(&service, &key)).await;
    token_of(in_body(&service, &key)).await;
    assert_eq!(refused(in_body(&service, &key)).await, "429 rate-limited");
    assert_eq!(token_alone(&service, &first).await, "200");
    service.stop().await;
}

/// The metadata at an address of the host, not of the path of the service.
async fn metadata(service: &Service, path: &str) -> (u16, Value) {
    let answer = client().get(format!("http://{}{path}", service.address)).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_library_finds_the_endpoint_by_the_issuer() {
    const WELL_KNOWN: &str = "/.well-known/oauth-authorization-server";
    for (public_url, at, not_at) in [
        ("http://customers.test", WELL_KNOWN.to_owned(), format!("{WELL_KNOWN}/registry")),
        (
            "https://h.test/registry",
            format!("{WELL_KNOWN}/registry"),
            format!("{WELL_KNOWN}/other"),
        ),
        ("https://h.test/a/b", format!("{WELL_KNOWN}/a/b"), format!("{WELL_KNOWN}/a")),
        ("https://h.test/customers", format!("{WELL_KNOWN}/customers"), format!("{WELL_KNOWN}/x")),
    ] {
        let public_url = public_url.to_owned();
        let config = Config { public_url: Some(public_url.clone()), ..config().await };
        let service = Service::with(config).await;
        let expected = json!({
            "issuer": public_url,
            "token_endpoint": format!("{public_url}/oauth/token"),
            "jwks_uri": format!("{public_url}/.well-known/jwks.json"),
            "scopes_supported": Role::ALL.map(Role::as_str),
            "response_types_supported": [],
            "grant_types_supported": ["client_credentials"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
            "service_documentation": format!("{public_url}/docs"),
        });
        assert_eq!(metadata(&service, &at).await, (200, expected.clone()), "{at}");
        assert_eq!(send(service.get(WELL_KNOWN)).await.body, expected);
        assert_eq!(metadata(&service, &not_at).await.0, 404, "{not_at}");
        let path = public_url.splitn(4, '/').nth(3).map(|path| format!("/{path}"));
        let below = format!("{}{WELL_KNOWN}", path.unwrap_or_default());
        assert_eq!(metadata(&service, &below).await, (200, expected), "{below}");
        service.stop().await;
    }
}
