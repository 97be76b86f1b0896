//! `deploy/nginx.conf` on a real nginx, in front of a real service. The addresses and paths are those of the
//! test, and two lines that nginx before 1.27 does not know are left out. Without nginx, openssl and curl
//! nothing is tested; `script/bootstrap` installs them where `CI` is set.

use std::path::PathBuf;
use std::process::Stdio;

use customers::config::Config;
use tokio::process::{Child, Command};

use crate::harness::{Service, config, folder, until};

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
struct Nginx {
    _process: Child,
    http: u16,
    https: u16,
    curl: PathBuf,
}

impl Nginx {
    /// `None` without the programs.
    async fn start(service: &Service) -> Option<Self> {
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
        let mut conf = std::fs::read_to_string("deploy/nginx.conf").unwrap();
        for (deployed, here) in [
            // First, because the path of the folder may contain it.
            (" /tmp/", format!(" {}/", folder.display())),
            ("listen 8080", format!("listen 127.0.0.1:{http}")),
            ("listen 8443", format!("listen 127.0.0.1:{https}")),
            ("server customers:8080 resolve", format!("server {}", service.address)),
            ("http2 on;", String::new()),
            ("resolver 127.0.0.11 valid=5s ipv6=off;", String::new()),
            ("/run/secrets/server_name", at("server_name")),
            ("/run/secrets/tls_certificate;", format!("{certificate};")),
            ("/run/secrets/tls_key", key),
            ("/dev/stderr", at("error.log")),
            ("/dev/stdout", at("access.log")),
        ] {
            assert!(conf.contains(deployed), "deploy/nginx.conf no longer has {deployed}");
            conf = conf.replace(deployed, &here);
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
        let port = if scheme == "http" { self.http } else { self.https };
        let mut curl = Command::new(&self.curl);
        curl.args(["--noproxy", "*", "-sSki", "--max-time", "10"])
            .arg("--resolve")
            .arg(format!("{name}:{port}:127.0.0.1"))
            .arg(format!("{scheme}://{name}:{port}{path}"));
        if !host.is_empty() {
            curl.arg("-H").arg(format!("Host: {host}"));
        }
        run(&mut curl).await
    }
}

fn status(answer: &str) -> &str {
    answer.split_whitespace().nth(1).unwrap()
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
    let Some(nginx) = Nginx::start(&service).await else { return };

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
