//! Bodies with a content coding, or of another type: the refusal says what would be accepted (RFC 9110,
//! section 15.5.16).

use customers::api;
use customers::events::values::Role;
use reqwest::Method;

use crate::harness::{Answer, Service, With as _, address_of, empty_body_of, send};

const PACKED: &str = "the body must have no content coding: send it as it is";

fn shape(answer: &Answer) -> (u16, &str, Option<&str>, Option<&str>) {
    let detail = answer.body["detail"].as_str().unwrap_or_default();
    (answer.status, detail, answer.header("accept-encoding"), answer.header("accept"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_packed_body_is_refused_with_what_is_accepted_instead() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    let mut tried = 0;
    for route in api::routes() {
        let takes_body =
            matches!(route.method, "POST" | "PUT" | "PATCH") && !route.path.ends_with("/rebuild");
        if !takes_body {
            continue;
        }
        let path = address_of(&route);
        let is_import = route.path == "/customers/import";
        let (media_type, _) = empty_body_of(&route);
        let json = if is_import { "application/x-ndjson" } else { media_type };
        let method: Method = route.method.parse().unwrap();
        let ask = |kind: &str| {
            let request = service.request(method.clone(), &path).login(&admin);
            request.header("content-type", kind).body("{}")
        };
        for codings in [
            &["gzip"][..],
            &["br"],
            &["x-gzip"],
            &["GZIP"],
            &["identity, gzip"],
            &["gzip, identity"],
            &["identity", "zstd"],
            &["unknown"],
            &["\"identity\""],
        ] {
            let request =
                codings.iter().fold(ask(json), |r, one| r.header("content-encoding", *one));
            let answer = send(request).await;
            assert_eq!(shape(&answer), (415, PACKED, Some("identity"), None), "{path} {codings:?}");
        }
        for codings in [&["identity"][..], &["Identity"], &["IDENTITY, identity"], &[""], &[" , "]]
        {
            let request =
                codings.iter().fold(ask(json), |r, one| r.header("content-encoding", *one));
            let answer = request.send().await.unwrap();
            assert_ne!(answer.status(), 415, "{path} {codings:?}");
        }
        let types = if is_import { "application/x-ndjson, text/csv" } else { media_type };
        let answer = send(ask("text/xml")).await;
        let detail = format!("the body must be {}", types.replace(", ", " or "));
        assert_eq!(shape(&answer), (415, detail.as_str(), None, Some(types)), "{path}");
        if is_import {
            // The type is one of those; what is wrong is no matter of `Accept`.
            let answer = send(ask("text/csv; charset=iso-8859-1")).await;
            let detail = "the body must be in UTF-8 or UTF-16";
            assert_eq!(shape(&answer), (415, detail, None, None), "{path}");
        }
        tried += 1;
    }
    assert!(tried >= 7, "{tried}");
}

/// A transfer coding packs a body as well; HTTP libraries on the way undo `chunked` only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_packed_for_its_transfer_is_refused() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    for coding in ["gzip, chunked", "Transfer-Encoding-Of-Ours, chunked"] {
        let mut stream = tokio::net::TcpStream::connect(service.address).await.unwrap();
        let request = format!(
            "POST /customers HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nTransfer-Encoding: {coding}\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n",
            admin.token
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 415 "), "{answer}");
        assert!(answer.contains("the body must have no transfer coding but chunked"), "{answer}");
    }
}
