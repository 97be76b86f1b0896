//! `POST /password`, which ends all other sessions of the account; and the hashes of passwords.

use std::time::Duration;

use customers::config::Config;
use customers::events::metadata::Metadata;
use customers::events::values::{Role, Username};
use serde_json::json;

use crate::harness::{PASSWORD, Service, With as _, send, until};
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
    // The service is restarted with a shorter token TTL.
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

/// Adds an account whose hash uses half of the current memory, as an earlier version may have stored.
async fn with_old_hash(service: &Service) {
    service.add_account("editor", Role::Editor).await;
    let params = argon2::Params::new(9728, 2, 1, None).unwrap();
    let old = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let hash: argon2::password_hash::phc::PasswordHash =
        argon2::PasswordHasher::hash_password_with_salt(&old, PASSWORD.as_bytes(), &[7; 16])
            .unwrap();
    sqlx::query("update accounts set password_hash = $1")
        .bind(hash.to_string())
        .execute(&service.pools.accounts)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_hash_is_replaced_at_log_in_by_one_of_todays_parameters() {
    let service = Service::start().await;
    with_old_hash(&service).await;
    // Of several concurrent log-ins one replaces the hash, and all succeed.
    let log_ins = (0..4).map(|_| service.log_in("editor"));
    for login in futures_util::future::join_all(log_ins).await {
        assert_eq!(send(service.get("/customers").login(&login)).await.status, 200);
    }
    let hash: String = sqlx::query_scalar("select password_hash from accounts")
        .fetch_one(&service.pools.short)
        .await
        .unwrap();
    assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
    service.log_in("editor").await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_that_is_disabled_during_a_log_in_is_not_let_in() {
    let service = Service::start().await;
    with_old_hash(&service).await;
    // The log-in finds its account and checks its password; then it replaces the hash, where it waits
    // for this transaction.
    let mut disabling = service.pools.long.once().begin().await.unwrap();
    sqlx::query("update accounts set disabled = true").execute(&mut *disabling).await.unwrap();
    let body = json!({"username": "editor", "password": PASSWORD});
    let log_in = tokio::spawn(send(service.post("/login").json(&body)));
    until("the log-in waits", async || {
        let waiting: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity
             where datname = current_database() and wait_event_type = 'Lock'",
        )
        .fetch_one(&service.pools.short)
        .await
        .unwrap();
        waiting > 0
    })
    .await;
    disabling.commit().await.unwrap();
    let answer = log_in.await.unwrap();
    assert_eq!(answer.status, 401, "{answer:?}");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stored_hash_that_would_cost_too_much_lets_nobody_in_and_costs_little() {
    let service = Service::start().await;
    service.add_account("editor", Role::Editor).await;
    let salt_and_hash = "AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    for parameters in [
        "$argon2id$v=19$m=4194304,t=2,p=1",
        "$argon2id$v=19$m=19456,t=4294967295,p=1",
        "$argon2id$v=19$m=19456,t=2,p=16777215",
        "$argon2id$v=19$m=0,t=0,p=0",
        "$argon2i$v=16$m=19456,t=2,p=1",
        "$argon2id$v=19$m=99999999999999999999,t=2,p=1",
        "$2b$12",
        "plain",
    ] {
        sqlx::query("update accounts set password_hash = $1")
            .bind(format!("{parameters}${salt_and_hash}"))
            .execute(&service.pools.accounts)
            .await
            .unwrap();
        let body = json!({"username": "editor", "password": PASSWORD});
        let began = std::time::Instant::now();
        assert_eq!(verdict(service.post("/login").json(&body)).await, "401 unauthenticated");
        // A generous limit, because 4 billion passes would take years.
        assert!(began.elapsed().as_secs() < 5, "{parameters}");
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_password_does_not_undo_one_that_was_given_meanwhile() {
    let service = Service::start().await;
    let thief = service.log_in_as(Role::Viewer).await;
    // The operator's change is not committed: the row is locked, and readers still see the old hash.
    let mut changing = service.pools.long.once().begin().await.unwrap();
    sqlx::query("update accounts set password_hash = 'of the operator'")
        .execute(&mut *changing)
        .await
        .unwrap();
    let body = json!({"old": PASSWORD, "new": "a password of the thief"});
    let asked = verdict(service.post("/password").json(&body).token(&thief));
    let waits = "select exists (select from pg_stat_activity
                 where datname = current_database() and wait_event_type = 'Lock')";
    let commit = async {
        until("the request waits for the row", async || {
            sqlx::query_scalar(waits).fetch_one(&service.pools.short).await.unwrap()
        })
        .await;
        changing.commit().await.unwrap();
    };
    let (told, ()) = tokio::join!(asked, commit);
    assert_eq!(told, "422 invalid");
    let hash: String = sqlx::query_scalar("select password_hash from accounts")
        .fetch_one(&service.pools.short)
        .await
        .unwrap();
    assert_eq!(hash, "of the operator");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_password_keeps_no_session_that_a_change_before_it_ends() {
    let service = Service::start().await;
    let names = ["ada", "bob", "eve"];
    let mut sessions = vec![];
    for name in names {
        service.add_account(name, Role::Admin).await;
        sessions.push(service.log_in(name).await);
    }
    for (name, session) in names.iter().zip(&sessions) {
        // This change is in the log only; it is not applied to Redis yet.
        let name = customers::events::values::Username::parse(name).unwrap();
        let metadata = customers::events::metadata::Metadata::of_program("test");
        service.accounts().change_role(&name, Role::Viewer, metadata).await.unwrap();
        let body = json!({"old": PASSWORD, "new": "another good password"});
        let told = verdict(service.post("/password").json(&body).token(session)).await;
        assert!(["200", "401 unauthenticated"].contains(&told.as_str()), "{told}");
        assert_eq!(token_alone(&service, session).await, "401 unauthenticated");
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_session_that_changes_the_password_stays_open_whoever_ends_the_others() {
    let service = Service::start().await;
    let (own, other) = (service.log_in_as(Role::Viewer).await, service.log_in("viewer").await);
    let sessions = send(service.get("/sessions").login(&own)).await;
    let sessions = sessions.body["sessions"].as_array().unwrap().clone();
    let current = sessions.iter().find(|session| session["current"] == true).unwrap();
    // The change as `POST /password` makes it; its process is killed before it tells Redis, so only the
    // reconciler ends sessions.
    let metadata = Metadata {
        session: Some(current["sid"].as_str().unwrap().to_owned()),
        ..Metadata::of_program("test")
    };
    let name = Username::parse("viewer").unwrap();
    service.accounts().change_password(&name, None, "another hash", metadata).await.unwrap();
    until("the other session has ended", async || {
        send(service.get("/customers").login(&other)).await.status == 401
    })
    .await;
    assert_eq!(send(service.get("/customers").login(&own)).await.status, 200);
    service.stop().await;
}
