//! Load on HTTP: wrk for the peak rate, and requests at a fixed rate, whose latency counts from the moment
//! at which each was due: a closed loop would hide the waiting.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{Instant, sleep_until};

/// A request that is sent again and again.
#[derive(Debug, Clone)]
pub struct Load {
    pub method: &'static str,
    pub path: String,
    /// Name and value.
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
}

impl Load {
    /// Responses per second at 64 connections; fails if one was not a success.
    pub async fn peak(&self, url: &str, connections: u32, time: Duration) -> f64 {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("request.lua");
        std::fs::write(&script, self.lua()).unwrap();
        let ran = Command::new("wrk")
            .args(["--threads", "1", "--connections", &connections.to_string()])
            .args(["--duration", &format!("{}s", time.as_secs()), "--timeout", "10s"])
            .arg("--script")
            .arg(&script)
            .arg(format!("{url}{}", self.path))
            .output()
            .await
            .unwrap();
        let text = String::from_utf8_lossy(&ran.stdout);
        assert!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "{text}");
        let rate = text.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:"));
        rate.unwrap_or_else(|| panic!("{ran:?}")).trim().parse().unwrap()
    }

    fn lua(&self) -> String {
        let headers = self.headers.iter();
        let headers: Vec<String> = headers
            .map(|(name, value)| format!("wrk.headers[\"{name}\"] = [[{value}]]\n"))
            .collect();
        format!(
            "wrk.method = \"{}\"\nwrk.body = [[{}]]\n{}",
            self.method,
            self.body,
            headers.concat()
        )
    }

    fn bytes(&self) -> Vec<u8> {
        let headers: Vec<String> =
            self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!(
            "{} {} HTTP/1.1\r\nhost: bench\r\n{}content-length: {}\r\n\r\n{}",
            self.method,
            self.path,
            headers.concat(),
            self.body.len(),
            self.body
        )
        .into_bytes()
    }

    /// The latency of each of `rate` requests per second, from the moment at which it was due.
    pub async fn at_rate(&self, url: &str, rate: f64, time: Duration) -> Vec<Duration> {
        const CONNECTIONS: u32 = 64;
        let address: SocketAddr = url.strip_prefix("http://").unwrap().parse().unwrap();
        let began = Instant::now() + Duration::from_millis(100);
        let step = Duration::from_secs_f64(1.0 / rate);
        let clients = (0..CONNECTIONS).map(|client| {
            let request = self.bytes();
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.set_nodelay(true).unwrap();
                let (mut took, mut answer) = (vec![], vec![]);
                for round in 0.. {
                    let due = began + step * (round * CONNECTIONS + client);
                    if due > began + time {
                        break;
                    }
                    sleep_until(due).await;
                    stream.write_all(&request).await.unwrap();
                    read_answer(&mut stream, &mut answer).await;
                    took.push(due.elapsed());
                }
                took
            })
        });
        join_all(clients).await.into_iter().flat_map(Result::unwrap).collect()
    }
}

/// Reads one answer with a `Content-Length`, and fails if it is no success.
async fn read_answer(stream: &mut TcpStream, answer: &mut Vec<u8>) {
    answer.clear();
    loop {
        let read = stream.read_buf(answer).await.unwrap();
        assert!(read > 0, "the service closed the connection");
        let Some(end) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { continue };
        let head = std::str::from_utf8(&answer[..end]).unwrap().to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 2"), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.unwrap().parse().unwrap();
        if answer.len() >= end + 4 + length {
            return;
        }
    }
}

/// Whether a program is installed.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| Path::new(&folder).join(program).is_file())
}
