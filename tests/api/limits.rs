//! Rate limits: per account over all processes, per client, and the `RateLimit` headers.

use customers::config::Config;
use customers::events::values::Role;
use reqwest::Method;
use serde_json::json;
use tokio::time::Instant;

use crate::harness::{Service, With as _, config, send};
use crate::sessions::{token_alone, token_and_cookie, verdict};

const PER_SECOND: u32 = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_has_one_limit_for_all_its_sessions_and_all_processes() {
    let here = Service::with(Config { account_limit: PER_SECOND, ..config().await }).await;
    let there = Service::with(here.config.clone()).await;
    let first = here.log_in_as(Role::Viewer).await;
    let second = there.log_in("viewer").await;
    let other = here.log_in_as(Role::Editor).await;
    let began = Instant::now();
    let mut admitted = 0;
    let refused = loop {
        let (service, login) = if admitted % 2 == 0 { (&here, &first) } else { (&there, &second) };
        let answer = send(service.get("/customers?numbers=0").token(login)).await;
        if answer.status == 429 {
            break answer;
        }
        assert_eq!(answer.status, 200);
        admitted += 1;
        let most = f64::from(PER_SECOND) * (began.elapsed().as_secs_f64() + 1.0) + 1.0;
        assert!(f64::from(admitted) <= most, "{admitted} in {:?}", began.elapsed());
        assert!(admitted < 1000, "no request was refused");
    };
    assert!(admitted >= PER_SECOND, "only {admitted} requests were admitted");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(token_alone(&here, &other).await, "200", "another account has its own limit");
    // A request that is not authenticated does not count and gets a 401, not a 429.
    let garbage = here.get("/customers").bearer_auth("garbage");
    assert_eq!(verdict(garbage).await, "401 unauthenticated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thief_at_the_limit_is_still_a_thief() {
    let service = Service::with(Config { account_limit: 1, ..config().await }).await;
    let login = service.log_in_as(Role::Viewer).await;
    assert_eq!(token_and_cookie(&service, &login).await, "200");
    assert_eq!(token_alone(&service, &login).await, "401 token-replay");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thief_who_uses_up_the_limit_does_not_keep_the_owner_from_ending_that() {
    let service = Service::with(Config { account_limit: 1, ..config().await }).await;
    let stolen = service.log_in_as(Role::Viewer).await;
    let use_up = async || {
        for _ in 0..1000 {
            if token_alone(&service, &stolen).await == "429 rate-limited" {
                return;
            }
        }
        panic!("no request was refused");
    };
    for (method, way, expected) in [
        (Method::GET, "/sessions", "200"),
        (Method::DELETE, "/logout", "200"),
        (Method::DELETE, "/sessions/nothing", "404 not-found"),
        (Method::POST, "/password", "422 invalid"),
        (Method::DELETE, "/sessions", "200"),
    ] {
        let own = service.log_in("viewer").await;
        use_up().await;
        let body = json!({"old": "not it", "new": "another password"});
        let asked = service.request(method, way).login(&own).json(&body);
        assert_eq!(verdict(asked).await, expected, "{way}");
    }
    assert_eq!(token_alone(&service, &stolen).await, "401 unauthenticated");

    // These routes have a limit of their own per session; only the log-out has none.
    let login = service.log_in("viewer").await;
    for number in 0.. {
        assert!(number < 1000, "no request was refused");
        if verdict(service.get("/sessions").login(&login)).await == "429 rate-limited" {
            break;
        }
    }
    assert_eq!(verdict(service.delete("/logout").login(&login)).await, "200");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_of_the_limit_is_told() {
    let service = Service::with(Config { rate_limit: 3, ..config().await }).await;
    let mut left = vec![];
    loop {
        let answer = send(service.get("/livez")).await;
        assert_eq!(answer.header("ratelimit-policy"), Some("\"default\";q=3;w=1"));
        let told = answer.header("ratelimit").unwrap().to_owned();
        assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("x-ratelimit")));
        if answer.status == 429 {
            assert_eq!(
                (told.as_str(), answer.header("retry-after")),
                ("\"default\";r=0;t=1", Some("1"))
            );
            break;
        }
        left.push(told);
    }
    assert_eq!(left[0], "\"default\";r=2;t=1");
    assert!(left.len() >= 3, "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_of_a_client_holds_without_redis() {
    let redis_url = Some("redis://127.0.0.1:1".to_owned().into());
    let service = Service::with(Config { rate_limit: 3, redis_url, ..config().await }).await;
    let mut told = vec![];
    while told.last().is_none_or(|last| last != "429 rate-limited") {
        assert!(told.len() < 1000, "no request was refused");
        told.push(verdict(service.get("/customers").bearer_auth("garbage")).await);
    }
    assert!(told.len() > 3, "{told:?}");
}
