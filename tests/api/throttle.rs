//! The throttling of failed log-ins, per account and per address.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use customers::config::Config;
use customers::events::values::Role;
use futures_util::future::join_all;
use reqwest::RequestBuilder;
use serde_json::json;

use crate::harness::{PASSWORD, Service, With as _, config, forget, send, until};
use crate::sessions::{Recorded, events_of_type, verdict};

/// A service that trusts `X-Forwarded-For` from the test, so that a test chooses its addresses.
async fn service_with(login_limit: u32) -> Service {
    let trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    Service::with(Config { login_limit, trusted_proxies, ..config().await }).await
}

fn log_in(service: &Service, name: &str, password: &str, address: &str) -> RequestBuilder {
    let body = json!({"username": name, "password": password});
    service.post("/login").json(&body).header("x-forwarded-for", address)
}

/// The one event of a throttled account, which is appended after the response.
async fn throttled(service: &Service, name: &str) -> Vec<Recorded> {
    let mut events = vec![];
    until("the event is in the log", async || {
        events = events_of_type(service, name, "LoginThrottled").await;
        !events.is_empty()
    })
    .await;
    assert_eq!(events.len(), 1, "{events:?}");
    events
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_close_an_account_for_a_while_from_everywhere() {
    let service = service_with(3).await;
    service.add_account("ada", Role::Viewer).await;
    service.add_account("bob", Role::Viewer).await;
    for i in 1..=3 {
        let attempt = log_in(&service, "ada", "wrong password", &format!("192.0.2.{i}"));
        assert_eq!(verdict(attempt).await, "401 unauthenticated");
    }
    let wrong = send(log_in(&service, "ada", "wrong password", "192.0.2.4")).await;
    let right = send(log_in(&service, "ADA", PASSWORD, "192.0.2.5")).await;
    insta::assert_snapshot!(
        right.shape(),
        @r#"429 {"detail":"too many requests","request_id":"[id]","status":429,"title":"Too many requests","type":"/problems/rate-limited"}"#
    );
    assert_eq!(wrong.shape(), right.shape());
    let seconds: u64 = right.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&seconds), "{seconds}");
    assert_eq!(verdict(log_in(&service, "bob", PASSWORD, "192.0.2.1")).await, "200");
    let throttled = throttled(&service, "ada").await;
    assert_eq!(throttled[0].data, json!({"type": "LoginThrottled", "by": "account"}));
    assert_eq!(throttled[0].metadata["ip"], "192.0.2.3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_close_an_address_for_a_while_for_every_account() {
    let service = service_with(3).await;
    service.add_account("ada", Role::Viewer).await;
    // An IPv6 network (/64) counts as one address.
    for (name, address) in [("x", "2001:db8::1"), ("y", "2001:db8::2"), ("ada", "2001:db8::3")] {
        let attempt = log_in(&service, name, "wrong password", address);
        assert_eq!(verdict(attempt).await, "401 unauthenticated");
    }
    let attempt = log_in(&service, "ada", PASSWORD, "2001:db8::4");
    assert_eq!(verdict(attempt).await, "429 rate-limited");
    let attempt = log_in(&service, "ada", PASSWORD, "2001:db8:0:1::1");
    assert_eq!(verdict(attempt).await, "200");
    let throttled = throttled(&service, "ada").await;
    assert_eq!(throttled[0].data["by"], "address");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guesses_at_once_are_no_way_around_the_limit() {
    let service = service_with(3).await;
    service.add_account("ada", Role::Viewer).await;
    let attempts = (0..12)
        .map(|i| verdict(log_in(&service, "ada", "wrong password", &format!("192.0.2.{i}"))));
    let verdicts = join_all(attempts).await;
    let tried = verdicts.iter().filter(|verdict| *verdict == "401 unauthenticated").count();
    let refused = verdicts.iter().filter(|verdict| *verdict == "429 rate-limited").count();
    assert_eq!(tried + refused, 12, "{verdicts:?}");
    // Two passwords are hashed concurrently, so one more may be in progress when the limit is reached.
    assert!((3..=4).contains(&tried), "{verdicts:?}");
    throttled(&service, "ada").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn successes_never_count() {
    let service = service_with(3).await;
    service.add_account("ada", Role::Viewer).await;
    for wrong in 0..3 {
        for _ in 0..3 {
            let attempt = log_in(&service, "ada", PASSWORD, "192.0.2.1");
            assert_eq!(verdict(attempt).await, "200", "after {wrong} failures");
        }
        let attempt = log_in(&service, "ada", "wrong password", "192.0.2.1");
        assert_eq!(verdict(attempt).await, "401 unauthenticated");
    }
    let attempt = log_in(&service, "ada", PASSWORD, "192.0.2.1");
    assert_eq!(verdict(attempt).await, "429 rate-limited", "a success does not reset the failures");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_zero_is_off() {
    let service = service_with(0).await;
    service.add_account("ada", Role::Viewer).await;
    for _ in 0..12 {
        let attempt = log_in(&service, "ada", "wrong password", "192.0.2.1");
        assert_eq!(verdict(attempt).await, "401 unauthenticated");
    }
    assert_eq!(verdict(log_in(&service, "ada", PASSWORD, "192.0.2.1")).await, "200");
    assert_eq!(events_of_type(&service, "ada", "LoginThrottled").await.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stolen_session_cannot_guess_the_password() {
    let service = service_with(3).await;
    let login = service.log_in_as(Role::Viewer).await;
    let guess = |old: &str| {
        let body = json!({"old": old, "new": "a password of the thief"});
        verdict(service.post("/password").json(&body).token(&login))
    };
    for _ in 0..3 {
        assert_eq!(guess("wrong password").await, "422 invalid");
    }
    assert_eq!(guess(PASSWORD).await, "429 rate-limited");
    let throttled = throttled(&service, "viewer").await;
    assert_eq!(throttled[0].data["by"], "session");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_of_strangers_do_not_keep_the_owner_from_a_new_password() {
    let service = service_with(3).await;
    let owner = service.log_in_as(Role::Viewer).await;
    for _ in 0..4 {
        verdict(log_in(&service, "viewer", "wrong password", "127.0.0.1")).await;
    }
    let blocked = log_in(&service, "viewer", PASSWORD, "127.0.0.1");
    assert_eq!(verdict(blocked).await, "429 rate-limited");
    let body = json!({"old": PASSWORD, "new": "another password"});
    assert_eq!(verdict(service.post("/password").json(&body).token(&owner)).await, "200");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_failures_are_throttled_and_recorded_too() {
    let service = service_with(3).await;
    service.add_account("ada", Role::Viewer).await;
    let failures = format!("{}:{{ada}}:login-failures", service.config.redis_prefix);
    let mut guesses = 0;
    for number in 0..60 {
        let address = format!("192.0.2.{number}");
        let told = verdict(log_in(&service, "ada", "wrong password", &address)).await;
        if told == "429 rate-limited" {
            break;
        }
        guesses += 1;
        // Two failures per window stay below its limit. The test ends the window, because the clock of
        // Redis cannot be moved.
        if number % 2 == 1 && guesses < 30 {
            assert!(forget(&failures).await);
        }
    }
    assert_eq!(guesses, 30, "ten times the limit in a day");
    throttled(&service, "ada").await;
    assert_eq!(
        verdict(log_in(&service, "ada", PASSWORD, "198.51.100.1")).await,
        "429 rate-limited"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_meets_the_limit_again_waits_twice_as_long_but_never_for_ever() {
    let service = service_with(1).await;
    service.add_account("ada", Role::Viewer).await;
    let failures = format!("{}:{{ada}}:login-failures", service.config.redis_prefix);
    for (time, wait) in [60, 120, 240, 480, 900, 900, 900].into_iter().enumerate() {
        let attempt = log_in(&service, "ada", "wrong password", &format!("192.0.2.{time}"));
        assert_eq!(verdict(attempt).await, "401 unauthenticated", "failure {time}");
        let refused = send(log_in(&service, "ada", PASSWORD, "198.51.100.1")).await;
        let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!((wait - 10..=wait).contains(&seconds), "failure {time}: {seconds}");
        // The count expires at the end of the wait. The test deletes it, because the clock of Redis cannot
        // be moved.
        assert!(forget(&failures).await);
    }
    assert_eq!(verdict(log_in(&service, "ada", PASSWORD, "198.51.100.1")).await, "200");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_looks_like_an_address_throttles_no_address() {
    let service = service_with(1).await;
    service.add_account("ada", Role::Viewer).await;
    for (number, name) in ["ip-203.0.113.7", "ip 203.0.113.7", "203.0.113.7"].iter().enumerate() {
        let attempt = log_in(&service, name, "wrong password", &format!("192.0.2.{number}"));
        assert_eq!(verdict(attempt).await, "401 unauthenticated");
    }
    assert_eq!(verdict(log_in(&service, "ada", PASSWORD, "203.0.113.7")).await, "200");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_wrong_passwords_are_ten_guesses() {
    let service = service_with(10).await;
    service.add_account("ada", Role::Viewer).await;
    let mut guesses = 0;
    for round in 0..20 {
        let attempts = (0..50).map(|i| {
            let address = format!("198.51.{round}.{i}");
            let log_in = log_in(&service, "ada", &format!("guess {round} {i}"), &address);
            async move { verdict(log_in).await }
        });
        for told in join_all(attempts).await {
            assert!(["401 unauthenticated", "429 rate-limited"].contains(&told.as_str()), "{told}");
            guesses += usize::from(told == "401 unauthenticated");
        }
    }
    // Two passwords are hashed concurrently, so one more may be in progress when the limit is reached.
    assert!((10..=11).contains(&guesses), "{guesses}");
    assert_eq!(verdict(log_in(&service, "ada", PASSWORD, "203.0.113.1")).await, "429 rate-limited");
    throttled(&service, "ada").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_of_one_network_keeps_no_other_log_in_waiting() {
    let service = service_with(0).await;
    service.add_account("ada", Role::Viewer).await;
    let answered = Arc::new(AtomicUsize::new(0));
    let mut crowd = vec![];
    // Every client has an address (/64) of its own; the networks (/48) are the same.
    for number in 0..258 {
        let guess = log_in(&service, "nobody", "a guess", &format!("2001:db8:1:{number:x}::1"));
        let answered = Arc::clone(&answered);
        crowd.push(tokio::spawn(async move {
            let told = verdict(guess).await;
            answered.fetch_add(1, Ordering::SeqCst);
            told
        }));
    }
    until("the queue is at work", async || answered.load(Ordering::SeqCst) >= 2).await;
    let before = answered.load(Ordering::SeqCst);
    assert_eq!(verdict(log_in(&service, "ada", PASSWORD, "2001:db8:2::1")).await, "200");
    let between = answered.load(Ordering::SeqCst) - before;
    assert!(between < 60, "{between} of the crowd came first");
    for told in join_all(crowd).await {
        let told = told.unwrap();
        assert!(["401 unauthenticated", "503 overloaded"].contains(&told.as_str()), "{told}");
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invented_names_leave_nothing_in_redis_for_long() {
    let service = service_with(3).await;
    service.add_account("ada", Role::Viewer).await;
    let long = |tag: &str| format!("{}:{{{tag}}}:login-failures-long", service.config.redis_prefix);
    for name in ["ada", "invented"] {
        let attempt = log_in(&service, name, "wrong password", "192.0.2.1");
        assert_eq!(verdict(attempt).await, "401 unauthenticated");
    }
    assert!(!forget(&long("invented")).await);
    assert!(forget(&long("ada")).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_cannot_be_changed_without_end() {
    let service = service_with(3).await;
    let login = service.log_in_as(Role::Viewer).await;
    let change = || {
        let body = json!({"old": PASSWORD, "new": PASSWORD});
        verdict(service.post("/password").json(&body).token(&login))
    };
    for _ in 0..3 {
        assert_eq!(change().await, "200");
    }
    assert_eq!(change().await, "429 rate-limited");
}
