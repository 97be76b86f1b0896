//! Bodies with a content coding, or of another type: the refusal says what would be accepted (RFC 9110,
//! section 15.5.16). Imports take gzip and zstd, up to a bound.

use std::io::Write as _;

use customers::api;
use customers::config::Config;
use customers::events::log::read;
use customers::events::values::Role;
use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::harness::{Answer, Login, Service, With as _, address_of, config, empty_body_of, send};

const PACKED: &str = "the body must have no content coding: send it as it is";

const OF_IMPORTS: &str = "the body may have one content coding, gzip or zstd";

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
        let kind = if is_import { "application/x-ndjson" } else { media_type };
        let method: Method = route.method.parse().unwrap();
        let ask = |kind: &str| {
            let request = service.request(method.clone(), &path).login(&admin);
            request.header("content-type", kind).body("{}")
        };
        let (of_none, of_all) = (
            [
                &["gzip"][..],
                &["x-gzip"],
                &["GZIP"],
                &["identity, gzip"],
                &["gzip, identity"],
                &["identity", "zstd"],
            ],
            [&["br"][..], &["unknown"], &["\"identity\""], &["gzip, gzip"], &["gzip", "zstd"]],
        );
        let refused = of_all.iter().chain(of_none.iter().filter(|_| !is_import));
        for codings in refused {
            let request =
                codings.iter().fold(ask(kind), |r, one| r.header("content-encoding", *one));
            let answer = send(request).await;
            let (detail, accepted) =
                if is_import { (OF_IMPORTS, "gzip, zstd") } else { (PACKED, "identity") };
            let expected = (415, detail, Some(accepted), None);
            assert_eq!(shape(&answer), expected, "{path} {codings:?}");
        }
        for codings in [&["identity"][..], &["Identity"], &["IDENTITY, identity"], &[""], &[" , "]]
        {
            let request =
                codings.iter().fold(ask(kind), |r, one| r.header("content-encoding", *one));
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

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(vec![], Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// With a checksum, as files have it.
fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(vec![], 1).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn import(service: &Service, login: &Login, coding: &'static str, body: Vec<u8>) -> RequestBuilder {
    let request = service.post("/customers/import").login(login);
    request.header("content-type", "text/csv").header("content-encoding", coding).body(body)
}

/// A CSV file of so many customers.
fn people(number: usize) -> String {
    let line = |n| format!("Person {n},1990-12-{:02}\n", 1 + n % 28);
    let lines: Vec<String> = (0..number).map(line).collect();
    format!("name,dob\n{}", lines.concat())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_takes_a_packed_file_as_the_file_itself() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    let file = people(3000);
    let (first, second) = file.as_bytes().split_at(file.len() / 3);
    // Files that were put together, as by parallel packers, and an empty member between them.
    let in_parts = |pack: fn(&[u8]) -> Vec<u8>| [pack(first), pack(b""), pack(second)].concat();
    for (coding, body) in [
        ("gzip", gzip(file.as_bytes())),
        ("x-gzip", gzip(file.as_bytes())),
        ("zstd", zstd(file.as_bytes())),
        ("gzip", in_parts(gzip)),
        ("zstd", in_parts(zstd)),
        ("identity", file.clone().into_bytes()),
    ] {
        let answer = send(import(&service, &admin, coding, body)).await;
        assert_eq!(answer.status, 200, "{coding}");
        assert!(
            answer.text.contains("\"created\":3000,\"refused\":0"),
            "{coding}: {}",
            answer.text
        );
    }
    // One import id, one file: however it is packed.
    let once = |coding, body| import(&service, &admin, coding, body).header("import-id", "one");
    let before = read::head(&service.pools.short).await.unwrap();
    for (coding, body) in [
        ("gzip", gzip(file.as_bytes())),
        ("zstd", zstd(file.as_bytes())),
        ("identity", file.clone().into_bytes()),
    ] {
        assert_eq!(send(once(coding, body)).await.status, 200, "{coding}");
    }
    assert_eq!(read::head(&service.pools.short).await.unwrap(), before + 3000);
    let other = send(once("gzip", gzip(people(2).as_bytes()))).await;
    assert_eq!(other.status, 422);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_packed_file_imports_nothing() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    // The first request with the cookie binds the session, which appends an event.
    send(service.get("/me").login(&admin)).await;
    let before = read::head(&service.pools.short).await.unwrap();
    let file = people(3000);
    for (coding, whole) in [("gzip", gzip(file.as_bytes())), ("zstd", zstd(file.as_bytes()))] {
        let mut changed = whole.clone();
        let middle = changed.len() / 2;
        changed[middle] ^= 0x55;
        let mut checksum = whole.clone();
        *checksum.last_mut().unwrap() ^= 1;
        let cut = [1, middle, whole.len() - 1].map(|length| whole[..length].to_vec());
        let longer = [whole.clone(), b"garbage".to_vec()].concat();
        let bad = [file.clone().into_bytes(), vec![], longer, changed, checksum];
        for (number, body) in bad.into_iter().chain(cut).enumerate() {
            let answer = send(import(&service, &admin, coding, body)).await;
            let problem = &answer.body["errors"][0];
            assert_eq!(
                (answer.status, problem["field"].as_str()),
                (400, Some("body")),
                "{coding} {number}"
            );
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.starts_with("cannot be unpacked: "), "{coding} {number}: {detail}");
        }
    }
    // Not packed, whatever the header says; and packed twice.
    let twice = gzip(&gzip(file.as_bytes()));
    assert_eq!(send(import(&service, &admin, "gzip", twice)).await.status, 422);
    assert_eq!(read::head(&service.pools.short).await.unwrap(), before);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bomb_is_not_unpacked_beyond_the_bounds() {
    // So much that memory would tell, and more than the spool may have: what counts is what a body unpacks to.
    let bomb = vec![b'\n'; 64 * 1024 * 1024];
    let (gzip, zstd) = (gzip(&bomb), zstd(&bomb));
    assert!(gzip.len() < 1024 * 1024 && zstd.len() < 64 * 1024, "{} {}", gzip.len(), zstd.len());
    drop(bomb);
    let small = Config { spool_limit: 8 * 1024 * 1024, ..config().await };
    let service = Service::with(small).await;
    let admin = service.log_in_as(Role::Admin).await;
    for (coding, body) in [("gzip", gzip), ("zstd", zstd.clone())] {
        let answer = send(import(&service, &admin, coding, body)).await;
        assert_eq!(answer.status, 503, "{answer:?}");
        assert_eq!(answer.body["type"], "/problems/overloaded");
    }
    service.stop().await;
    // A body may unpack to 1 GiB, like one that is not packed: sixteen of these are too large with one byte more.
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    let mut body = zstd.repeat(16);
    body.extend(zstd::encode_all(&b"\n"[..], 1).unwrap());
    let answer = send(import(&service, &admin, "zstd", body)).await;
    // An answer that has begun before the body was whole ends with the problem.
    let last: Value = serde_json::from_str(answer.text.lines().last().unwrap()).unwrap();
    let problem = if answer.status == 200 { &last["error"] } else { &last };
    assert_eq!(
        (&problem["status"], &problem["type"]),
        (&json!(413), &json!("/problems/too-large"))
    );
    service.stop().await;
}
