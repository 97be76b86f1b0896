//! A new password, and whom it ends.

use std::time::Duration;

use customers::config::Config;
use customers::events::values::Role;
use serde_json::json;

use crate::harness::{PASSWORD, Service, With as _, send};
use crate::sessions::{events_of_type, sid, token_alone, try_to_log_in, verdict};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_password_ends_all_other_sessions() {
    const NEW: &str = "a longer and better one";
    let service = Service::start().await;
    let own = service.log_in_as(Role::Viewer).await;
    let others = [service.log_in("viewer").await, service.log_in("viewer").await];
    let body = json!({"old": PASSWORD, "new": NEW});
    let answer = send(service.post("/password").json(&body).token(&own)).await;
    insta::assert_snapshot!(
        answer.shape(),
        @r#"200 {"msg":"password changed, all other sessions ended"}"#
    );
    assert_eq!(token_alone(&service, &own).await, "200");
    for other in &others {
        assert_eq!(token_alone(&service, other).await, "401 unauthenticated");
    }
    assert_eq!(verdict(try_to_log_in(&service, "viewer", PASSWORD)).await, "401 unauthenticated");
    assert_eq!(verdict(try_to_log_in(&service, "viewer", NEW)).await, "200");
    assert_eq!(events_of_type(&service, "viewer", "PasswordChanged").await.len(), 1);
    let closed = events_of_type(&service, "viewer", "SessionClosed").await;
    let closed: Vec<_> = closed.iter().map(|event| event.data["session"].clone()).collect();
    assert_eq!(closed, others.each_ref().map(sid));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_new_password_changes_nothing() {
    let service = Service::start().await;
    let login = service.log_in_as(Role::Viewer).await;
    let other = service.log_in("viewer").await;
    let long = "x".repeat(1025);
    for (old, new, field) in [
        ("not the old one", "a longer and better one", "old"),
        (PASSWORD, "7 bytes", "new"),
        (PASSWORD, &long, "new"),
    ] {
        let body = json!({"old": old, "new": new});
        let answer = send(service.post("/password").json(&body).token(&login)).await;
        assert_eq!(answer.status, 422, "{answer:?}");
        assert_eq!(answer.body["errors"][0]["field"], field);
        assert_eq!(answer.body["errors"].as_array().unwrap().len(), 1);
    }
    assert_eq!(token_alone(&service, &other).await, "200");
    assert_eq!(verdict(try_to_log_in(&service, "viewer", PASSWORD)).await, "200");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_password_ends_sessions_that_were_opened_for_longer() {
    let long = Service::start().await;
    let older = long.log_in_as(Role::Viewer).await;
    // The service was started again with a shorter life of tokens.
    let token_ttl = Duration::from_mins(1);
    let short = Service::with(Config { token_ttl, ..long.config.clone() }).await;
    short.hands.forward(600);
    let newer = short.log_in("viewer").await;
    assert_eq!(token_alone(&short, &older).await, "200");
    let body = json!({"old": PASSWORD, "new": "a longer and better one"});
    assert_eq!(verdict(short.post("/password").json(&body).token(&newer)).await, "200");
    assert_eq!(token_alone(&short, &older).await, "401 unauthenticated");
    assert_eq!(token_alone(&long, &older).await, "401 unauthenticated");
}
