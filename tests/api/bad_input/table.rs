//! The driver: asks, checks what every refusal promises, and writes a line about it.

use std::fmt::Write as _;

use customers::events::values::Role;
use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Body, Method, RequestBuilder};

use crate::harness::{Answer, Login, Service, With as _, send};

/// Asks as admin, and writes down what was answered.
pub struct Table {
    pub service: Service,
    admin: Login,
    lines: String,
    head: i64,
}

impl Table {
    /// Customer 1 is there, so that nothing is refused because it is missing; and the session is bound.
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
        writeln!(lines, "{method} {path} | {what} -> {}", told(&answer)).unwrap();
    }

    /// The whole body as JSON.
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

    /// What was answered, once it is sure that the log has not grown.
    pub async fn lines(self) -> String {
        let head = "select max(position) from events";
        let head: i64 =
            sqlx::query_scalar(head).fetch_one(&self.service.pools.short).await.unwrap();
        assert_eq!(head, self.head, "a bad request has led to an event");
        self.lines
    }
}

/// The answer in short: what a problem always says is checked here and left out.
fn told(answer: &Answer) -> String {
    let body = answer.body.as_object().unwrap();
    let slug = body["type"].as_str().unwrap().strip_prefix("/problems/").unwrap();
    assert_eq!(body["status"], answer.status, "{answer:?}");
    assert!(body["title"].is_string(), "{answer:?}");
    let mut told = format!("{} {slug}", answer.status);
    let detail = body["detail"].as_str().unwrap();
    if let Some(errors) = body.get("errors") {
        let refused = if answer.status == 400 { UNREADABLE } else { REFUSED };
        assert_eq!((detail, body.len()), (refused, 6), "{answer:?}");
        for error in errors.as_array().unwrap() {
            let text = |name: &str| error[name].as_str().unwrap();
            assert_eq!(error.as_object().unwrap().len(), 2, "{answer:?}");
            write!(told, "; {}: {}", text("field"), text("detail")).unwrap();
        }
    } else {
        assert_eq!(body.len(), 5, "{answer:?}");
        write!(told, "; {detail}").unwrap();
    }
    told
}

const UNREADABLE: &str = "the request cannot be parsed";
const REFUSED: &str = "the request has invalid values";

/// A body with this name.
pub fn named(name: &str) -> String {
    serde_json::json!({"name": name, "dob": "1990-12-10"}).to_string()
}

/// A body with this date of birth.
pub fn born(dob: &str) -> String {
    serde_json::json!({"name": "Ada", "dob": dob}).to_string()
}
