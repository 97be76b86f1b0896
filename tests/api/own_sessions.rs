//! `/sessions`: an account lists and ends its own sessions.

use customers::events::values::Role;
use serde_json::{Value, json};

use crate::harness::{Login, Service, With as _, send};
use crate::sessions::{events_of_type, sid, token_alone, token_and_cookie, verdict};

async fn listed(service: &Service, login: &Login) -> Vec<Value> {
    let answer = send(service.get("/sessions").login(login)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body["sessions"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_sees_their_own_sessions_oldest_first() {
    let service = Service::start().await;
    service.add_account("ada", Role::Viewer).await;
    let body = json!({"username": "ada", "password": crate::harness::PASSWORD});
    let from = service.post("/login").header("user-agent", "an old browser").json(&body);
    let first = crate::sessions::login_of(&send(from).await);
    let second = service.log_in("ada").await;
    service.log_in_as(Role::Admin).await;
    let sessions = listed(&service, &second).await;
    let sids: Vec<_> = sessions.iter().map(|session| session["sid"].clone()).collect();
    assert_eq!(sids, [sid(&first), sid(&second)]);
    let mut shown = sessions[0].clone();
    let times = ["created_at", "expires_at"].map(|name| {
        let time = shown[name].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap();
        shown[name] = "[time]".into();
        time
    });
    assert_eq!((times[1] - times[0]).num_seconds(), 3600);
    let expected = json!({
        "sid": sid(&first), "created_at": "[time]", "expires_at": "[time]",
        "ip": "127.0.0.1", "user_agent": "an old browser", "current": false,
    });
    assert_eq!(shown, expected);
    assert_eq!(sessions[1]["current"], true);
    // An expired session is not listed.
    let ttl = i64::try_from(service.config.token_ttl.as_secs()).unwrap();
    service.hands.forward(ttl - 10);
    let third = service.log_in("ada").await;
    service.hands.forward(20);
    let sessions = listed(&service, &third).await;
    assert_eq!(sessions.len(), 1, "{sessions:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_ended_by_its_owner_and_nobody_else() {
    let service = Service::start().await;
    let (first, second) = (service.log_in_as(Role::Viewer).await, service.log_in("viewer").await);
    let admin = service.log_in_as(Role::Admin).await;
    let end = |login: &Login, sid: &str| {
        verdict(service.delete(&format!("/sessions/{sid}")).token(login))
    };
    assert_eq!(end(&admin, &sid(&first)).await, "404 not-found");
    for garbage in ["x", "%ff", "%00", "..%2f", "0198c0de-0000-7000-8000-000000000000"] {
        assert_eq!(end(&second, garbage).await, "404 not-found", "{garbage}");
    }
    assert_eq!(token_alone(&service, &first).await, "200");
    assert_eq!(end(&second, &sid(&first)).await, "200");
    assert_eq!(token_alone(&service, &first).await, "401 unauthenticated");
    assert_eq!(end(&second, &sid(&first)).await, "404 not-found", "it has ended already");
    let closed = events_of_type(&service, "viewer", "SessionClosed").await;
    assert_eq!(closed.len(), 1);
    assert_eq!(closed[0].data["session"], sid(&first));
    assert_eq!(closed[0].metadata["session"], sid(&second), "the session that ended it");
    // To end the current session is a log-out.
    let answer = send(service.delete(&format!("/sessions/{}", sid(&second))).login(&second)).await;
    assert_eq!(answer.status, 200);
    assert!(answer.header("set-cookie").unwrap().contains("Max-Age=0"), "{answer:?}");
    assert_eq!(token_and_cookie(&service, &second).await, "401 unauthenticated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_own_sessions_are_ended_at_once() {
    let service = Service::start().await;
    let first = service.log_in_as(Role::Viewer).await;
    let (second, third) = (service.log_in("viewer").await, service.log_in("viewer").await);
    let admin = service.log_in_as(Role::Admin).await;
    assert_eq!(token_and_cookie(&service, &second).await, "200");
    let answer = send(service.delete("/sessions").login(&third)).await;
    assert_eq!(answer.shape(), r#"200 {"msg":"logged out everywhere: 3"}"#);
    assert!(answer.header("set-cookie").unwrap().contains("Max-Age=0"), "{answer:?}");
    for login in [&first, &second, &third] {
        assert_eq!(token_and_cookie(&service, login).await, "401 unauthenticated");
    }
    assert_eq!(token_alone(&service, &admin).await, "200");
    assert_eq!(events_of_type(&service, "viewer", "SessionClosed").await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bound_session_is_not_logged_out_without_its_cookie() {
    let service = Service::start().await;
    let login = service.log_in_as(Role::Viewer).await;
    assert_eq!(token_and_cookie(&service, &login).await, "200");
    assert_eq!(verdict(service.delete("/logout").token(&login)).await, "401 token-replay");
    // The attempt was a token replay, which has ended the session.
    assert_eq!(token_and_cookie(&service, &login).await, "401 unauthenticated");
    assert_eq!(events_of_type(&service, "viewer", "TokenReplayDetected").await.len(), 1);
    assert_eq!(events_of_type(&service, "viewer", "SessionClosed").await.len(), 0);
}
