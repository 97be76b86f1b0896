//! `deploy/nginx.conf` on a real nginx, in front of a real service. The addresses and paths are those of the
//! test, and what nginx before 1.27 does not know is left out. Without nginx, openssl and curl
//! nothing is tested; `script/bootstrap` installs them where `CI` is set.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use customers::config::Config;
use customers::events::values::Role;
use tokio::process::{Child, Command};

use crate::harness::{Login, Service, config, folder, until};
use crate::proxy::{Cut, Proxy};

/// The path of a program; `None` only on a developer's machine.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap();
    let found = std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join(name))
        .find(|path| path.exists());
    assert!(found.is_some() || std::env::var_os("CI").is_none(), "{name} is not installed");
    found
}

pub async fn run(command: &mut Command) -> (bool, String) {
    let output = command.stdin(Stdio::null()).output().await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A running nginx.
pub struct Nginx {
    _process: Child,
    http: u16,
    /// The port of the service.
    pub https: u16,
    curl: PathBuf,
}

impl Nginx {
    /// `None` without the programs.
    async fn start(processes: &[SocketAddr]) -> Option<Self> {
        Self::configured(processes, true).await
    }

    /// The same for clients that speak plain HTTP.
    pub async fn without_tls(processes: &[SocketAddr]) -> Option<Self> {
        Self::configured(processes, false).await
    }

    async fn configured(processes: &[SocketAddr], is_tls: bool) -> Option<Self> {
        let (nginx, openssl, curl) = (program("nginx")?, program("openssl")?, program("curl")?);
        let folder = folder("nginx");
        let at = |name: &str| folder.join(name).display().to_string();
        let (key, certificate) = (at("key.pem"), at("certificate.pem"));
        let (made, text) = run(Command::new(openssl)
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=customers.test", "-keyout", &key, "-out", &certificate]))
        .await;
        assert!(made, "{text}");
        std::fs::write(folder.join("server_name"), "server_name customers.test;\n").unwrap();
        let (http, https) = (free_port(), free_port());
        let servers = processes.iter().map(|address| format!("server {address} max_fails=0;"));
        let servers = servers.collect::<Vec<_>>().concat();
        let mut conf = std::fs::read_to_string("deploy/nginx.conf").unwrap();
        for (deployed, here) in [
            // First, because the path of the folder may contain it.
            (" /tmp/", format!(" {}/", folder.display())),
            ("listen 8080", format!("listen 127.0.0.1:{http}")),
            ("listen 8443", format!("listen 127.0.0.1:{https}")),
            // A variable may name a group of servers, too.
            ("resolver_timeout 5s;", format!("upstream customers {{ {servers} }}")),
            ("set $service customers:8080;", "set $service customers;".to_owned()),
            ("http2 on;", String::new()),
            ("resolver 127.0.0.11 valid=1s ipv6=off;", String::new()),
            ("/run/secrets/server_name", at("server_name")),
            ("/run/secrets/tls_certificate;", format!("{certificate};")),
            ("/run/secrets/tls_key", key),
            ("/dev/stderr", at("error.log")),
            ("/dev/stdout", at("access.log")),
        ] {
            assert!(conf.contains(deployed), "deploy/nginx.conf no longer has {deployed}");
            conf = conf.replace(deployed, &here);
        }
        if !is_tls {
            conf = conf.replace(&format!(":{https} ssl"), &format!(":{https}"));
        }
        std::fs::write(folder.join("nginx.conf"), conf).unwrap();
        let process = Command::new(nginx)
            .args(["-c", &at("nginx.conf"), "-g", "daemon off; master_process off;"])
            .args(["-e", &at("start.log")])
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let nginx = Self { _process: process, http, https, curl };
        until("nginx answers", async || nginx.get("http", "customers.test", "/", "").await.0).await;
        Some(nginx)
    }

    /// Sends a request to a host name (for https also in the handshake), perhaps with another `Host`;
    /// returns whether there was an answer, and the answer with its head.
    async fn get(&self, scheme: &str, name: &str, path: &str, host: &str) -> (bool, String) {
        let mut curl = self.curl(scheme, name, path);
        if !host.is_empty() {
            curl.arg("-H").arg(format!("Host: {host}"));
        }
        run(&mut curl).await
    }

    /// Sends a request of an account over https; returns the answer with its head.
    async fn send(&self, method: &str, path: &str, login: &Login, more: &[&str]) -> String {
        let mut curl = self.curl("https", "customers.test", path);
        curl.args(["-X", method, "-H", &format!("Authorization: Bearer {}", login.token)]);
        run(curl.args(["-H", "Content-Type: application/json"]).args(more)).await.1
    }

    fn curl(&self, scheme: &str, name: &str, path: &str) -> Command {
        let port = if scheme == "http" { self.http } else { self.https };
        let mut curl = Command::new(&self.curl);
        curl.args(["--noproxy", "*", "-sSki", "--max-time", "10"])
            .arg("--resolve")
            .arg(format!("{name}:{port}:127.0.0.1"))
            .arg(format!("{scheme}://{name}:{port}{path}"));
        curl
    }
}

/// The path of a created customer.
fn location(answer: &str) -> String {
    assert_eq!(status(answer), "201", "{answer}");
    values(answer, "location").concat()
}

fn status(answer: &str) -> &str {
    answer.split_whitespace().nth(1).unwrap_or_default()
}

/// The values of a header.
fn values<'a>(answer: &'a str, name: &str) -> Vec<&'a str> {
    let head = answer.split("\r\n\r\n").next().unwrap();
    head.lines()
        .filter_map(|line| line.split_once(": "))
        .filter(|(of, _)| of.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_answers_for_one_name_with_forward_secrecy_and_keeps_operations_private() {
    let public_url = Some("https://customers.test".to_owned());
    let service = Service::with(Config { public_url, ..config().await }).await;
    let Some(nginx) = Nginx::start(&[service.address]).await else { return };

    let (_, right) = nginx.get("https", "customers.test", "/livez", "").await;
    assert_eq!(status(&right), "200", "{right}");
    // The service sends the header, too.
    assert_eq!(values(&right, "strict-transport-security"), ["max-age=31536000"], "{right}");
    let (_, redirect) = nginx.get("http", "customers.test", "/a?b", "").await;
    assert_eq!(status(&redirect), "308");
    assert_eq!(values(&redirect, "location"), ["https://customers.test/a?b"]);

    let (answered, text) = nginx.get("http", "evil.example", "/", "").await;
    assert!(!answered, "{text}");
    let (answered, text) = nginx.get("https", "evil.example", "/", "").await;
    assert!(!answered && !text.contains("HTTP/"), "the handshake was accepted: {text}");
    let (answered, text) = nginx.get("https", "customers.test", "/livez", "evil.example").await;
    assert!(!answered, "{text}");

    for path in ["/metrics", "/readyz"] {
        let (_, answer) = nginx.get("https", "customers.test", path, "").await;
        assert_eq!(status(&answer), "404", "{path}: {answer}");
        assert!(answer.contains("/problems/not-found"), "{answer}");
        assert_eq!(values(&answer, "strict-transport-security").len(), 1, "{answer}");
    }
    let openssl = program("openssl").unwrap();
    for (cipher, accepted) in [("ECDHE-RSA-AES128-GCM-SHA256", true), ("AES128-GCM-SHA256", false)]
    {
        let (connected, text) = run(Command::new(&openssl)
            .args(["s_client", "-tls1_2", "-servername", "customers.test", "-cipher", cipher])
            .args(["-connect", &format!("127.0.0.1:{}", nginx.https)]))
        .await;
        assert_eq!(connected, accepted, "{cipher}: {text}");
    }
    service.stop().await;
    let (_, away) = nginx.get("https", "customers.test", "/livez", "").await;
    assert_eq!(status(&away), "503", "{away}");
    assert_eq!(values(&away, "strict-transport-security").len(), 1, "{away}");
    assert_eq!(values(&away, "x-request-id").len(), 1, "{away}");
}

const ADA: &str = r#"{"name": "Ada", "dob": "1990-12-10"}"#;

/// Two processes of one installation, and a login of an editor.
async fn two_processes() -> (Service, Service, Login) {
    let public_url = Some("https://customers.test".to_owned());
    let drain_delay = Duration::from_secs(3);
    let first = Service::with(Config { public_url, drain_delay, ..config().await }).await;
    let second = Service::with(first.config.clone()).await;
    let login = first.log_in_as(Role::Editor).await;
    (first, second, login)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_sends_a_request_again_only_if_that_executes_nothing_twice() {
    let (first, second, login) = two_processes().await;
    let breaking = Proxy::start(first.address).await;
    // One process is away, the connections of another break, a third is in order.
    let away = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let Some(nginx) = Nginx::start(&[away, breaking.address, second.address]).await else { return };

    let mut created = 0;
    for (method, answer_of_broken, replayed) in
        [("GET", "200", 0), ("PUT", "200", 1), ("DELETE", "200", 1), ("POST", "503", 0)]
    {
        // Until the request is the one whose answer is lost. All others get through at once.
        for attempt in 0.. {
            assert!(attempt < 30, "{method}: never sent to the process whose answers are lost");
            // nginx takes turns: another request in between, so that this one has each turn once.
            if attempt % 2 == 1 {
                nginx.send("GET", "/livez", &login, &[]).await;
            }
            let path = location(&nginx.send("POST", "/customers", &login, &["-d", ADA]).await);
            created += 1;
            breaking.arm(Cut::NextAnswer);
            let answer = match method {
                // A second execution would be refused: the version is 2 then.
                "PUT" => {
                    let bob =
                        ["-H", "If-Match: \"1\"", "-d", r#"{"name":"Bob","dob":"1990-12-10"}"#];
                    nginx.send(method, &path, &login, &bob).await
                }
                // A second DELETE would find no customer.
                "GET" | "DELETE" => nginx.send(method, &path, &login, &[]).await,
                _ => {
                    created += 1;
                    nginx.send(method, "/customers", &login, &["-d", ADA]).await
                }
            };
            let broken = !breaking.is_armed();
            breaking.arm(Cut::Nothing);
            if broken {
                assert_eq!(status(&answer), answer_of_broken, "{method}: {answer}");
                assert_eq!(values(&answer, "idempotent-replayed").len(), replayed, "{answer}");
                break;
            }
            assert!(["200", "201"].contains(&status(&answer)), "{method}: {answer}");
            assert_eq!(values(&answer, "idempotent-replayed"), Vec::<&str>::new(), "{answer}");
        }
    }
    // The POST whose answer was lost was executed, once.
    let events = sqlx::query_scalar::<_, i64>(
        "select count(*) from events where event_type = 'CustomerCreated'",
    );
    assert_eq!(events.fetch_one(&second.pools.short).await.unwrap(), created);
}

/// What the client of `Nginx` is told in the history of a customer.
async fn told(nginx: &Nginx, path: &str, login: &Login) -> serde_json::Value {
    let answer = nginx.send("GET", &format!("{path}/history"), login, &[]).await;
    let body = answer.split("\r\n\r\n").nth(1).unwrap();
    serde_json::from_str::<serde_json::Value>(body).unwrap()["history"][0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_passes_on_an_encoded_reason_and_no_forged_address() {
    let public_url = Some("https://customers.test".to_owned());
    let trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    let config = Config { public_url, trusted_proxies, ..config().await };
    let service = Service::with(config).await;
    let Some(nginx) = Nginx::start(&[service.address]).await else { return };
    let admin = service.log_in_as(Role::Admin).await;
    let forged = [
        "-H",
        "X-Forwarded-For: 203.0.113.9",
        "-H",
        "Forwarded: for=203.0.113.9",
        "-H",
        "X-Reason*: UTF-8''K%C3%B6ln",
        "-d",
        ADA,
    ];
    let path = location(&nginx.send("POST", "/customers", &admin, &forged).await);
    let change = told(&nginx, &path, &admin).await;
    assert_eq!((&change["reason"], &change["ip"]), (&"Köln".into(), &"127.0.0.1".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_below_a_path_keeps_operations_private_and_streams() {
    let public_url = Some("https://customers.test/registry".to_owned());
    let service = Service::with(Config { public_url, ..config().await }).await;
    let Some(nginx) = Nginx::start(&[service.address]).await else { return };
    let admin = service.log_in_as(Role::Admin).await;
    let path = location(&nginx.send("POST", "/registry/customers", &admin, &["-d", ADA]).await);
    assert_eq!(path, "/registry/customers/1");
    assert_eq!(status(&nginx.send("GET", &path, &admin, &[]).await), "200");
    for path in ["/registry/metrics", "/registry/readyz", "/metrics", "/readyz"] {
        let (_, answer) = nginx.get("https", "customers.test", path, "").await;
        assert_eq!(status(&answer), "404", "{path}: {answer}");
        assert!(!answer.contains("\"checks\"") && !answer.contains("# TYPE"), "{answer}");
    }
    // An import that is larger than what nginx takes elsewhere.
    let file = folder("import").join("lines.csv");
    std::fs::write(&file, format!("name,dob\n{}", "Ada,1990-12-10\n".repeat(10_000))).unwrap();
    let lines = format!("@{}", file.display());
    let import = ["-H", "Content-Type: text/csv", "--data-binary", &lines];
    let answer = nginx.send("POST", "/registry/customers/import", &admin, &import).await;
    // The harness names JSON as well, and two types are refused by the service, not by nginx.
    assert_eq!(status(&answer), "415", "{answer}");
    assert!(answer.contains("/registry/problems/unsupported-media-type"), "{answer}");
    // The stream begins before its first event: nginx does not wait for more.
    let stream = ["--max-time", "2", "-H", "Last-Event-ID: 0"];
    let answer = nginx.send("GET", "/registry/events/stream", &admin, &stream).await;
    assert!(answer.contains("CustomerCreated"), "{answer}");
}

/// The example of docs/operations.md, with the path left and removed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_example_of_a_path_works() {
    let docs = std::fs::read_to_string("docs/operations.md").unwrap();
    let example = docs.split("```nginx\n").nth(1).unwrap().split("```").next().unwrap();
    let (Some(program), Some(curl)) = (program("nginx"), program("curl")) else { return };
    for proxied in ["http://127.0.0.1:8080;", "http://127.0.0.1:8080/;"] {
        let public_url = Some("http://customers.test/registry".to_owned());
        let trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
        let config = Config { public_url, trusted_proxies, ..config().await };
        let service = Service::with(config).await;
        let admin = service.log_in_as(Role::Admin).await;
        let (folder, http) = (folder("nginx"), free_port());
        assert!(example.contains("http://127.0.0.1:8080;"), "{example}");
        let here = proxied.replace("127.0.0.1:8080", &service.address.to_string());
        let at = folder.display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {at}/{kind};"))
            .concat();
        let conf = format!(
            "pid {at}/pid; error_log {at}/error.log; events {{}} http {{ access_log off; {temporary} \
             server {{ listen 127.0.0.1:{http}; {} }} }}",
            example.replace("http://127.0.0.1:8080;", &here)
        );
        std::fs::write(folder.join("nginx.conf"), conf).unwrap();
        let process = Command::new(&program)
            .args(["-c", &format!("{at}/nginx.conf"), "-g", "daemon off; master_process off;"])
            .args(["-e", &format!("{at}/start.log")])
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let nginx = Nginx { _process: process, http, https: 0, curl: curl.clone() };
        let get = async |path: &str| nginx.get("http", "customers.test", path, "").await;
        until("nginx answers", async || get("/registry/livez").await.0).await;
        assert_eq!(status(&get("/registry/livez").await.1), "200");
        assert_eq!(status(&get("/livez").await.1), "404", "{proxied}");
        for path in ["/registry/metrics", "/registry/readyz"] {
            let answer = get(path).await.1;
            assert!(status(&answer) == "404" && answer.contains("nginx"), "{answer}");
        }
        let ask = async |method: &str, path: &str, more: &[&str]| {
            let mut curl = nginx.curl("http", "customers.test", path);
            curl.args(["-X", method, "-H", &format!("Authorization: Bearer {}", admin.token)]);
            run(curl.args(["-H", "Content-Type: application/json"]).args(more)).await.1
        };
        let reason = ["-H", "X-Reason*: UTF-8''K%C3%B6ln", "-d", ADA];
        let path = location(&ask("POST", "/registry/customers", &reason).await);
        assert_eq!(path, "/registry/customers/1");
        let history = ask("GET", &format!("{path}/history"), &[]).await;
        assert!(
            history.contains("\"reason\":\"Köln\"") && history.contains("\"ip\":\"127.0.0.1\"")
        );
        assert_eq!(status(&ask("GET", "/registry/nothing", &[]).await), "404");
        assert!(
            ask("GET", "/registry/nothing", &[]).await.contains("/registry/problems/not-found")
        );
        let stream = ["--max-time", "2", "-H", "Last-Event-ID: 0"];
        let answer = ask("GET", "/registry/events/stream", &stream).await;
        assert!(answer.contains("CustomerCreated"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_stops_behind_nginx_fails_no_request() {
    let (first, second, login) = two_processes().await;
    let Some(nginx) = Nginx::start(&[first.address, second.address]).await else { return };
    let stopped = AtomicUsize::new(0);
    let counted = AtomicUsize::new(0);
    let client = async || {
        // A while with both processes, while one stops, and with one.
        let mut after = 0;
        while after < 20 {
            after += stopped.load(Ordering::Relaxed);
            let path = location(&nginx.send("POST", "/customers", &login, &["-d", ADA]).await);
            let bob = ["-d", r#"{"name":"Bob","dob":"1990-12-10"}"#];
            let requests: [(&str, &[&str]); 3] = [("PUT", &bob), ("GET", &[]), ("DELETE", &[])];
            for (method, more) in requests {
                let answer = nginx.send(method, &path, &login, more).await;
                assert_eq!(status(&answer), "200", "{method}: {answer}");
            }
            counted.fetch_add(4, Ordering::Relaxed);
        }
    };
    let stop = async {
        until("there is load", async || counted.load(Ordering::Relaxed) > 40).await;
        first.stop().await;
        stopped.store(1, Ordering::Relaxed);
    };
    tokio::join!(stop, client(), client(), client(), client());
    second.stop().await;
}
