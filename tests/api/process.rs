//! The built binary as a separate process.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use reqwest::RequestBuilder;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::harness::{Login, PASSWORD, PATIENCE, client, send};

pub const BINARY: &str = env!("CARGO_BIN_EXE_customers");

/// A command of the binary. Of this process's environment it gets `PATH` only.
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

/// A running `customers serve` or `customers dev`.
pub struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// The address of the service: `http://host:port`.
    pub url: String,
}

impl Process {
    /// Starts the process and waits until it prints its address.
    pub async fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut process = Self { child, lines, url: String::new() };
        process.url = process.line("address ").await;
        process
    }

    /// The rest of the next line of standard output that begins with `start`.
    pub async fn line(&mut self, start: &str) -> String {
        let reading = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                if let Some(rest) = line.strip_prefix(start) {
                    return rest.to_owned();
                }
            }
            panic!("the process ended before it printed {start:?}");
        };
        tokio::time::timeout(PATIENCE * 3, reading).await.unwrap()
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// The current resident memory (`VmRSS`), in MiB.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().trim().parse::<u64>().unwrap() / 1024
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.id()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// Sends SIGKILL and waits until the process has ended.
    pub async fn kill(mut self) {
        self.signal(Signal::KILL);
        self.child.wait().await.unwrap();
    }

    /// Sends the signal for a graceful shutdown; returns the exit code. Panics after 10 s.
    pub async fn end(self, signal: Signal) -> Option<i32> {
        self.signal(signal);
        self.ended().await
    }

    /// Waits for the end of a process that was told to stop; returns its exit code. Panics after 10 s.
    pub async fn ended(mut self) -> Option<i32> {
        let ended = tokio::time::timeout(Duration::from_secs(10), self.child.wait()).await;
        ended.expect("the process ends within 10 s").unwrap().code()
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
