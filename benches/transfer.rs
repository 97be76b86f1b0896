//! What a large import costs: time, the service's memory, and what it leaves to others. Also the
//! memory of a list of everybody and of many streams. Run by `script/bench transfer`, which starts
//! the servers. Prints tables in Markdown.
//!
//! `BENCH_LINES` (1,000,000) makes it longer or shorter.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on should stop")]
#![expect(clippy::cast_precision_loss, reason = "counts of some 1,000,000")]

mod service;

use std::fmt::Write as _;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use customers::demo;
use reqwest::{Method, RequestBuilder};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use crate::service::{Service, customers};

/// Clients that write and read meanwhile.
const OTHERS: usize = 8;

/// Streams that are opened and never read.
const STREAMS: usize = 500;

/// How long each request of others took, in their order.
async fn others(service: &Arc<Service>, over: &Arc<AtomicBool>) -> Vec<Duration> {
    let tasks = (0..OTHERS).map(|other| {
        let (service, over) = (Arc::clone(service), Arc::clone(over));
        tokio::spawn(async move {
            let mut times = vec![];
            for number in 0.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let request = if (other + number) % 2 == 0 {
                    let body = json!({"name": "Somebody", "dob": "1990-12-10"});
                    service.request(Method::POST, "/customers").json(&body)
                } else {
                    service.request(Method::GET, "/customers?numbers=10")
                };
                let began = Instant::now();
                let answer = request.send().await.unwrap();
                assert!(answer.status().is_success(), "{}", answer.status());
                answer.bytes().await.unwrap();
                times.push(began.elapsed());
            }
            times
        })
    });
    let mut times = vec![];
    for task in tasks.collect::<Vec<_>>() {
        times.extend(task.await.unwrap());
    }
    times.sort();
    times
}

fn of_others(what: &str, times: &[Duration], seconds: f64) {
    let at = |part: f64| {
        let index = ((times.len() - 1) as f64 * part).round();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
        let time = times[index as usize];
        time.as_secs_f64() * 1000.0
    };
    let rate = times.len() as f64 / seconds;
    println!("| {what} | {rate:.0} | {:.1} | {:.1} |", at(0.5), at(0.99));
}

/// A stream that nobody reads.
async fn stands_still(service: &Service) -> TcpStream {
    let address = service.url.strip_prefix("http://").unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(address.parse().unwrap()).await.unwrap();
    let token = &service.token;
    let head = format!(
        "GET /events/stream?after=0 HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

/// Takes an answer without keeping it; how long it took and how long it was.
async fn take(request: RequestBuilder) -> (f64, usize, Vec<u8>) {
    let began = Instant::now();
    let mut answer = request.send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.status());
    let (mut length, mut end) = (0, vec![]);
    while let Some(chunk) = answer.chunk().await.unwrap() {
        length += chunk.len();
        end = chunk.to_vec();
    }
    (began.elapsed().as_secs_f64(), length, end)
}

#[tokio::main]
async fn main() {
    let lines = std::env::var("BENCH_LINES").ok().and_then(|text| text.parse().ok());
    let lines: u64 = lines.unwrap_or(1_000_000);
    let mut file = String::new();
    for i in 0..lines {
        let (name, dob) = demo::person(i);
        writeln!(file, "{{\"name\":\"{name}\",\"dob\":\"{dob}\"}}").unwrap();
    }
    let service = Arc::new(Service::start().await);
    // What, how much, floor and goal.
    let mut memory = vec![("idle", service.most(), Some((60, 30)))];

    let over = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    let alone = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        over.store(true, Ordering::Relaxed);
    };
    let (before, ()) = tokio::join!(others(&service, &over), alone);
    let before_seconds = began.elapsed().as_secs_f64();

    service.reset();
    over.store(false, Ordering::Relaxed);
    let import = async {
        let request = service.request(Method::POST, "/customers/import");
        let request = request.header("content-type", "application/x-ndjson").body(file);
        let (seconds, _, end) = take(request).await;
        over.store(true, Ordering::Relaxed);
        (seconds, end)
    };
    let (meanwhile, (seconds, end)) = tokio::join!(others(&service, &over), import);
    let told = String::from_utf8(end).unwrap();
    assert!(told.contains(&format!("\"created\":{lines}")), "{told}");
    memory.push(("import of all lines, others at work", service.most(), Some((150, 75))));

    service.reset();
    let (list_seconds, length, _) = take(service.request(Method::GET, "/customers")).await;
    memory.push(("list of everybody", service.most(), Some((150, 75))));

    service.reset();
    let mut streams = vec![];
    for _ in 0..STREAMS {
        streams.push(stands_still(&service).await);
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    memory.push(("500 streams from position 0 that read nothing", service.most(), None));
    drop(streams);

    let began = Instant::now();
    let export =
        customers(&["export", "--format", "ndjson"]).stdout(Stdio::null()).status().await.unwrap();
    assert!(export.success());
    let export_seconds = began.elapsed().as_secs_f64();

    let rate = lines as f64 / seconds;
    println!(
        "An import of {lines} lines took {seconds:.1} s ({rate:.0} lines/s) with {OTHERS} clients at work beside it; then the list of everybody ({} MiB)",
        length / (1024 * 1024)
    );
    println!("{list_seconds:.1} s, and an export of the whole log {export_seconds:.1} s.\n");
    println!(
        "| {OTHERS} clients that create and read the 10 youngest in turn | requests/s | median, ms | p99, ms |"
    );
    println!("|---|---|---|---|");
    of_others("alone", &before, before_seconds);
    of_others("during the import", &meanwhile, seconds);
    println!("\n| memory of the process | at most, MiB | floor | goal |\n|---|---|---|---|");
    for (what, most, targets) in memory {
        match targets {
            Some((floor, goal)) => println!("| {what} | {most} | {floor} | {goal} |"),
            None => println!("| {what} | {most} | | |"),
        }
    }
}
