//! The limit of 64 KiB for bodies, and the accepted spellings of the JSON media type.

use customers::api;
use customers::events::values::Role;
use futures_util::stream;
use reqwest::{Body, Method};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{Service, With as _, address_of, send};

const LIMIT: usize = 64 * 1024;

/// A valid body of `bytes` bytes.
fn ada(bytes: usize) -> String {
    let ada = r#"{"name":"Ada","dob":"1990-12-10"}"#;
    format!("{ada}{}", " ".repeat(bytes - ada.len()))
}

/// A body in chunks, without `Content-Length`.
fn chunked(text: &str) -> Body {
    let chunks: Vec<_> =
        text.as_bytes().chunks(8192).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec())).collect();
    Body::wrap_stream(stream::iter(chunks))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_64_kib_is_taken_and_not_a_byte_more() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    let create = async |body: Body| {
        let request = service.post("/customers").header("content-type", "application/json");
        send(request.token(&admin).body(body)).await
    };
    for bytes in [LIMIT - 1, LIMIT] {
        assert_eq!(create(ada(bytes).into()).await.status, 201);
        assert_eq!(create(chunked(&ada(bytes))).await.status, 201);
    }
    for bytes in [LIMIT + 1, LIMIT + 1024] {
        for body in [ada(bytes).into(), chunked(&ada(bytes))] {
            let refused = create(body).await;
            assert_eq!(
                refused.shape(),
                r#"413 {"detail":"the body must have at most 65536 bytes","request_id":"[id]","status":413,"title":"Body too large","type":"/problems/too-large"}"#
            );
        }
    }
    let list = send(service.get("/customers").token(&admin)).await;
    assert_eq!(list.body["number"], 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_refuses_a_body_that_says_it_is_too_large_before_it_is_sent() {
    let service = Service::start().await;
    for route in api::routes() {
        let path = address_of(&route);
        let mut stream = TcpStream::connect(service.address).await.unwrap();
        let head = format!(
            "{} {path} HTTP/1.1\r\nHost: customers.test\r\nContent-Length: {}\r\n\r\n",
            route.method,
            route.limits.body + 1
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, b"HTTP/1.1 413", "{} {path}", route.method);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_spelling_of_jsons_media_type_is_taken() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    for media_type in [
        "application/json",
        "application/json; charset=utf-8",
        "application/json;charset=UTF-8",
        "Application/JSON",
        "application/vnd.customers+json",
    ] {
        let request = service.request(Method::POST, "/customers").token(&admin);
        let request = request.header("content-type", media_type).body(ada(40));
        assert_eq!(send(request).await.status, 201, "{media_type}");
    }
}
