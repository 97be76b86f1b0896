//! Service keys of accounts: their secrets, their limits, who manages them. What they are for is in `oauth`.

use chrono::TimeDelta;
use customers::clock::rfc3339;
use customers::events::values::Role;
use futures_util::future::join_all;
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::guards::crc32;
use crate::harness::{Login, Service, With as _, send, until};
use crate::redis_trouble::second_service;
use crate::sessions::{account_events, events_of_type, sid, verdict};

/// A service key, as its owner keeps it.
#[derive(Debug, Clone)]
pub struct Key {
    pub client_id: String,
    pub secret: String,
}

/// A time so many days after that of the service.
pub fn in_days(service: &Service, days: i64) -> String {
    rfc3339(service.hands.clock().now() + TimeDelta::days(days))
}

/// A request for a new key that is good for 30 days.
pub fn add(service: &Service, by: &Login, account: &str) -> RequestBuilder {
    let body = json!({"name": "nightly sync", "expires_at": in_days(service, 30)});
    service.post(&format!("/accounts/{account}/keys")).login(by).json(&body)
}

pub async fn key_of(service: &Service, by: &Login, account: &str) -> Key {
    let added = send(add(service, by, account)).await;
    assert_eq!(added.status, 201, "{added:?}");
    let text = |name: &str| added.body[name].as_str().unwrap().to_owned();
    Key { client_id: text("client_id"), secret: text("client_secret") }
}

pub fn revoke(service: &Service, by: &Login, account: &str, key: &Key) -> RequestBuilder {
    service.delete(&format!("/accounts/{account}/keys/{}", key.client_id)).login(by)
}

