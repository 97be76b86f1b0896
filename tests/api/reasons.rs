//! The reason of a change: `X-Reason`, `X-Reason*` (RFC 8187) for clients that send no UTF-8, and the member
//! `reason` of a body.

use customers::config::Config;
use customers::events::values::Role;
use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::harness::{Login, PASSWORD, Service, With as _, config, send};
use crate::sessions::events_of_type;

/// Adds a header with any bytes that HTTP can carry.
fn header(request: RequestBuilder, name: &str, value: &[u8]) -> RequestBuilder {
    let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
    request.header(name, HeaderValue::from_bytes(value).unwrap())
}

struct Registry {
    service: Service,
    admin: Login,
}

impl Registry {
    async fn start() -> Self {
        let service = Service::start().await;
        let admin = service.log_in_as(Role::Admin).await;
        Self { service, admin }
    }

    fn create(&self, reason: &Value) -> RequestBuilder {
        let body = json!({"name": "Ada", "dob": "1990-12-10", "reason": reason});
        self.service.post("/customers").login(&self.admin).json(&body)
    }

    /// Creates a customer; returns the reason in its history, or the status and the error.
    async fn reason(&self, request: RequestBuilder) -> Result<Value, String> {
        let answer = send(request).await;
        if answer.status != 201 {
            let error = &answer.body["errors"][0];
            let text = |name: &str| error[name].as_str().unwrap().to_owned();
            return Err(format!("{} {}: {}", answer.status, text("field"), text("detail")));
        }
        let path = format!("{}/history", answer.header("location").unwrap());
        let history = send(self.service.get(&path).login(&self.admin)).await;
        Ok(history.body["history"][0]["reason"].clone())
    }

    async fn with_headers(&self, headers: &[(&str, &[u8])]) -> Result<Value, String> {
        let request = self.create(&Value::Null);
        let request =
            headers.iter().fold(request, |request, (name, value)| header(request, name, value));
        self.reason(request).await
    }
}

