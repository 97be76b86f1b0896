//! Taking back: a customer gets the values of an earlier version, also after its deletion.

use customers::events::values::Role;
use serde_json::{Value, json};

use crate::harness::{Answer, Login, Service, With as _, send};

async fn restore(service: &Service, login: &Login, id: i64, body: Value) -> Answer {
    let path = format!("/customers/{id}/restore");
    send(service.post(&path).login(login).json(&body)).await
}

/// A service whose customer 1 was created as Ada with the external id `a`, renamed, and deleted.
async fn deleted() -> (Service, Login) {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    let ada = json!({"name": "Ada", "dob": "1990-12-10", "external_id": "a"});
    assert_eq!(send(service.post("/customers").login(&editor).json(&ada)).await.status, 201);
    let grace = json!({"name": "Grace", "dob": "1991-12-10"});
    assert_eq!(send(service.put("/customers/1").login(&editor).json(&grace)).await.status, 200);
    assert_eq!(send(service.delete("/customers/1").login(&editor)).await.status, 200);
    (service, editor)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_customer_is_there_again_with_the_values_of_a_version() {
    let (service, editor) = deleted().await;
    let auditor = service.log_in_as(Role::Auditor).await;
    let first = send(service.get("/customers/1?version=1").login(&auditor)).await.body;
    let body = json!({"version": 1, "reason": "deleted by mistake"});
    let restored = restore(&service, &editor, 1, body).await;
    assert_eq!((restored.status, restored.header("etag")), (200, Some("\"4\"")));
    for member in ["id", "name", "dob", "external_id", "created_at"] {
        assert_eq!(restored.body[member], first[member], "{member}");
    }
    assert_eq!(restored.header("projection-pending"), None);
    // Every read agrees.
    let read = send(service.get("/customers/1").login(&editor)).await;
    assert_eq!(read.text, restored.text);
    let list = send(service.get("/customers").login(&editor)).await;
    assert_eq!(list.body["customers"], json!([restored.body]));
    let found = send(service.get("/customers?name=ada").login(&editor)).await;
    assert_eq!(found.body["customers"], json!([restored.body]));
    let history = send(service.get("/customers/1/history").login(&auditor)).await;
    let last = history.body["history"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(
        (&last["event"], &last["reason"]),
        (&json!("CustomerRestored"), &json!("deleted by mistake"))
    );
    let changes = json!([
        {"field": "name", "from": null, "to": "Ada"},
        {"field": "dob", "from": null, "to": "1990-12-10"},
        {"field": "external_id", "from": null, "to": "a"},
    ]);
    assert_eq!(last["changes"], changes);
    let event = send(service.get("/events?type=CustomerRestored").login(&auditor)).await;
    let data = json!({"name": "Ada", "dob": "1990-12-10", "from_version": 1, "external_id": "a"});
    assert_eq!(event.body["events"][0]["data"], data);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_of_the_present_values_is_no_change_and_one_of_earlier_ones_is() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    let ada = json!({"name": "Ada", "dob": "1990-12-10"});
    send(service.post("/customers").login(&editor).json(&ada)).await;
    let same = restore(&service, &editor, 1, json!({"version": 1})).await;
    assert_eq!((same.status, same.header("etag")), (200, Some("\"1\"")));
    let grace = json!({"name": "Grace", "dob": "1990-12-10"});
    send(service.put("/customers/1").login(&editor).json(&grace)).await;
    let back = restore(&service, &editor, 1, json!({"version": 1})).await;
    assert_eq!((&back.body["name"], &back.body["version"]), (&json!("Ada"), &json!(3)));
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_is_conditional_and_made_once() {
    let (service, editor) = deleted().await;
    let request = |if_match: &str, key: &str| {
        let request = service.post("/customers/1/restore").login(&editor);
        let request = request.header("if-match", if_match).header("idempotency-key", key);
        request.json(&json!({"version": 2}))
    };
    assert_eq!(send(request("\"2\"", "a")).await.status, 412);
    let first = send(request("\"3\"", "b")).await;
    assert_eq!((first.status, &first.body["name"]), (200, &json!("Grace")));
    let again = send(request("\"3\"", "b")).await;
    assert_eq!((again.status, &again.text), (200, &first.text));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_restored_is_refused_by_name() {
    let (service, editor) = deleted().await;
    let viewer = service.log_in_as(Role::Viewer).await;
    assert_eq!(restore(&service, &viewer, 1, json!({"version": 1})).await.status, 403);
    assert_eq!(restore(&service, &editor, 2, json!({"version": 1})).await.status, 404);
    for (version, detail) in [
        (json!(9), "must be a version of the customer"),
        (json!(3), "must not be a deletion"),
        (json!(0), "must be an integer of at least 1"),
        (json!("1"), "must be an integer of at least 1"),
        (Value::Null, "must be an integer of at least 1"),
    ] {
        let refused = restore(&service, &editor, 1, json!({"version": version})).await;
        let errors = json!([{"field": "version", "detail": detail}]);
        assert_eq!((refused.status, &refused.body["errors"]), (422, &errors), "{refused:?}");
    }
    assert_eq!(restore(&service, &editor, 1, json!({})).await.status, 422);

    // Another customer has the external id by now: it is told, and another one may be given.
    let eve = json!({"name": "Eve", "dob": "1990-12-10", "external_id": "a"});
    assert_eq!(send(service.post("/customers").login(&editor).json(&eve)).await.status, 201);
    let taken = restore(&service, &editor, 1, json!({"version": 1})).await;
    assert_eq!((taken.status, &taken.body["type"]), (409, &json!("/problems/exists")));
    let without = json!({"version": 1, "external_id": null});
    let without = restore(&service, &editor, 1, without).await;
    assert_eq!((without.status, &without.body["external_id"]), (200, &Value::Null));
    service.stop().await;
}