pub async fn listed(service: &Service, by: &Login, account: &str) -> Vec<Value> {
    let answer = send(service.get(&format!("/accounts/{account}/keys")).login(by)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body["keys"].as_array().unwrap().clone()
}

/// The CRC-32 of a text in six digits of base 62, written independently of the program.
fn checksum(text: &str) -> String {
    const DIGITS: &str = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut rest = crc32(text.as_bytes());
    let mut digits: Vec<char> = vec![];
    for _ in 0..6 {
        digits.push(DIGITS.chars().nth((rest % 62) as usize).unwrap());
        rest /= 62;
    }
    digits.into_iter().rev().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_shown_once_in_a_form_that_scanners_know_and_kept_as_a_hash() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    service.add_account("robot", Role::Editor).await;
    let expires_at = in_days(&service, 30);
    let added = send(add(&service, &admin, "robot").header("x-reason", "a sync")).await;
    let (client_id, secret) = (&added.body["client_id"], added.body["client_secret"].as_str());
    let secret = secret.unwrap();
    let expected = json!({
        "client_id": client_id, "client_secret": secret,
        "name": "nightly sync", "expires_at": expires_at,
    });
    assert_eq!((added.status, &added.body), (201, &expected));
    assert_eq!(added.header("cache-control"), Some("no-store"));

    // customers_sk_[0-9A-Za-z]{49}: 256 bits and their checksum.
    let digits = secret.strip_prefix("customers_sk_").unwrap();
    assert_eq!(digits.len(), 49);
    assert!(digits.bytes().all(|digit| digit.is_ascii_alphanumeric()), "{secret}");
    let (body, sum) = secret.split_at(secret.len() - 6);
    assert_eq!(sum, checksum(body));

    let keys = send(service.get("/accounts/robot/keys").login(&admin)).await;
    let mut shown = keys.body["keys"][0].clone();
    assert!(shown["created_at"].take().is_string());
    let expected = json!({
        "client_id": client_id, "name": "nightly sync", "created_at": null,
        "expires_at": expires_at, "last_used_at": null,
    });
    assert_eq!(shown, expected);
    assert!(!keys.text.contains(digits));

    let event = account_events(&service, "robot").await.pop().unwrap();
    let expected = json!({
        "type": "ServiceKeyAdded", "client_id": client_id,
        "name": "nightly sync", "expires_at": expires_at,
    });
    assert_eq!(event.data, expected);
    assert_eq!(
        (&event.metadata["actor"], &event.metadata["reason"]),
        (&json!("admin"), &json!("a sync"))
    );
    // Neither the log nor the table of keys has more of it than its SHA-256.
    let (row, stored): (String, Vec<u8>) =
        sqlx::query_as("select k::text, secret_hash from service_keys k")
            .fetch_one(&service.pools.short)
            .await
            .unwrap();
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, secret.as_bytes());
    assert_eq!(stored, hash.as_ref());
    let events: String =
        sqlx::query_scalar("select string_agg(payload::text || metadata::text, ' ') from events")
            .fetch_one(&service.pools.short)
            .await
            .unwrap();
    for text in [&row, &events] {
        assert!(!text.contains(digits) && !text.contains(&digits[..20]), "{text}");
    }
    assert!(!events.contains("hash"), "{events}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_needs_a_name_and_an_end_that_is_near_enough() {
    let service = Service::start().await;
    let ada = service.log_in_as(Role::Viewer).await;
    let refused = |body: Value| {
        let request = service.post("/accounts/viewer/keys").login(&ada).json(&body);
        async move {
            let answer = send(request).await;
            assert_eq!(answer.status, 422, "{body}: {answer:?}");
            let errors = answer.body["errors"].as_array().unwrap().clone();
            let text = |error: &Value, name: &str| error[name].as_str().unwrap().to_owned();
            let line =
                |error: &Value| format!("{} {}", text(error, "field"), text(error, "detail"));
            errors.iter().map(line).collect::<Vec<_>>().join("; ")
        }
    };
    assert_eq!(refused(json!({})).await, "name is required; expires_at is required");
    let soon = in_days(&service, 1);
    for (name, problem) in [
        (json!(""), "name must not be empty"),
        (json!("x".repeat(65)), "name must have at most 64 characters"),
        (json!("a\nb"), "name must not contain control characters"),
        (json!(7), "name must be a string"),
    ] {
        assert_eq!(refused(json!({"name": name, "expires_at": soon})).await, problem);
    }
    for (end, problem) in [
        (json!(null), "expires_at must be a string"),
        (json!("tomorrow"), "expires_at must be a time like 2027-01-31T12:00:00Z"),
        (json!("2027-01-31"), "expires_at must be a time like 2027-01-31T12:00:00Z"),
        (json!(in_days(&service, 0)), "expires_at must be in the future"),
        (json!(in_days(&service, -1)), "expires_at must be in the future"),
        (json!(in_days(&service, 732)), "expires_at must be within 731 days"),
        (json!("9999-12-31T23:59:59Z"), "expires_at must be within 731 days"),
    ] {
        assert_eq!(refused(json!({"name": "a", "expires_at": end})).await, problem);
    }
    let last = json!({"name": "x".repeat(64), "expires_at": in_days(&service, 731)});
    let added = send(service.post("/accounts/viewer/keys").login(&ada).json(&last)).await;
    assert_eq!(added.status, 201, "{added:?}");
    assert_eq!(events_of_type(&service, "viewer", "ServiceKeyAdded").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_and_an_admin_manage_its_keys_and_nobody_else() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    let (ada, eve) =
        (service.log_in_as(Role::Viewer).await, service.log_in_as(Role::Auditor).await);
    let of_admin = key_of(&service, &admin, "viewer").await;
    let own = key_of(&service, &ada, "viewer").await;
    let ids = |keys: &[Value]| keys.iter().map(|key| key["client_id"].clone()).collect::<Vec<_>>();
    let expected = [of_admin.client_id.clone(), own.client_id.clone()];
    assert_eq!(ids(&listed(&service, &ada, "viewer").await), expected);
    assert_eq!(ids(&listed(&service, &admin, "viewer").await), expected);
    assert_eq!(listed(&service, &eve, "auditor").await, Vec::<Value>::new());
    for (request, what) in [
        (service.get("/accounts/viewer/keys").login(&eve), "list"),
        (service.get("/accounts/nobody/keys").login(&eve), "list of nobody"),
        (add(&service, &eve, "viewer"), "add"),
        // 403 comes before 415.
        (service.post("/accounts/viewer/keys").login(&eve).body("x"), "no JSON"),
        (revoke(&service, &eve, "viewer", &own), "revoke"),
        (revoke(&service, &ada, "admin", &own), "revoke of an admin"),
    ] {
        assert_eq!(verdict(request).await, "403 forbidden", "{what}");
    }
    // A key of another account.
    assert_eq!(verdict(revoke(&service, &eve, "auditor", &own)).await, "404 not-found");
    assert_eq!(verdict(revoke(&service, &ada, "viewer", &of_admin)).await, "200");
    assert_eq!(verdict(revoke(&service, &admin, "viewer", &own)).await, "200");
    assert_eq!(verdict(revoke(&service, &admin, "viewer", &own)).await, "404 not-found");
    let garbage = Key { client_id: "x".to_owned(), ..own.clone() };
    assert_eq!(verdict(revoke(&service, &admin, "viewer", &garbage)).await, "404 not-found");
    let revoked = events_of_type(&service, "viewer", "ServiceKeyRevoked").await;
    let told: Vec<_> = revoked
        .iter()
        .map(|event| (event.data["client_id"].clone(), event.metadata["session"].clone()))
        .collect();
    assert_eq!(
        told,
        [(of_admin.client_id.into(), sid(&ada).into()), (own.client_id.into(), sid(&admin).into())]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_has_ten_keys_however_many_are_added_at_once() {
    let service = Service::start().await;
    let other = second_service(&service).await;
    let ada = service.log_in_as(Role::Viewer).await;
    let asked = (0..16).map(|number| {
        verdict(add(if number % 2 == 0 { &service } else { &other }, &ada, "viewer"))
    });
    let mut verdicts = join_all(asked).await;
    verdicts.sort();
    assert!(verdicts[..10].iter().all(|told| told == "201"), "{verdicts:?}");
    assert!(verdicts[10..].iter().all(|told| told == "409 too-many-keys"), "{verdicts:?}");
    let refused = send(add(&service, &ada, "viewer")).await;
    insta::assert_snapshot!(
        refused.shape(),
        @r#"409 {"detail":"an account has at most 10 service keys; revoke one first","request_id":"[id]","status":409,"title":"Too many service keys","type":"/problems/too-many-keys"}"#
    );
    let keys = listed(&service, &ada, "viewer").await;
    assert_eq!(keys.len(), 10);
    assert_eq!(events_of_type(&service, "viewer", "ServiceKeyAdded").await.len(), 10);
    // Another account has its own, and a revoked one makes room.
    key_of(&service, &service.log_in_as(Role::Editor).await, "editor").await;
    let client_id = keys[3]["client_id"].as_str().unwrap().to_owned();
    let first = Key { client_id, secret: String::new() };
    assert_eq!(verdict(revoke(&service, &ada, "viewer", &first)).await, "200");
    key_of(&service, &ada, "viewer").await;
    service.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_revocations_of_a_key_one_is_made() {
    let service = Service::start().await;
    let other = second_service(&service).await;
    let ada = service.log_in_as(Role::Viewer).await;
    for round in 1..=5 {
        let key = key_of(&service, &ada, "viewer").await;
        let asked = (0..6).map(|number| {
            let of = if number % 2 == 0 { &service } else { &other };
            verdict(revoke(of, &ada, "viewer", &key))
        });
        let mut verdicts = join_all(asked).await;
        verdicts.sort();
        assert_eq!(verdicts[0], "200");
        assert!(verdicts[1..].iter().all(|told| told == "404 not-found"), "{verdicts:?}");
        let revoked = events_of_type(&service, "viewer", "ServiceKeyRevoked").await;
        assert_eq!(revoked.len(), round);
    }
    until("no key is left", async || listed(&service, &ada, "viewer").await.is_empty()).await;
    service.stop().await;
    other.stop().await;
}
