//! `If-Match`, optimistic concurrency: a client changes only a version that it names (RFC 9110, section
//! 13.1.1).

use customers::events::values::Role;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::harness::{Login, Service, With as _, send};

pub fn ada() -> Value {
    json!({"name": "Ada", "dob": "1990-12-10"})
}

/// A service whose customer 1 is at version 2, and an editor.
pub async fn at_version_2() -> (Service, Login) {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    let first = json!({"name": "Augusta", "dob": "1990-12-10"});
    assert_eq!(send(service.post("/customers").token(&editor).json(&first)).await.status, 201);
    assert_eq!(send(service.put("/customers/1").token(&editor).json(&ada())).await.status, 200);
    (service, editor)
}

fn with_headers(request: RequestBuilder, values: &[&str]) -> RequestBuilder {
    values.iter().fold(request, |request, value| request.header("if-match", *value))
}

/// The values of the `If-Match` headers of a request, in their order, and the status for a customer at
/// version 2.
const TABLE: [(&[&str], u16); 32] = [
    (&[r#""2""#], 200),
    (&["*"], 200),
    (&[" * "], 200),
    (&[r#""1", "2""#], 200),
    (&[r#""2","1""#], 200),
    (&[r#""a,b" , W/"1","2""#], 200),
    (&[r#""1""#, r#""2""#], 200),
    // Empty list elements are ignored (section 5.6.1).
    (&[r#""2","#], 200),
    (&[r#", "1",, "2""#], 200),
    (&[r#""1""#], 412),
    (&[r#""3""#], 412),
    (&[r#""1", "3""#], 412),
    (&[r#""1""#, r#""3""#], 412),
    (&[r#""""#], 412),
    (&[r#""02""#], 412),
    (&[r#""+2""#], 412),
    (&[r#""abc""#], 412),
    (&[r#""*""#], 412),
    (&[r#""99999999999999999999""#], 412),
    (&[r#"W/"2""#], 412),
    (&[r#"W/"2", "1""#], 412),
    (&[""], 400),
    (&[","], 400),
    (&["2"], 400),
    (&["garbage"], 400),
    (&[r#""2"#], 400),
    (&[r#""2" "3""#], 400),
    (&[r#"w/"2""#], 400),
    (&[r#"*, "2""#], 400),
    (&["*", r#""2""#], 400),
    (&["*", "garbage"], 400),
    (&[r#""2""#, "garbage"], 400),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_made_only_of_a_version_that_was_named() {
    let (service, editor) = at_version_2().await;
    let spelled_out = json!({"id": 1, "name": "Ada", "dob": "1990-12-10"});
    for (values, status) in TABLE {
        // The body has the current values, so the update changes nothing; the version is checked anyway.
        let path = service.put("/customers/1").json(&ada());
        let other = service.post("/customers/update").json(&spelled_out);
        for request in [path, other] {
            let answer = send(with_headers(request.token(&editor), values)).await;
            assert_eq!(answer.status, status, "{values:?}: {answer:?}");
            if status == 400 {
                assert_eq!(answer.body["errors"][0]["field"], "if-match", "{answer:?}");
            }
            if status == 412 {
                assert_eq!(
                    answer.shape(),
                    r#"412 {"detail":"the customer is at version 2","request_id":"[id]","status":412,"title":"Version mismatch","type":"/problems/version-mismatch"}"#
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_is_made_only_of_a_version_that_was_named() {
    let (service, editor) = at_version_2().await;
    for path in ["/customers/1", "/customers/delete?id=1"] {
        for (values, status) in TABLE.iter().filter(|(_, status)| *status != 200) {
            let request = with_headers(service.delete(path).token(&editor), values);
            assert_eq!(send(request).await.status, *status, "{path} {values:?}");
        }
    }
    assert_eq!(send(service.get("/customers/1").token(&editor)).await.body["version"], 2);
    let request = service.delete("/customers/delete?id=1").header("if-match", r#""1", "2""#);
    assert_eq!(send(request.token(&editor)).await.status, 200);
    assert_eq!(send(service.get("/customers/1").token(&editor)).await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_changes_of_one_version_one_is_made() {
    let (service, editor) = at_version_2().await;
    let change = async |name: String| {
        let body = json!({"name": name, "dob": "1990-12-10"});
        let request = service.put("/customers/1").header("if-match", r#""2""#).json(&body);
        send(request.token(&editor)).await
    };
    let names = ["B", "C", "D", "E", "F", "G", "H", "I"];
    let answers = names.map(|name| change(name.to_owned()));
    let answers = futures_util::future::join_all(answers).await;
    let made: Vec<_> = answers.iter().filter(|answer| answer.status == 200).collect();
    assert_eq!(made.len(), 1, "{answers:?}");
    assert!(answers.iter().all(|answer| matches!(answer.status, 200 | 412)), "{answers:?}");
    let read = send(service.get("/customers/1").token(&editor)).await;
    assert_eq!((&read.body["version"], &read.text), (&json!(3), &made[0].text));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_customer_that_is_not_there_is_not_found_whatever_version_was_named() {
    let (service, editor) = at_version_2().await;
    assert_eq!(send(service.delete("/customers/1").token(&editor)).await.status, 200);
    for id in ["1", "77"] {
        let body: Value =
            serde_json::from_str(&format!(r#"{{"id": {id}, "name": "Ada", "dob": "1990-12-10"}}"#))
                .unwrap();
        for value in ["*", r#""2""#, r#""3""#, r#"W/"3""#] {
            for (method, path) in [
                (Method::PUT, format!("/customers/{id}")),
                (Method::POST, "/customers/update".to_owned()),
                (Method::DELETE, format!("/customers/{id}")),
                (Method::DELETE, format!("/customers/delete?id={id}")),
            ] {
                let request = service.request(method, &path).header("if-match", value);
                let answer = send(request.token(&editor).json(&body)).await;
                assert_eq!(answer.status, 404, "{path} {value}: {answer:?}");
            }
        }
    }
}
