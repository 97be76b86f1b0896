//! `GET /customers/{id}/history`: who changed a customer, when, from where and why.

use customers::events::values::Role;
use reqwest::header::HeaderValue;
use serde_json::{Value, json};

use crate::harness::{Answer, Login, Service, With as _, send};

async fn create(service: &Service, login: &Login) -> Answer {
    let body = json!({"name": "Ada", "dob": "1990-12-10"});
    send(service.post("/customers").token(login).json(&body)).await
}

async fn rename(service: &Service, login: &Login, name: &str) -> Answer {
    let body = json!({"name": name, "dob": "1990-12-10"});
    send(service.put("/customers/1").token(login).json(&body)).await
}

async fn history(service: &Service, login: &Login, query: &str) -> Answer {
    send(service.get(&format!("/customers/1/history{query}")).token(login)).await
}

fn versions(answer: &Answer) -> Vec<i64> {
    let entries = answer.body["history"].as_array().unwrap();
    entries.iter().map(|entry| entry["version"].as_i64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_tells_every_change_from_and_to_also_after_the_deletion() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    let admin = service.log_in_as(Role::Admin).await;
    let auditor = service.log_in_as(Role::Auditor).await;

    create(&service, &editor).await;
    let renamed = json!({"name": "Ada King", "dob": "1990-12-10"});
    let request = service.put("/customers/1").json(&renamed);
    let request = request.header("x-request-id", "call-7").header("user-agent", "desk/1.0");
    let updated = send(request.header("x-reason", " married ").token(&admin)).await;
    // The values are the same, so this update is no event and not in the history.
    send(service.put("/customers/1").json(&renamed).token(&editor)).await;
    let both = json!({"id": 1, "name": "Augusta", "dob": "1990-12-11"});
    send(service.post("/customers/update").json(&both).token(&editor)).await;
    send(service.delete("/customers/1").token(&admin)).await;

    let mut told = history(&service, &auditor, "").await;
    assert_eq!(told.status, 200);
    assert_eq!(told.body["history"][1]["at"], updated.body["updated_at"]);
    for entry in told.body["history"].as_array_mut().unwrap() {
        entry["at"] = "[time]".into();
        if entry["request_id"] != "call-7" {
            assert!(uuid::Uuid::parse_str(entry["request_id"].as_str().unwrap()).is_ok());
            entry["request_id"] = "[id]".into();
        }
    }
    insta::assert_snapshot!("history_whole", serde_json::to_string_pretty(&told.body).unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_is_told_page_by_page_oldest_first() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    create(&service, &admin).await;
    for name in ["B", "C", "D", "E"] {
        rename(&service, &admin, name).await;
    }
    for (query, expected, next) in [
        ("", vec![1, 2, 3, 4, 5], Value::Null),
        ("?limit=2", vec![1, 2], json!(2)),
        ("?limit=2&after=2", vec![3, 4], json!(4)),
        ("?after=4&limit=2", vec![5], Value::Null),
        ("?limit=5", vec![1, 2, 3, 4, 5], Value::Null),
        ("?limit=1000&after=0", vec![1, 2, 3, 4, 5], Value::Null),
        ("?after=5", vec![], Value::Null),
        ("?after=99999999999999999999", vec![], Value::Null),
    ] {
        let page = history(&service, &admin, query).await;
        assert_eq!((page.status, versions(&page)), (200, expected), "{query}");
        assert_eq!((&page.body["next"], &page.body["customer_id"]), (&next, &json!(1)), "{query}");
    }

    let mut after = json!(0);
    let mut walked = vec![];
    while !after.is_null() {
        let page = history(&service, &admin, &format!("?limit=1&after={after}")).await;
        walked.extend(versions(&page));
        after = page.body["next"].clone();
    }
    assert_eq!(walked, [1, 2, 3, 4, 5]);
    rename(&service, &admin, "F").await;
    assert_eq!(versions(&history(&service, &admin, "?after=5").await), [6]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_customer_that_never_was_has_no_history() {
    let service = Service::start().await;
    let auditor = service.log_in_as(Role::Auditor).await;
    for id in ["1", "9007199254740991", "0", "abc"] {
        let answer = send(service.get(&format!("/customers/{id}/history")).token(&auditor)).await;
        assert_eq!(
            answer.shape(),
            r#"404 {"detail":"no such customer","request_id":"[id]","status":404,"title":"Not found","type":"/problems/not-found"}"#
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_reason_that_was_given_is_in_the_history() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    create(&service, &admin).await;
    let long = "é".repeat(500);
    for (number, (sent, stored)) in
        [("asked by phone", json!("asked by phone")), (&long, json!(long)), ("  ", Value::Null)]
            .into_iter()
            .enumerate()
    {
        let body = json!({"name": format!("Name {number}"), "dob": "1990-12-10"});
        let reason = HeaderValue::from_bytes(sent.as_bytes()).unwrap();
        let request = service.put("/customers/1").header("x-reason", reason).json(&body);
        assert_eq!(send(request.token(&admin)).await.status, 200);
        let told = history(&service, &admin, "").await;
        assert_eq!(told.body["history"].as_array().unwrap().last().unwrap()["reason"], stored);
    }

    let before = versions(&history(&service, &admin, "").await);
    let body = json!({"name": "Nobody", "dob": "1990-12-10"});
    for bad in ["é".repeat(501).as_bytes(), b"\xff"] {
        let reason = HeaderValue::from_bytes(bad).unwrap();
        let request = service.put("/customers/1").header("x-reason", reason).json(&body);
        let refused = send(request.token(&admin)).await;
        assert_eq!(refused.status, 400);
        assert_eq!(refused.body["errors"][0]["field"], "x-reason");
    }
    assert_eq!(versions(&history(&service, &admin, "").await), before);
}
