//! The answer of a long import tells its progress: while the body arrives, and while the import waits.

use customers::api::import;
use customers::events::values::Role;
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{Login, PATIENCE, Service, With as _, send};

/// A body in two parts.
const GOOD: [&str; 2] = ["name,dob\nAda,", "1990-12-10\n"];

/// An import whose body has not arrived whole.
struct Slow {
    stream: TcpStream,
    answer: String,
}

impl Slow {
    /// Sends the head and a part of the body.
    async fn start(service: &Service, login: &Login, body: [&str; 2], header: &str) -> Self {
        let mut stream = TcpStream::connect(service.address).await.unwrap();
        let (token, length) = (&login.token, body.concat().len());
        let head = format!(
            "POST /customers/import HTTP/1.1\r\nHost: customers.test\r\nConnection: close\r\n\
             Authorization: Bearer {token}\r\n{header}Content-Type: text/csv\r\n\
             Content-Length: {length}\r\n\r\n{}",
            body[0]
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        Self { stream, answer: String::new() }
    }

    /// Reads until the answer contains the text.
    async fn read_to(&mut self, text: &str) {
        while !self.answer.contains(text) {
            let mut bytes = vec![0; 4096];
            let reading = tokio::time::timeout(PATIENCE, self.stream.read(&mut bytes)).await;
            let length = reading.unwrap().unwrap();
            assert!(length > 0, "no {text}: {}", self.answer);
            self.answer.push_str(std::str::from_utf8(&bytes[..length]).unwrap());
        }
    }

    async fn send(&mut self, rest: &str) {
        self.stream.write_all(rest.as_bytes()).await.unwrap();
    }

    /// The last JSON object of the answer.
    fn last(&self) -> Value {
        let line = self.answer.lines().rfind(|line| line.starts_with('{')).unwrap();
        serde_json::from_str(line).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_arrives_slowly_is_answered_meanwhile() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    service.add_account("second", Role::Editor).await;
    let second = service.log_in("second").await;
    // Behind a proxy the answer begins after the body: some proxies would cut the body off.
    let mut behind = vec![];
    for header in ["X-Forwarded-For: 192.0.2.1\r\n", "Via: 1.1 proxy\r\n"] {
        behind.push(Slow::start(&service, &second, GOOD, header).await);
    }
    let mut slow = Slow::start(&service, &editor, GOOD, "").await;
    let mut refused = Slow::start(&service, &editor, ["name,", "x\nAda,1990-12-10\n"], "").await;

    slow.read_to("seconds_left").await;
    assert!(slow.answer.starts_with("HTTP/1.1 200 "), "{}", slow.answer);
    let mut told = slow.last();
    told["progress"]["seconds_left"].take();
    let progress = json!({"phase": "receiving", "bytes": 13, "total_bytes": 24, "lines": 0,
        "refused": 0, "per_second": 0.0, "seconds_left": null});
    assert_eq!(told, json!({ "progress": progress }));
    for proxied in &mut behind {
        let nothing = proxied.stream.try_read(&mut [0; 12]).unwrap_err();
        assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
    }
    for import in behind.iter_mut().chain([&mut slow]) {
        import.send(GOOD[1]).await;
        import.read_to("\"summary\"").await;
        assert_eq!(import.last()["summary"]["created"], 1, "{}", import.answer);
    }
    // What would have been the status is the last line then.
    refused.read_to("\"progress\"").await;
    refused.send("x\nAda,1990-12-10\n").await;
    refused.read_to("\"error\"").await;
    let told = refused.last();
    let expected = (&json!(422), &json!("/problems/invalid"), &json!("dob"));
    let error = &told["error"];
    assert_eq!((&error["status"], &error["type"], &error["errors"][0]["field"]), expected);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_waits_for_the_log_tells_its_progress_again_and_again() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    // Binds the session, which the log records.
    assert_eq!(send(service.get("/customers").login(&editor)).await.status, 200);
    let mut owner = PgConnection::connect(service.database_url()).await.unwrap();
    let mut holding = owner.begin().await.unwrap();
    holding.execute("lock table locks.append in exclusive mode").await.unwrap();
    let file = "name,dob\nEve,x\n".to_owned() + &"Ada,1990-12-10\n".repeat(300);
    let request = service.post("/customers/import").login(&editor);
    let mut answer = request.header("content-type", "text/csv").body(file).send().await.unwrap();
    let mut text = String::new();
    while text.matches("\"progress\"").count() < 2 {
        let chunk = answer.chunk().await.unwrap();
        let chunk = chunk.unwrap_or_else(|| panic!("it did not wait: {text}"));
        text += std::str::from_utf8(&chunk).unwrap();
    }
    holding.rollback().await.unwrap();
    while let Some(chunk) = answer.chunk().await.unwrap() {
        text += std::str::from_utf8(&chunk).unwrap();
    }
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // The refused line did not wait for the end either.
    assert_eq!(lines[0]["line"], 2, "{text}");
    let progress = &lines[1]["progress"];
    assert_eq!((&progress["phase"], &progress["lines"]), (&json!("importing"), &json!(0)));
    assert_eq!(lines.last().unwrap()["summary"]["created"], 300, "{text}");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_behind_a_proxy_tells_that_it_waits_for_its_turn() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    let mut at_work = vec![];
    let mut owner = PgConnection::connect(service.database_url()).await.unwrap();
    let mut logins = vec![];
    for name in ["one", "two"] {
        service.add_account(name, Role::Editor).await;
        logins.push(service.log_in(name).await);
    }
    let mut holding = owner.begin().await.unwrap();
    holding.execute("lock table locks.append in exclusive mode").await.unwrap();
    for login in &logins {
        for _ in 0..import::PER_ACCOUNT {
            at_work.push(Slow::start(&service, login, GOOD, "").await);
        }
    }
    assert_eq!(at_work.len(), import::IMPORTS_MAX);
    for import in &mut at_work {
        import.send(GOOD[1]).await;
        import.read_to("\"importing\"").await;
    }
    let proxied = "X-Forwarded-For: 192.0.2.1\r\n";
    let mut waiting = Slow::start(&service, &editor, GOOD, proxied).await;
    waiting.send(GOOD[1]).await;
    waiting.read_to("\"progress\"").await;
    let told = &waiting.last()["progress"];
    assert_eq!(told["phase"], "waiting", "it is told before its time is over: {told}");
    holding.rollback().await.unwrap();
    for import in at_work.iter_mut().chain([&mut waiting]) {
        import.read_to("\"summary\"").await;
        assert_eq!(import.last()["summary"]["created"], 1, "{}", import.answer);
    }
    service.stop().await;
}
