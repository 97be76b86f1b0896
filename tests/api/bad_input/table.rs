//! The driver of the tests of invalid requests: sends a request, checks the parts that every refusal must
//! have, and records one line.

use std::fmt::Write as _;

use customers::events::values::Role;
use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Body, Method, RequestBuilder};

use crate::harness::{Answer, Login, Service, With as _, send};

/// Sends requests as an admin and records one line per refusal.
pub struct Table {
    pub service: Service,
    admin: Login,
    lines: String,
    head: i64,
}

impl Table {
    /// Creates customer 1, so that no request is refused with a 404, and binds the session, so that no
    /// later request appends an event for it.
    pub async fn start() -> Self {
        let service = Service::start().await;
        let admin = service.log_in_as(Role::Admin).await;
        let body = r#"{"name":"Ada","dob":"1990-12-10"}"#;
        let request = service.post("/customers").header("content-type", "application/json");
        let created = send(request.login(&admin).body(body)).await;
        assert_eq!(created.status, 201, "{created:?}");
        Self { service, admin, lines: String::new(), head: created.position() }
    }

    pub async fn ask(
        &mut self,
        method: Method,
        path: &str,
        what: &str,
        shape: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) {
        let request = self.service.request(method.clone(), path).login(&self.admin);
        let answer = send(shape(request)).await;
        let what = what.escape_debug();
        assert!((400..500).contains(&answer.status), "{method} {path} {what}: {answer:?}");
        let lines = &mut self.lines;
        writeln!(lines, "{method} {path} | {what} -> {}", summary(&answer)).unwrap();
    }

    /// Sends a body with the media type JSON.
    pub async fn json(&mut self, method: Method, path: &str, what: &str, body: impl Into<Body>) {
        let json = HeaderValue::from_static("application/json");
        let shape = |request: RequestBuilder| request.header("content-type", json).body(body);
        self.ask(method, path, what, shape).await;
    }

    pub async fn header(&mut self, method: Method, path: &str, name: &str, values: &[&str]) {
        let header = HeaderName::from_bytes(name.as_bytes()).unwrap();
        let shape = |request: RequestBuilder| {
            let add = |request: RequestBuilder, value: &&str| {
                request.header(&header, HeaderValue::from_bytes(value.as_bytes()).unwrap())
            };
            values.iter().fold(request, add)
        };
        self.ask(method, path, &format!("{name}: {:.60}", values.join(" + ")), shape).await;
    }

    /// The recorded lines. Checks that no request has appended an event.
    pub async fn lines(self) -> String {
        let head = "select max(position) from events";
        let head: i64 =
            sqlx::query_scalar(head).fetch_one(&self.service.pools.short).await.unwrap();
        assert_eq!(head, self.head, "an invalid request appended an event");
        self.lines
    }
}

/// The status, slug and errors of a refusal. Checks the members that every problem has, and omits them.
fn summary(answer: &Answer) -> String {
    let body = answer.body.as_object().unwrap();
    let slug = body["type"].as_str().unwrap().strip_prefix("/problems/").unwrap();
    assert_eq!(body["status"], answer.status, "{answer:?}");
    assert!(body["title"].is_string(), "{answer:?}");
    let mut summary = format!("{} {slug}", answer.status);
    let detail = body["detail"].as_str().unwrap();
    if let Some(errors) = body.get("errors") {
        let refused = if answer.status == 400 { MALFORMED_DETAIL } else { INVALID_DETAIL };
        assert_eq!((detail, body.len()), (refused, 6), "{answer:?}");
        for error in errors.as_array().unwrap() {
            let text = |name: &str| error[name].as_str().unwrap();
            assert_eq!(error.as_object().unwrap().len(), 2, "{answer:?}");
            write!(summary, "; {}: {}", text("field"), text("detail")).unwrap();
        }
    } else {
        assert_eq!(body.len(), 5, "{answer:?}");
        write!(summary, "; {detail}").unwrap();
    }
    summary
}

const MALFORMED_DETAIL: &str = "the request cannot be parsed";
const INVALID_DETAIL: &str = "the request has invalid values";

/// A body with this name.
pub fn named(name: &str) -> String {
    serde_json::json!({"name": name, "dob": "1990-12-10"}).to_string()
}

/// A body with this date of birth.
pub fn born(dob: &str) -> String {
    serde_json::json!({"name": "Ada", "dob": dob}).to_string()
}