const ENCODED_SHAPE: &str =
    "400 x-reason*: must be UTF-8''TEXT, with TEXT percent-encoded (RFC 8187)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_text_can_be_sent_in_visible_ascii_and_nothing_is_guessed() {
    let registry = Registry::start().await;
    for (sent, stored) in [
        ("UTF-8''K%C3%B6ln", json!("Köln")),
        ("utf-8''%c5%81%C3%B3d%C5%BA", json!("Łódź")),
        ("UTF-8'pl'%C5%81%C3%B3d%C5%BA", json!("Łódź")),
        ("Utf-8'de-CH-1901'na%20und", json!("na und")),
        ("UTF-8''%e6%9d%b1%E4%BA%AC%20%F0%9F%8E%89", json!("東京 🎉")),
        ("UTF-8''%E2%82%AC%20rates", json!("€ rates")),
        // As encodeURIComponent of JavaScript leaves them.
        ("UTF-8''(it's%20*new*!)~", json!("(it's *new*!)~")),
        ("UTF-8''%2541", json!("%41")),
        ("UTF-8''a+b", json!("a+b")),
        ("UTF-8''", Value::Null),
        ("UTF-8''%20%20", Value::Null),
    ] {
        let told = registry.with_headers(&[("x-reason*", sent.as_bytes())]).await;
        assert_eq!(told, Ok(stored), "{sent}");
    }
    // X-Reason is never decoded.
    for sent in ["K%C3%B6ln", "UTF-8''K%C3%B6ln", "=?UTF-8?Q?K=C3=B6ln?=", "Köln", "Łódź"] {
        let told = registry.with_headers(&[("x-reason", sent.as_bytes())]).await;
        assert_eq!(told, Ok(json!(sent)), "{sent}");
    }
    for bad in [
        "",
        "K%C3%B6ln",
        "UTF-8",
        "UTF-8'",
        "UTF-8'Köln",
        "''K%C3%B6ln",
        "ISO-8859-1''K%F6ln",
        "UTF-16''K%00%F6",
        "UTF-8'not a tag'x",
        "UTF-8''K%F6ln",
        "UTF-8''%C3",
        "UTF-8''%ED%A0%80",
        "UTF-8''%",
        "UTF-8''%4",
        "UTF-8''%zz",
        "UTF-8''a b",
        "UTF-8''Köln",
        "\"UTF-8''x\"",
    ] {
        let told = registry.with_headers(&[("x-reason*", bad.as_bytes())]).await;
        assert_eq!(told, Err(ENCODED_SHAPE.to_owned()), "{bad}");
    }
    let twice: [(&str, &[u8]); 2] = [("x-reason*", b"UTF-8''a"), ("x-reason*", b"UTF-8''b")];
    let told = registry.with_headers(&twice).await;
    assert_eq!(told, Err("400 x-reason*: must be given only once".to_owned()));
    let latin1 = registry.with_headers(&[("x-reason", b"K\xf6ln")]).await;
    let advice = "400 x-reason: must be UTF-8; or send it percent-encoded, in X-Reason*";
    assert_eq!(latin1, Err(advice.to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_percent_encoded_reason_goes_before_the_plain_one() {
    let registry = Registry::start().await;
    // The plain one is for servers that do not know the other (RFC 6266, section 4.3), so the service does not read it.
    for plain in [&b"Koln"[..], b"K\xf6ln", b"\xc2\x9b2J"] {
        let both: [(&str, &[u8]); 2] = [("x-reason", plain), ("x-reason*", b"UTF-8''K%C3%B6ln")];
        assert_eq!(registry.with_headers(&both).await, Ok(json!("Köln")), "{plain:?}");
    }
    let both: [(&str, &[u8]); 2] = [("x-reason", b"Koln"), ("x-reason*", b"K%C3%B6ln")];
    assert_eq!(registry.with_headers(&both).await, Err(ENCODED_SHAPE.to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_may_name_its_reason() {
    let registry = Registry::start().await;
    let Registry { service, admin } = &registry;
    for (sent, stored) in [
        (json!("Łódź"), json!("Łódź")),
        (json!(" moved "), json!("moved")),
        (json!("  "), Value::Null),
        (Value::Null, Value::Null),
        (json!("é".repeat(500)), json!("é".repeat(500))),
    ] {
        assert_eq!(registry.reason(registry.create(&sent)).await, Ok(stored), "{sent}");
    }
    let long = json!("é".repeat(501));
    for (bad, detail) in [
        (json!(1), "must be a string"),
        (json!(["a"]), "must be a string"),
        (json!({"a": "b"}), "must be a string"),
        (long, "must have at most 500 characters"),
        (json!("a\u{0}b"), "must not contain control characters"),
    ] {
        let told = registry.reason(registry.create(&bad)).await;
        assert_eq!(told, Err(format!("422 reason: {detail}")), "{bad}");
    }
    // The answer names it with the other members.
    let body = json!({"name": "", "dob": "x", "reason": 1});
    let answer = send(service.put("/customers/1").login(admin).json(&body)).await;
    let errors = answer.body["errors"].as_array().unwrap();
    let fields: Vec<_> = errors.iter().map(|error| error["field"].as_str().unwrap()).collect();
    assert_eq!((answer.status, fields), (422, vec!["name", "dob", "reason"]));

    let last = async || {
        let history = send(service.get("/customers/1/history").login(admin)).await;
        history.body["history"].as_array().unwrap().last().unwrap()["reason"].clone()
    };
    let body = json!({"name": "Ada King", "dob": "1990-12-10", "reason": "by PUT"});
    assert_eq!(send(service.put("/customers/1").login(admin).json(&body)).await.status, 200);
    assert_eq!(last().await, "by PUT");
    let body = json!({"id": 1, "name": "Ada", "dob": "1990-12-10", "reason": "by POST"});
    assert_eq!(send(service.post("/customers/update").login(admin).json(&body)).await.status, 200);
    assert_eq!(last().await, "by POST");
    let body = json!({"name": "Ada", "dob": "1990-12-10", "reason": "by the other path"});
    let created = send(service.post("/customers/create").login(admin).json(&body)).await;
    let path = format!("/customers/{}/history", created.body["id"]);
    let history = send(service.get(&path).login(admin)).await;
    assert_eq!(history.body["history"][0]["reason"], "by the other path");
    let body = json!({"old": PASSWORD, "new": "a longer and better one", "reason": "leaked"});
    assert_eq!(send(service.post("/password").login(admin).json(&body)).await.status, 200);
    let changed = events_of_type(service, "admin", "PasswordChanged").await;
    assert_eq!(changed[0].metadata["reason"], "leaked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_different_reasons_are_refused() {
    let registry = Registry::start().await;
    let with = |name: &str, value: &[u8]| header(registry.create(&json!("Köln")), name, value);
    for (name, value) in [("x-reason", "Köln"), ("x-reason*", "UTF-8''K%C3%B6ln"), ("x-reason", "")]
    {
        let told = registry.reason(with(name, value.as_bytes())).await;
        assert_eq!(told, Ok(json!("Köln")), "{name}");
    }
    for (name, value) in [("x-reason", "Bonn"), ("x-reason*", "UTF-8''Bonn")] {
        let told = registry.reason(with(name, value.as_bytes())).await;
        let expected = format!("400 reason: conflicts with the header {name}");
        assert_eq!(told, Err(expected), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reason_is_one_line_that_reads_as_it_is_written() {
    const CONTROL: &str = "must not contain control characters";
    const LINES: &str = "must not contain line or paragraph separators";
    const VISIBLE: &str = "must have at least one visible character";
    const ORDER: &str = "must not contain characters that reorder others";
    let registry = Registry::start().await;
    for (text, problem) in [
        ("a\u{1b}[2J", CONTROL),
        ("a\u{9b}2J", CONTROL),
        ("a\u{85}b", CONTROL),
        ("a\nb", CONTROL),
        ("a\u{7f}b", CONTROL),
        ("a\u{0}b", CONTROL),
        ("a\u{2028}b", LINES),
        ("a\u{2029}b", LINES),
        ("a\u{202e}b", ORDER),
        ("a\u{202a}b", ORDER),
        ("a\u{2066}b", ORDER),
        ("a\u{2069}b", ORDER),
        // What an auditor cannot see.
        ("\u{200b}", "must not contain U+200B ZERO WIDTH SPACE"),
        ("a\u{200b}b", "must not contain U+200B ZERO WIDTH SPACE"),
        ("\u{feff}", "must not contain U+FEFF ZERO WIDTH NO-BREAK SPACE"),
        ("a\u{ad}b", "must not contain U+00AD SOFT HYPHEN"),
        ("\u{3164}", "must not contain U+3164 HANGUL FILLER"),
        ("a\u{e0041}", "must not contain a tag character (U+E0000 to U+E007F)"),
        ("a\u{fff9}b", "must not contain U+FFF9 INTERLINEAR ANNOTATION ANCHOR"),
        ("\u{200d}", VISIBLE),
        ("\u{200f}\u{fe0f}", VISIBLE),
        ("\u{2800}", VISIBLE),
        ("\u{301}", VISIBLE),
    ] {
        let encoded = text
            .bytes()
            .fold("UTF-8''".to_owned(), |encoded, byte| encoded + &format!("%{byte:02X}"));
        let told = registry.with_headers(&[("x-reason*", encoded.as_bytes())]).await;
        assert_eq!(told, Err(format!("400 x-reason*: {problem}")), "{text:?}");
        let told = registry.reason(registry.create(&json!(text))).await;
        assert_eq!(told, Err(format!("422 reason: {problem}")), "{text:?}");
        if text.bytes().all(|byte| byte >= b' ' && byte != 0x7f) {
            let told = registry.with_headers(&[("x-reason", text.as_bytes())]).await;
            assert_eq!(told, Err(format!("400 x-reason: {problem}")), "{text:?}");
        }
    }
    // Marks of scripts that are written from the right, joiners, emoji, and a tab.
    for text in ["שלום\u{200f}!", "می\u{200c}خواهم", "👩\u{200d}🔬", "❤\u{fe0f}", "a\tb"]
    {
        let told = registry.with_headers(&[("x-reason", text.as_bytes())]).await;
        assert_eq!(told, Ok(json!(text)), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_encoded_reason_works_wherever_the_plain_one_does() {
    let registry = Registry::start().await;
    let Registry { service, admin } = &registry;
    let encoded = |request| header(request, "x-reason*", b"UTF-8''%C5%81%C3%B3d%C5%BA");
    let import = service.post("/customers/import").header("content-type", "text/csv");
    let import = import.body("name,dob\nAda,1990-12-10\n").login(admin);
    assert_eq!(send(encoded(import)).await.status, 200);
    assert_eq!(send(encoded(service.delete("/customers/1").login(admin))).await.status, 200);
    let history = send(service.get("/customers/1/history").login(admin)).await;
    for change in history.body["history"].as_array().unwrap() {
        assert_eq!(change["reason"], "Łódź", "{change}");
    }
    assert_eq!(send(encoded(service.delete("/logout").login(admin))).await.status, 200);
    let closed = events_of_type(service, "admin", "SessionClosed").await;
    assert_eq!(closed[0].metadata["reason"], "Łódź");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_another_origin_may_send_its_reason() {
    let origin = "https://console.example";
    let cors_origins = vec![origin.to_owned()];
    let service = Service::with(Config { cors_origins, ..config().await }).await;
    let preflight = service.request(Method::OPTIONS, "/customers/1").header("origin", origin);
    let preflight = preflight.header("access-control-request-method", "PUT");
    let answer = send(preflight.header("access-control-request-headers", "x-reason*")).await;
    let allowed = answer.header("access-control-allow-headers").unwrap();
    assert!(allowed.split(',').any(|name| name.trim() == "x-reason*"), "{allowed}");
}
