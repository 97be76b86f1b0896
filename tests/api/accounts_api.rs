//! `/accounts`: an admin lists, adds and changes accounts, and sees and ends their sessions.

use customers::auth::account::AccountError;
use customers::auth::account_changes::AccountChange;
use customers::config::Config;
use customers::events::log::read;
use customers::events::metadata::Metadata;
use customers::events::values::{Role, Username};
use futures_util::future::join_all;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::harness::{Answer, Login, PASSWORD, Service, With as _, config, send, until};
use crate::own_redis::Redis;
use crate::redis_trouble::second_service;
use crate::service_keys::add as add_key;
use crate::sessions::{
    account_events, events_of_type, sid, token_alone, token_and_cookie, try_to_log_in, verdict,
};

fn add(
    service: &Service,
    by: &Login,
    username: &str,
    password: &str,
    role: &str,
) -> RequestBuilder {
    let body = json!({"username": username, "password": password, "role": role});
    service.post("/accounts").login(by).json(&body)
}

async fn change(service: &Service, by: &Login, username: &str, body: &Value) -> Answer {
    send(service.patch(&format!("/accounts/{username}")).login(by).json(body)).await
}

/// An admin, whose session is bound: no later request appends an event for that.
async fn bound_admin(service: &Service) -> Login {
    let admin = service.log_in_as(Role::Admin).await;
    assert_eq!(token_and_cookie(service, &admin).await, "200");
    admin
}

