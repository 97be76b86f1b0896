//! The service as a process of its own, with a logged-in client.

#![allow(dead_code, reason = "each benchmark uses a part")]

/// A synthetic log.
pub mod log;

/// Plain inserts, by pgbench.
pub mod pgbench;

/// Load on HTTP: wrk, and requests at a fixed rate.
pub mod load;

use std::process::Stdio;
use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};

const BINARY: &str = env!("CARGO_BIN_EXE_customers");
pub const PASSWORD: &str = "a good password";

/// The name of the session cookie on plain http.
pub const COOKIE: &str = "customers_session";

/// The service as a process of its own.
pub struct Service {
    pub child: Child,
    pub url: String,
    pub client: Client,
    pub token: String,
}

pub fn customers(arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command
        .args(arguments)
        .env("CUSTOMERS_LISTEN", "127.0.0.1:0")
        .env("CUSTOMERS_RATE_LIMIT", "1000000")
        .env("CUSTOMERS_ACCOUNT_LIMIT", "1000000")
        .env("CUSTOMERS_LOGIN_LIMIT", "0")
        .env("CUSTOMERS_SESSION_RATE", "0")
        .env("CUSTOMERS_KEYS_DIR", std::env::temp_dir().join("bench-keys"))
        .env("CUSTOMERS_LOG", "error")
        .kill_on_drop(true);
    command
}

/// Adds an admin account.
pub async fn add_account(customers: impl Fn(&[&str]) -> Command, name: &str) {
    let arguments = ["account", "add", name, "--role", "admin", "--password-stdin"];
    let mut add = customers(&arguments).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = add.stdin.take().unwrap();
    stdin.write_all(PASSWORD.as_bytes()).await.unwrap();
    drop(stdin);
    assert!(add.wait().await.unwrap().success());
}

/// Starts a process of the service by this command. Returns it and its URL.
pub async fn serve(mut command: Command) -> (Child, String) {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().unwrap();
    (child, line.strip_prefix("address ").unwrap().to_owned())
}

impl Service {
    /// Starts the service on the database of the environment.
    pub async fn start() -> Self {
        Self::on(&std::env::var("DATABASE_URL").unwrap()).await
    }

    /// Migrates, adds an admin account, starts the service and logs in.
    pub async fn on(database_url: &str) -> Self {
        let customers = |arguments: &[&str]| {
            let mut command = customers(arguments);
            command.env("DATABASE_URL", database_url);
            command.env("CUSTOMERS_REDIS_PREFIX", database_url.rsplit('/').next().unwrap());
            command
        };
        assert!(customers(&["migrate"]).status().await.unwrap().success());
        add_account(customers, "bench").await;
        let (child, url) = serve(customers(&["serve"])).await;
        let client = Client::builder().no_proxy().build().unwrap();
        let body = json!({"username": "bench", "password": PASSWORD});
        let answer = client.post(format!("{url}/login")).json(&body).send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        let token = answer["access_token"].as_str().unwrap().to_owned();
        Self { child, url, client, token }
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token)
    }

    /// Resets the peak memory of the process.
    pub fn reset_peak_memory(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.child.id().unwrap()), "5").unwrap();
    }

    /// The peak memory of the process since its start or the last reset, in MiB.
    pub fn peak_memory(&self) -> u64 {
        memory(&self.child, "VmHWM:")
    }
}

/// The memory of a process in MiB: `VmRSS:` at this moment, `VmHWM:` at its peak.
pub fn memory(process: &Child, which: &str) -> u64 {
    let path = format!("/proc/{}/status", process.id().unwrap());
    let status = std::fs::read_to_string(path).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(which)).unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse::<u64>().unwrap() / 1024
}

/// A size of the run, from the environment.
pub fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A quantile, in milliseconds.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "an index"
)]
pub fn quantile(sorted: &[Duration], part: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * part).round() as usize].as_secs_f64() * 1e3
}
