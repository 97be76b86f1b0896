//! The cost of a large import: its time, the service's memory, and the latency of other clients. Also
//! the time of a list of all customers and of an export, and the memory of the list and of many
//! streams. `script/bench transfer` starts the servers and runs it. It prints tables in Markdown.
//!
//! `BENCH_LINES` (1,000,000) sets the size of the import.

#![expect(clippy::unwrap_used, reason = "a benchmark that fails should stop")]
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

/// The number of clients that write and read during the import.
const CLIENTS: usize = 8;

/// The number of streams that are opened and never read.
const STREAMS: usize = 500;

/// Runs the clients until `over`; returns the sorted times of their requests.
async fn run_clients(service: &Arc<Service>, over: &Arc<AtomicBool>) -> Vec<Duration> {
    let tasks = (0..CLIENTS).map(|client| {
        let (service, over) = (Arc::clone(service), Arc::clone(over));
        tokio::spawn(async move {
            let mut times = vec![];
            for number in 0.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let request = if (client + number) % 2 == 0 {
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

fn print_clients(what: &str, times: &[Duration], seconds: f64) {
    let at = |part: f64| {
        let index = ((times.len() - 1) as f64 * part).round();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
        let time = times[index as usize];
        time.as_secs_f64() * 1000.0
    };
    let rate = times.len() as f64 / seconds;
    println!("| {what} | {rate:.0} | {:.1} | {:.1} |", at(0.5), at(0.99));
}

/// Opens a stream from position 0 that is never read.
async fn open_unread_stream(service: &Service) -> TcpStream {
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

/// Reads a whole answer without storing it; returns its time in seconds, its length and its last chunk.
async fn read_answer(request: RequestBuilder) -> (f64, usize, Vec<u8>) {
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

/// Builds a file of `lines` demo customers, in NDJSON.
fn import_file(lines: u64) -> String {
    let mut file = String::new();
    for i in 0..lines {
        let (name, dob) = demo::person(i);
        writeln!(file, "{{\"name\":\"{name}\",\"dob\":\"{dob}\"}}").unwrap();
    }
    file
}

#[tokio::main]
async fn main() {
    let lines = std::env::var("BENCH_LINES").ok().and_then(|text| text.parse().ok());
    let lines: u64 = lines.unwrap_or(1_000_000);
    let file = import_file(lines);
    let service = Arc::new(Service::start().await);
    // Label, MiB, floor and goal.
    let mut memory = vec![("idle", service.peak_memory(), Some((60, 30)))];

    let over = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    let alone = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        over.store(true, Ordering::Relaxed);
    };
    let (before, ()) = tokio::join!(run_clients(&service, &over), alone);
    let before_seconds = began.elapsed().as_secs_f64();

    service.reset_peak_memory();
    over.store(false, Ordering::Relaxed);
    let import = async {
        let request = service.request(Method::POST, "/customers/import");
        let request = request.header("content-type", "application/x-ndjson").body(file);
        let (seconds, _, end) = read_answer(request).await;
        over.store(true, Ordering::Relaxed);
        (seconds, end)
    };
    let (meanwhile, (seconds, end)) = tokio::join!(run_clients(&service, &over), import);
    let summary = String::from_utf8(end).unwrap();
    assert!(summary.contains(&format!("\"created\":{lines}")), "{summary}");
    memory.push((
        "import of all lines, with the 8 clients",
        service.peak_memory(),
        Some((150, 75)),
    ));

    service.reset_peak_memory();
    let (list_seconds, length, _) = read_answer(service.request(Method::GET, "/customers")).await;
    memory.push(("list of all customers", service.peak_memory(), Some((150, 75))));

    service.reset_peak_memory();
    let mut streams = vec![];
    for _ in 0..STREAMS {
        streams.push(open_unread_stream(&service).await);
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    memory.push((
        "500 streams from position 0 whose clients read nothing",
        service.peak_memory(),
        None,
    ));
    drop(streams);

    let began = Instant::now();
    let export =
        customers(&["export", "--format", "ndjson"]).stdout(Stdio::null()).status().await.unwrap();
    assert!(export.success());
    let export_seconds = began.elapsed().as_secs_f64();

    let rate = lines as f64 / seconds;
    println!(
        "An import of {lines} lines took {seconds:.1} s ({rate:.0} lines/s) while {CLIENTS} clients worked; after that the list of all customers ({} MiB)",
        length / (1024 * 1024)
    );
    println!("took {list_seconds:.1} s, and an export of the whole log {export_seconds:.1} s.\n");
    println!(
        "| {CLIENTS} clients, each of which creates a customer and reads the 10 youngest in turn | requests/s | median, ms | p99, ms |"
    );
    println!("|---|---|---|---|");
    print_clients("without an import", &before, before_seconds);
    print_clients("during the import", &meanwhile, seconds);
    println!("\n| memory of the process | maximum, MiB | floor | goal |\n|---|---|---|---|");
    for (what, peak, targets) in memory {
        match targets {
            Some((floor, goal)) => println!("| {what} | {peak} | {floor} | {goal} |"),
            None => println!("| {what} | {peak} | | |"),
        }
    }
}
