//! Hostile clients: they disconnect early, send a member twice, send too much or too slowly, or try to
//! get a response that is much larger than the request.

use customers::events::values::Role;
use reqwest::header;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{Service, With as _, folder, send, until};
use crate::process::command;
use crate::sessions::events_of_type;

/// Sends a request and disconnects without waiting for the response.
async fn abandon(service: &Service, request: &str, token: &str) {
    let mut stream = TcpStream::connect(service.address).await.unwrap();
    let request = format!("{request} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thief_who_goes_away_is_recorded_all_the_same() {
    const SESSIONS: usize = 20;
    let service = Service::start().await;
    service.add_account("viewer", Role::Viewer).await;
    for _ in 0..SESSIONS {
        let login = service.log_in("viewer").await;
        assert_eq!(send(service.get("/customers").login(&login)).await.status, 200, "bind");
        abandon(&service, "GET /customers", &login.token).await;
        // Either the abandoned request was the token replay and has ended the session, or this one is.
        assert_eq!(send(service.get("/customers").token(&login)).await.status, 401);
    }
    until("each replay is in the log", async || {
        events_of_type(&service, "viewer", "TokenReplayDetected").await.len() == SESSIONS
    })
    .await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_out_that_is_in_the_log_is_one_even_if_the_client_went_away() {
    const SESSIONS: usize = 20;
    let service = Service::start().await;
    service.add_account("viewer", Role::Viewer).await;
    for _ in 0..SESSIONS {
        let login = service.log_in("viewer").await;
        let before = events_of_type(&service, "viewer", "SessionClosed").await.len();
        abandon(&service, "DELETE /logout", &login.token).await;
        let service = &service;
        until("the log and the session agree", async || {
            let closed = events_of_type(service, "viewer", "SessionClosed").await.len() > before;
            let dead = send(service.get("/customers").token(&login)).await.status == 401;
            // The abandoned log-out may never have begun, so it is sent again until it is in the log.
            if !closed {
                send(service.delete("/logout").token(&login)).await;
            }
            closed && dead
        })
        .await;
    }
    service.stop().await;
}

/// The status line and the body of the answer to a request, sent as it is.
async fn sent_raw(service: &Service, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(service.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_names_one_host() {
    let service = Service::start().await;
    for (hosts, problem) in [
        (&[][..], "is missing"),
        (&["a", "b"], "must be given only once"),
        (&["a", "a"], "must be given only once"),
        (&["a b"], "must be a host, and perhaps a port"),
        (&["a/b@"], "must be a host, and perhaps a port"),
        (&["user@a"], "must be a host, and perhaps a port"),
        (&["a:port"], "must be a host, and perhaps a port"),
        (&["a:80:80"], "must be a host, and perhaps a port"),
        (&["a,b "], ""),
        (&["[::1"], "must be a host, and perhaps a port"),
        (&["[::1]x"], "must be a host, and perhaps a port"),
        (&["[::g]:80"], "must be a host, and perhaps a port"),
        (&["a%zz"], "must be a host, and perhaps a port"),
        (&["k\u{f6}ln.example"], "must be a host, and perhaps a port"),
        (&[""], ""),
        (&["customers_1"], ""),
        (&["customers.example:"], ""),
        (&["127.0.0.1:8080"], ""),
        (&["[2001:db8::1]:8080"], ""),
        (&["xn--kln-sna.example:8080"], ""),
        (&["a%20b"], ""),
    ] {
        let lines = hosts.iter().fold(String::new(), |all, host| all + "Host: " + host + "\r\n");
        let rest = format!("HTTP/1.1\r\n{lines}Connection: close\r\n\r\n");
        for target in ["/livez", "http://customers.example/livez"] {
            let (status, body) = sent_raw(&service, &format!("GET {target} {rest}")).await;
            if problem.is_empty() {
                assert_eq!(status, "HTTP/1.1 200 OK", "{hosts:?}");
                continue;
            }
            assert_eq!(status, "HTTP/1.1 400 Bad Request", "{hosts:?}");
            let body: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(body["errors"], json!([{"field": "Host", "detail": problem}]), "{hosts:?}");
        }
    }
    // Older than the header.
    let (status, _) = sent_raw(&service, "GET /livez HTTP/1.0\r\n\r\n").await;
    assert_eq!(status, "HTTP/1.0 200 OK");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_says_each_thing_once_and_unpacked() {
    let service = Service::start().await;
    let login = service.log_in_as(Role::Editor).await;
    let post = |body: &'static str| {
        let post = service.post("/customers").login(&login);
        post.header(header::CONTENT_TYPE, "application/json").body(body)
    };
    let twice = send(post(r#"{"name":"Ada","dob":"1990-12-10","name":"Eve"}"#)).await;
    assert_eq!(
        twice.shape(),
        r#"400 {"detail":"the request cannot be parsed","errors":[{"detail":"the member \"name\" must be given only once at line 1 column 46","field":"body"}],"request_id":"[id]","status":400,"title":"Malformed request","type":"/problems/malformed"}"#
    );
    let good = r#"{"name":"Ada","dob":"1990-12-10"}"#;
    // What is not read may be anything, but not of any depth.
    for (depth, status) in [(126, 201), (127, 400)] {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        let body = format!(r#"{{"name":"Ada","dob":"1990-12-10","x":{open}{close}}}"#);
        let post = service.post("/customers").login(&login);
        let answer = send(post.header(header::CONTENT_TYPE, "application/json").body(body)).await;
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(answer.text.contains("in more than 127 levels at line 1"), status == 400);
    }
    let other = post(good).header(header::CONTENT_TYPE, "text/xml");
    assert_eq!(send(other).await.status, 415, "two content types");
    let packed = post(good).header(header::CONTENT_ENCODING, "gzip");
    assert_eq!(send(packed).await.status, 415, "compressed");
    let plain = post(good).header(header::CONTENT_ENCODING, "identity");
    assert_eq!(send(plain).await.status, 201);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_answered_much_more_than_they_sent() {
    let service = Service::start().await;
    let numbers: Vec<String> = (0..9_000).map(|i: u32| i.to_string()).collect();
    for query in ["a&".repeat(20_000), numbers.join("&")] {
        let answer = send(service.get(&format!("/livez?{query}"))).await;
        assert_eq!(answer.status, 400);
        assert!(answer.text.len() < 2_000, "{} bytes", answer.text.len());
    }
    let long = send(service.get(&format!("/livez?{}", "é".repeat(5_000)))).await;
    assert_eq!(long.status, 400);
    assert!(long.text.len() < 1_000, "{} bytes", long.text.len());
    service.stop().await;
}

#[tokio::test]
async fn a_value_that_is_not_text_stops_the_start() {
    use std::os::unix::ffi::OsStrExt as _;
    let mut serve = command(&["serve"], &folder("bytes"));
    serve.env("CUSTOMERS_COOKIE_BINDING", std::ffi::OsStr::from_bytes(b"always\xff"));
    let output = serve.output().await.unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said, "customers: CUSTOMERS_COOKIE_BINDING: must be UTF-8\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disabled_account_is_out_even_if_the_command_cannot_say_so() {
    let service = Service::start().await;
    let login = service.log_in_as(Role::Viewer).await;
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut disable = command(&["account", "disable", "viewer"], &folder("full"));
    let redis_url = service.config.redis_url.as_ref().unwrap();
    let output = disable
        .env("DATABASE_URL", service.database_url())
        .env("REDIS_URL", secrecy::ExposeSecret::expose_secret(redis_url))
        .env("CUSTOMERS_REDIS_PREFIX", &service.config.redis_prefix)
        .stdout(full)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap()
        .wait_with_output()
        .await
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
    assert_eq!(send(service.get("/customers").token(&login)).await.status, 401);
    let body = json!({"username": "viewer", "password": crate::harness::PASSWORD});
    assert_eq!(send(service.post("/login").json(&body)).await.status, 401);
    service.stop().await;
}

/// The status line of the response to these bytes. The connection stays open meanwhile.
async fn status_line(service: &Service, pieces: &[Vec<u8>]) -> String {
    let mut stream = TcpStream::connect(service.address).await.unwrap();
    for piece in pieces {
        // The server may have refused the request already and closed the connection.
        if stream.write_all(piece).await.is_err() {
            break;
        }
    }
    let (mut answer, mut buffer) = (String::new(), [0; 4096]);
    while let Ok(length) = stream.read(&mut buffer).await
        && length > 0
    {
        answer.push_str(&String::from_utf8_lossy(&buffer[..length]));
        if answer.contains("\r\n\r\n") {
            break;
        }
    }
    answer.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mebibyte_of_headers_or_body_is_refused_and_keeps_nobody_out() {
    let service = Service::start().await;
    let mebibyte = "x".repeat(1024 * 1024);
    let headers = format!("GET /livez HTTP/1.1\r\nhost: x\r\nx-much: {mebibyte}\r\n\r\n");
    let told = status_line(&service, &[headers.into()]).await;
    assert!(told.is_empty() || told.starts_with("HTTP/1.1 431"), "{told}");
    let head = "POST /login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
    let body = format!("{head}content-length: {}\r\n\r\n", mebibyte.len());
    let told = status_line(&service, &[body.into(), mebibyte.clone().into()]).await;
    assert!(told.starts_with("HTTP/1.1 413"), "{told}");
    let chunk = format!("{:x}\r\n{mebibyte}\r\n", mebibyte.len());
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n{chunk}");
    let told = status_line(&service, &[chunked.into()]).await;
    assert!(told.starts_with("HTTP/1.1 413"), "{told}");
    assert_eq!(send(service.get("/livez")).await.status, 200);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_does_not_come_is_given_up_and_keeps_nobody_waiting() {
    let service = Service::start().await;
    let login = service.log_in_as(Role::Viewer).await;
    let head = "POST /login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{";
    let pieces = [Vec::from(head)];
    let slow = futures_util::future::join_all((0..100).map(|_| status_line(&service, &pieces)));
    tokio::pin!(slow);
    let told = loop {
        tokio::select! {
            told = &mut slow => break told,
            answer = send(service.get("/customers?numbers=0").token(&login)) => assert_eq!(answer.status, 200),
        }
    };
    for line in told {
        assert!(line.starts_with("HTTP/1.1 400"), "{line}");
    }
}
