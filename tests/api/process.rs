//! The built binary as a process of its own.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use reqwest::RequestBuilder;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::harness::{Login, PASSWORD, PATIENCE, client, send};

pub const BINARY: &str = env!("CARGO_BIN_EXE_customers");

/// The binary with nothing of this process's environment but PATH.
pub fn command(arguments: &[&str], folder: &Path) -> Command {
    let mut command = Command::new(BINARY);
    command
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", folder)
        .kill_on_drop(true);
    command
}

/// A running `serve` or `dev`.
pub struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// `http://host:port`
    pub url: String,
}

impl Process {
    /// Starts it and waits until it says where it listens.
    pub async fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut process = Self { child, lines, url: String::new() };
        process.url = process.line("address ").await;
        process
    }

    /// What stands behind `start` on the next line that begins so.
    pub async fn line(&mut self, start: &str) -> String {
        let reading = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                if let Some(rest) = line.strip_prefix(start) {
                    return rest.to_owned();
                }
            }
            panic!("it ended before it said {start:?}");
        };
        tokio::time::timeout(PATIENCE * 3, reading).await.unwrap()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Memory that it holds now, in MiB.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().trim().parse::<u64>().unwrap() / 1024
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.id()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// Ends it at once and waits until it is gone.
    pub async fn kill(mut self) {
        self.signal(Signal::KILL);
        self.child.wait().await.unwrap();
    }

    /// Ends it in order; its exit code.
    pub async fn end(mut self, signal: Signal) -> Option<i32> {
        self.signal(signal);
        let ended = tokio::time::timeout(Duration::from_secs(10), self.child.wait()).await;
        ended.expect("it did not end within 10 s").unwrap().code()
    }

    pub fn request(&self, method: reqwest::Method, path: &str) -> RequestBuilder {
        client().request(method, format!("{}{path}", self.url))
    }

    pub async fn log_in(&self, name: &str) -> Login {
        self.log_in_with(name, PASSWORD).await
    }

    pub async fn log_in_with(&self, name: &str, password: &str) -> Login {
        let body = serde_json::json!({"username": name, "password": password});
        let answer = send(self.request(reqwest::Method::POST, "/login").json(&body)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let token = answer.body["access_token"].as_str().unwrap().to_owned();
        Login { token, cookie: answer.cookie().unwrap() }
    }
}