async fn head(service: &Service) -> i64 {
    read::head(&service.pools.short).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_added_account_may_log_in_and_the_log_tells_by_whom_it_was_added() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    let request = add(&service, &admin, " Ada.Løvelace ", "a good password", "editor");
    let added = send(request.header("x-reason", "joins the team")).await;
    insta::assert_snapshot!(
        added.shape(),
        @r#"201 {"created_at":"[time]","disabled":false,"role":"editor","username":"ada.løvelace"}"#
    );
    let location = added.header("location").unwrap();
    assert_eq!(location, "/accounts/ada.l%C3%B8velace");
    assert_eq!(send(service.get(location).login(&admin)).await.body, added.body);
    let log_in = try_to_log_in(&service, "ada.løvelace", "a good password");
    assert_eq!(verdict(log_in).await, "200");

    let event = account_events(&service, "ada.løvelace").await.swap_remove(0);
    let expected = json!({"type": "AccountAdded", "username": "ada.løvelace", "role": "editor"});
    assert_eq!(event.data, expected);
    let metadata = event.metadata;
    for (name, value) in [
        ("actor", "admin"),
        ("role", "admin"),
        ("session", &sid(&admin)),
        ("ip", "127.0.0.1"),
        ("request_id", added.header("x-request-id").unwrap()),
        ("reason", "joins the team"),
    ] {
        assert_eq!(metadata[name], value, "{metadata}");
    }

    let list = send(service.get("/accounts").login(&admin)).await;
    insta::assert_snapshot!(
        list.shape(),
        @r#"200 {"accounts":[{"created_at":"[time]","disabled":false,"role":"editor","username":"ada.løvelace"},{"created_at":"[time]","disabled":false,"role":"admin","username":"admin"}]}"#
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_command_line_refuses_is_refused_and_named_at_once() {
    let service = Service::start().await;
    let admin = bound_admin(&service).await;
    let before = head(&service).await;
    let mut lines = vec![];
    for body in [
        json!({}),
        json!({"username": "a b", "password": "7 bytes", "role": "root"}),
        json!({"username": "", "password": 1, "role": null}),
        json!({"username": "x".repeat(65), "password": "x".repeat(1025), "role": "Admin"}),
        json!({"username": "a\u{200b}da", "password": "control\u{7}char", "role": "viewer"}),
    ] {
        let answer = send(service.post("/accounts").login(&admin).json(&body)).await;
        assert_eq!(answer.status, 422, "{answer:?}");
        lines.push(answer.body["errors"].to_string());
    }
    for body in [
        json!({"role": "root", "disabled": "yes", "password": "short"}),
        json!({"role": 1, "disabled": 0, "password": []}),
    ] {
        let answer = change(&service, &admin, "admin", &body).await;
        assert_eq!(answer.status, 422, "{answer:?}");
        lines.push(answer.body["errors"].to_string());
    }
    insta::assert_snapshot!("accounts_refused", lines.join("\n"));
    assert_eq!(head(&service).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_given_once_however_many_ask_for_it() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    let other = second_service(&service).await;
    let asked = (0..6).map(|number| {
        let of = if number % 2 == 0 { &service } else { &other };
        verdict(add(of, &admin, "ada", "a good password", "viewer"))
    });
    let mut verdicts = join_all(asked).await;
    verdicts.sort();
    assert_eq!(verdicts[0], "201");
    assert!(verdicts[1..].iter().all(|told| told == "409 exists"), "{verdicts:?}");
    assert_eq!(events_of_type(&service, "ada", "AccountAdded").await.len(), 1);
    // Also of a disabled account, and in another spelling.
    let disabled = change(&service, &admin, "ada", &json!({"disabled": true})).await;
    assert_eq!(disabled.status, 200);
    let again = send(add(&service, &admin, "ＡＤＡ", "a good password", "admin")).await;
    insta::assert_snapshot!(
        again.shape(),
        @r#"409 {"detail":"the account ada already exists","request_id":"[id]","status":409,"title":"Exists already","type":"/problems/exists"}"#
    );
    service.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_account_has_to_log_in_again_on_every_process() {
    const NEW: &str = "another good password";
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    service.add_account("ada", Role::Viewer).await;
    let other = second_service(&service).await;
    for (body, event, cause) in [
        (
            json!({"role": "editor"}),
            json!({"type": "RoleChanged", "role": "editor"}),
            "role-changed",
        ),
        (json!({"password": PASSWORD}), json!({"type": "PasswordChanged"}), "password-changed"),
        (json!({"disabled": true}), json!({"type": "AccountDisabled"}), "account-disabled"),
    ] {
        let login = service.log_in("ada").await;
        until("both processes know the session", async || {
            token_alone(&other, &login).await == "200"
                && token_alone(&service, &login).await == "200"
        })
        .await;
        let changed = change(&service, &admin, "ada", &body).await;
        assert_eq!(changed.status, 200, "{changed:?}");
        let part = body.as_object().unwrap().keys().next().unwrap();
        assert_eq!(changed.body["changed"], json!([part]));
        for of in [&other, &service] {
            assert_eq!(token_alone(of, &login).await, "401 unauthenticated", "{body}");
        }
        let events = account_events(&service, "ada").await;
        let recorded = events.iter().rfind(|recorded| recorded.data == event).unwrap();
        assert_eq!(recorded.metadata["actor"], "admin");
        assert_eq!(recorded.metadata["session"], sid(&admin));
        until("the log has SessionClosed", async || {
            let closed = events_of_type(&service, "ada", "SessionClosed").await;
            closed.iter().any(|closed| {
                closed.data["session"] == sid(&login) && closed.data["cause"] == cause
            })
        })
        .await;
    }
    assert_eq!(verdict(try_to_log_in(&service, "ada", PASSWORD)).await, "401 unauthenticated");
    let enabled =
        change(&service, &admin, "ada", &json!({"disabled": false, "password": NEW})).await;
    assert_eq!(enabled.body["changed"], json!(["password", "disabled"]));
    assert_eq!(enabled.body["disabled"], false);
    assert_eq!(events_of_type(&service, "ada", "AccountEnabled").await.len(), 1);
    assert_eq!(verdict(try_to_log_in(&service, "ada", NEW)).await, "200");
    service.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_changes_are_made_together_or_not_at_all() {
    let service = Service::start().await;
    let admin = bound_admin(&service).await;
    service.add_account("ada", Role::Viewer).await;
    let before = head(&service).await;
    let half = json!({"role": "editor", "password": "short"});
    assert_eq!(change(&service, &admin, "ada", &half).await.status, 422);
    assert_eq!(head(&service).await, before);

    let all = json!({"role": "auditor", "password": "another password", "disabled": true});
    let changed = change(&service, &admin, "ada", &all).await;
    insta::assert_snapshot!(
        changed.shape(),
        @r#"200 {"changed":["role","password","disabled"],"created_at":"[time]","disabled":true,"role":"auditor","username":"ada"}"#
    );
    let events = account_events(&service, "ada").await;
    let kinds: Vec<_> = events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["AccountAdded", "RoleChanged", "PasswordChanged", "AccountDisabled"]);
    for event in &events[1..] {
        assert_eq!(event.metadata["request_id"], changed.header("x-request-id").unwrap());
    }

    // The part that is refused in the database takes the others with it.
    let name = Username::parse("admin").unwrap();
    let last = AccountChange {
        role: Some(Role::Viewer),
        password_hash: Some("no hash".to_owned()),
        disabled: None,
        must_keep_admin: true,
    };
    let before = head(&service).await;
    let refused = service.accounts().change(&name, &last, Metadata::of_program("test")).await;
    assert!(matches!(refused, Err(AccountError::LastAdmin)), "{refused:?}");
    assert_eq!(head(&service).await, before);
    assert_eq!(verdict(try_to_log_in(&service, "admin", PASSWORD)).await, "200");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_so_already_is_200_without_an_event() {
    let service = Service::start().await;
    let admin = bound_admin(&service).await;
    let ada = service.log_in_as(Role::Viewer).await;
    let before = head(&service).await;
    for body in [
        json!({}),
        json!({"role": null, "disabled": null, "password": null, "unknown": 1}),
        json!({"role": "viewer", "disabled": false}),
    ] {
        let same = change(&service, &admin, "viewer", &body).await;
        assert_eq!((same.status, &same.body["changed"]), (200, &json!([])), "{same:?}");
    }
    assert_eq!(head(&service).await, before);
    assert_eq!(token_alone(&service, &ada).await, "200");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_admin_does_not_lock_itself_out() {
    let service = Service::start().await;
    let admin = bound_admin(&service).await;
    // Also with another admin there: it can do it.
    service.add_account("second", Role::Admin).await;
    let before = head(&service).await;
    for body in [
        json!({"disabled": true}),
        json!({"role": "viewer"}),
        json!({"role": "admin", "disabled": true}),
    ] {
        let refused = change(&service, &admin, "admin", &body).await;
        assert_eq!((refused.status, &refused.body["type"]), (409, &json!("/problems/lockout")));
    }
    // With the session of another one, a new password needs the old one.
    let refused = change(&service, &admin, "admin", &json!({"password": "a new password"})).await;
    assert_eq!((refused.status, &refused.body["errors"][0]["field"]), (422, &json!("password")));
    let same =
        change(&service, &admin, "admin", &json!({"role": "admin", "disabled": false})).await;
    assert_eq!((same.status, &same.body["changed"]), (200, &json!([])));
    assert_eq!(head(&service).await, before);
    assert_eq!(token_and_cookie(&service, &admin).await, "200");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_admins_who_take_the_role_from_each_other_one_keeps_it() {
    let service = Service::start().await;
    let other = second_service(&service).await;
    service.add_account("ada", Role::Admin).await;
    service.add_account("bob", Role::Admin).await;
    for round in 0..10 {
        let (ada, bob) = (service.log_in("ada").await, other.log_in("bob").await);
        let body =
            if round % 2 == 0 { json!({"role": "viewer"}) } else { json!({"disabled": true}) };
        let (first, second) =
            tokio::join!(change(&service, &ada, "bob", &body), change(&other, &bob, "ada", &body));
        let mut statuses = [first.status, second.status];
        statuses.sort_unstable();
        // The second is refused, or its session has ended already.
        assert_eq!(statuses[0], 200, "{first:?} {second:?}");
        assert!([401, 403, 409].contains(&statuses[1]), "{first:?} {second:?}");
        let left: Vec<String> = sqlx::query_scalar(
            "select username from accounts where role = 'admin' and not disabled",
        )
        .fetch_all(&service.pools.short)
        .await
        .unwrap();
        assert_eq!(left.len(), 1, "{left:?}");
        let login = service.log_in(&left[0]).await;
        let lost = if left[0] == "ada" { "bob" } else { "ada" };
        let given = json!({"role": "admin", "disabled": false});
        assert_eq!(change(&service, &login, lost, &given).await.status, 200);
    }
    service.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_that_is_not_there_is_404_everywhere() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    for name in ["nobody", "%ff", "a%20b", "%7B", "%00"] {
        for (method, path) in [
            (Method::GET, ""),
            (Method::PATCH, ""),
            (Method::GET, "/sessions"),
            (Method::DELETE, "/sessions"),
            (Method::GET, "/keys"),
            (Method::DELETE, "/keys/019ac4f2-6d8e-7c51-9a0b-3f1d2e4c5b6a"),
        ] {
            let request = service.request(method.clone(), &format!("/accounts/{name}{path}"));
            let request = request.login(&admin);
            let request = if method == Method::PATCH { request.json(&json!({})) } else { request };
            assert_eq!(verdict(request).await, "404 not-found", "{method} {name} {path}");
        }
        assert_eq!(verdict(add_key(&service, &admin, name)).await, "404 not-found", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_admin_sees_and_ends_the_sessions_of_any_account() {
    let service = Service::start().await;
    let (first, second) = (service.log_in_as(Role::Viewer).await, service.log_in("viewer").await);
    let admin = service.log_in_as(Role::Admin).await;
    let listed = send(service.get("/accounts/viewer/sessions").login(&admin)).await;
    let sessions = listed.body["sessions"].as_array().unwrap();
    let shown: Vec<_> = sessions
        .iter()
        .map(|session| (session["sid"].clone(), session["current"].clone()))
        .collect();
    assert_eq!(shown, [(sid(&first).into(), false.into()), (sid(&second).into(), false.into())]);
    let own = send(service.get("/accounts/admin/sessions").login(&admin)).await;
    assert_eq!(own.body["sessions"][0]["current"], true);

    let ended = send(service.delete("/accounts/viewer/sessions").login(&admin)).await;
    assert_eq!(ended.shape(), r#"200 {"msg":"logged out everywhere: 2"}"#);
    assert_eq!(ended.header("set-cookie"), None, "the admin's cookie stays");
    for login in [&first, &second] {
        assert_eq!(token_alone(&service, login).await, "401 unauthenticated");
    }
    let closed = events_of_type(&service, "viewer", "SessionClosed").await;
    assert_eq!(closed.len(), 2);
    assert!(closed.iter().all(|closed| closed.metadata["actor"] == "admin"), "{closed:?}");
    assert_eq!(token_alone(&service, &service.log_in("viewer").await).await, "200");

    let ended = send(service.delete("/accounts/admin/sessions").login(&admin)).await;
    assert!(ended.header("set-cookie").unwrap().contains("Max-Age=0"), "{ended:?}");
    assert_eq!(token_alone(&service, &admin).await, "401 unauthenticated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_no_account_is_changed() {
    let mut redis = Redis::start(&[]).await;
    let redis_url = Some(redis.url().into());
    let service = Service::with(Config { redis_url, ..config().await }).await;
    let admin = bound_admin(&service).await;
    service.add_account("ada", Role::Viewer).await;
    let before = head(&service).await;
    redis.kill().await;
    let body = json!({"role": "admin"});
    assert_eq!(change(&service, &admin, "ada", &body).await.status, 503);
    assert_eq!(verdict(add(&service, &admin, "bob", PASSWORD, "viewer")).await, "503 unavailable");
    assert_eq!(head(&service).await, before);
    service.stop().await;
}
