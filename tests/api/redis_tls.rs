//! Redis behind TLS: certificates of a private authority, client certificates, and the certificates that are
//! refused. Without openssl, or with a Redis that was built without TLS, nothing is tested, and the tests say
//! so; where `CI` is set both must be there.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use customers::auth::redis::doctor;
use customers::config::Config;
use customers::events::values::Role;

use crate::harness::{Service, config, database, folder, until, variables};
use crate::own_redis::{Redis, free_port, server_program};
use crate::process::command;
use crate::redis_trouble::is_ready;
use crate::sessions::{token_alone, token_and_cookie};

/// The files of a test: `NAME.pem` and `NAME.key` of authorities, servers and clients.
struct Certificates(PathBuf);

impl Certificates {
    /// `None` without openssl.
    fn new() -> Option<Self> {
        let there = Command::new("openssl").arg("version").stdout(Stdio::null()).status().is_ok();
        assert!(there || std::env::var_os("CI").is_none(), "openssl is not installed");
        if !there {
            println!("LEFT OUT: Redis with TLS, because openssl is not installed");
            return None;
        }
        let certificates = Self(folder("certificates"));
        for authority in ["ca", "other-ca"] {
            certificates.openssl(&format!(
                "req -x509 {KEY} -days 2 -subj /CN={authority} -keyout {authority}.key -out {authority}.pem"
            ));
        }
        certificates.sign("server", "ca", "DNS:localhost,IP:127.0.0.1", 2);
        certificates.sign("client", "ca", "DNS:client", 2);
        certificates.sign("wrong-client", "other-ca", "DNS:client", 2);
        Some(certificates)
    }

    /// Makes a certificate that is valid for some days from now; expired if they are negative.
    fn sign(&self, name: &str, authority: &str, names: &str, days: i32) {
        self.openssl(&format!("req {KEY} -subj /CN={name} -keyout {name}.key -out {name}.csr"));
        std::fs::write(self.0.join("ext"), format!("subjectAltName={names}\n")).unwrap();
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA {authority}.pem -CAkey {authority}.key -CAcreateserial \
             -days {days} -extfile ext -out {name}.pem"
        ));
    }

    fn openssl(&self, arguments: &str) {
        let words = arguments.split_whitespace();
        let made = Command::new("openssl").args(words).current_dir(&self.0).output().unwrap();
        assert!(made.status.success(), "{arguments}: {made:?}");
    }

    fn path(&self, file: &str) -> String {
        self.0.join(file).display().to_string()
    }

    /// A server with this certificate that demands one of its clients, and its port for TLS.
    async fn redis(&self, server: &str, more: &[&str]) -> Option<(Redis, u16)> {
        if !has_tls() {
            return None;
        }
        let port = free_port();
        let (number, ca) = (port.to_string(), self.path("ca.pem"));
        let (certificate, key) =
            (self.path(&format!("{server}.pem")), self.path(&format!("{server}.key")));
        let mut settings = vec!["--tls-port", &number, "--tls-ca-cert-file", &ca];
        settings.extend(["--tls-cert-file", &certificate, "--tls-key-file", &key]);
        settings.extend(more);
        Some((Redis::start(&settings).await, port))
    }

    /// A configuration with this authority and this client certificate, if any.
    async fn config(&self, url: String, authority: Option<&str>, client: Option<&str>) -> Config {
        let path = |file: String| Some(PathBuf::from(self.path(&file)));
        Config {
            redis_url: Some(url.into()),
            redis_ca: authority.and_then(|name| path(format!("{name}.pem"))),
            redis_cert: client.and_then(|name| path(format!("{name}.pem"))),
            redis_key: client.and_then(|name| path(format!("{name}.key"))),
            ..config().await
        }
    }
}

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";

/// Whether the server was built with TLS.
fn has_tls() -> bool {
    let port = free_port().to_string();
    // With TLS it ends because it has no certificate, without TLS because it knows no such setting.
    let output = Command::new(server_program())
        .args(["--port", "0", "--tls-port", &port, "--daemonize", "no", "--save", ""])
        .stdin(Stdio::null())
        .output();
    let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    let has_tls = String::from_utf8_lossy(&text).contains("tls-cert-file");
    assert!(has_tls || std::env::var_os("CI").is_none(), "redis-server has no TLS");
    if !has_tls {
        println!("LEFT OUT: Redis with TLS, because redis-server was built without it");
    }
    has_tls
}

/// What doctor advises first; empty if all checks pass.
async fn advice(config: &Config) -> String {
    let checks = doctor::inspect(config).await.unwrap();
    checks.into_iter().find_map(|check| check.advice).unwrap_or_default()
}

async fn log_in_works(service: &Service) {
    service.add_account("ada", Role::Editor).await;
    let login = service.log_in("ada").await;
    assert_eq!(token_and_cookie(service, &login).await, "200");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_authority_and_a_client_certificate_work_and_renewed_files_are_read() {
    let Some(certificates) = Certificates::new() else { return };
    let word = ["--requirepass", "word"];
    let Some((_redis, port)) = certificates.redis("server", &word).await else { return };
    for host in ["localhost", "127.0.0.1"] {
        let url = format!("rediss://:word@{host}:{port}/2");
        let config = certificates.config(url, Some("ca"), Some("client")).await;
        assert_eq!(advice(&config).await, "");
        let service = Service::with(config).await;
        log_in_works(&service).await;
        service.stop().await;
    }
    // A client certificate that Redis refuses is renewed while the service runs.
    let url = format!("rediss://:word@localhost:{port}");
    for ending in ["pem", "key"] {
        let file = |name: &str| certificates.0.join(format!("{name}.{ending}"));
        std::fs::copy(file("wrong-client"), file("renewed")).unwrap();
    }
    let config = certificates.config(url, Some("ca"), Some("renewed")).await;
    let service = Service::with(config).await;
    assert!(!is_ready(&service).await);
    for ending in ["pem", "key"] {
        let file = |name: &str| certificates.0.join(format!("{name}.{ending}"));
        std::fs::copy(file("client"), file("renewed")).unwrap();
    }
    until("the new certificate is used", async || is_ready(&service).await).await;
    log_in_works(&service).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_proves_nothing_is_refused_and_the_cause_is_named() {
    let Some(certificates) = Certificates::new() else { return };
    certificates.sign("expired", "ca", "DNS:localhost", -1);
    certificates.sign("elsewhere", "ca", "DNS:elsewhere", 2);
    let Some((redis, port)) = certificates.redis("server", &[]).await else { return };
    let url = |port: u16| format!("rediss://localhost:{port}");
    let right = (Some("ca"), Some("client"));
    for (url, (authority, client), expected) in [
        (url(port), (Some("other-ca"), Some("client")), "must name the authority that signed"),
        (url(port), (None, Some("client")), "must name the authority that signed"),
        (url(port), (Some("ca"), None), "check CUSTOMERS_REDIS_CERT"),
        (url(port), (Some("ca"), Some("wrong-client")), "check CUSTOMERS_REDIS_CERT"),
        (url(redis.address().port()), right, "speaks TLS"),
    ] {
        let told = advice(&certificates.config(url, authority, client).await).await;
        assert!(told.contains(expected), "{expected}: {told}");
    }
    for (server, expected) in [
        ("expired", "renew the certificate of Redis"),
        ("elsewhere", "a host that the certificate"),
    ] {
        let (_redis, port) = certificates.redis(server, &[]).await.unwrap();
        let config = certificates.config(url(port), Some("ca"), Some("client")).await;
        let told = advice(&config).await;
        assert!(told.contains(expected), "{server}: {told}");
        // The service starts, is not ready, and admits no request.
        let service = Service::with(config).await;
        assert!(!is_ready(&service).await, "{server}");
        service.add_account("ada", Role::Editor).await;
        let request = crate::sessions::try_to_log_in(&service, "ada", crate::harness::PASSWORD);
        assert_eq!(crate::sessions::verdict(request).await, "503 unavailable", "{server}");
        service.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_works_with_tls_and_a_client_certificate() {
    let Some(certificates) = Certificates::new() else { return };
    let more = ["--cluster-enabled", "yes", "--tls-cluster", "yes"];
    let Some((redis, port)) = certificates.redis("server", &more).await else { return };
    redis.ask("CLUSTER ADDSLOTSRANGE 0 16383").await;
    until("the cluster is whole", async || {
        format!("{:?}", redis.ask("CLUSTER INFO").await).contains("cluster_state:ok")
    })
    .await;
    let url = format!("rediss://127.0.0.1:{port},rediss://localhost:{port}");
    let config = certificates.config(url.clone(), Some("ca"), Some("client")).await;
    assert_eq!(advice(&config).await, "");
    let service = Service::with(config).await;
    log_in_works(&service).await;
    service.add_account("eve", Role::Viewer).await;
    let login = service.log_in("eve").await;
    assert_eq!(token_alone(&service, &login).await, "200");
    service.stop().await;
    let told = advice(&certificates.config(url, Some("other-ca"), Some("client")).await).await;
    assert!(told.contains("must name the authority that signed"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinel_and_its_master_work_with_tls_and_a_client_certificate() {
    let Some(certificates) = Certificates::new() else { return };
    let more = ["--tls-replication", "yes"];
    let Some((_redis, master)) = certificates.redis("server", &more).await else { return };
    let (port, home) = (free_port(), folder("sentinel"));
    let (ca, certificate, key) = (
        certificates.path("ca.pem"),
        certificates.path("server.pem"),
        certificates.path("server.key"),
    );
    let conf = format!(
        "port 0\ntls-port {port}\nbind 127.0.0.1\ndir {}\ntls-ca-cert-file {ca}\n\
         tls-cert-file {certificate}\ntls-key-file {key}\ntls-replication yes\n\
         sentinel monitor mymaster 127.0.0.1 {master} 1\n",
        home.display()
    );
    std::fs::write(home.join("sentinel.conf"), conf).unwrap();
    let _sentinel = tokio::process::Command::new(server_program())
        .arg(home.join("sentinel.conf"))
        .arg("--sentinel")
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let url = format!("rediss+sentinel://localhost:{port}/mymaster");
    let config = certificates.config(url.clone(), Some("ca"), Some("client")).await;
    let service = Service::with(config.clone()).await;
    until("the master is found", async || is_ready(&service).await).await;
    log_in_works(&service).await;
    assert_eq!(advice(&config).await, "");
    service.stop().await;
    let told = advice(&certificates.config(url, Some("other-ca"), Some("client")).await).await;
    assert!(told.contains("invalid peer certificate"), "{told}");
}

#[tokio::test]
async fn files_that_cannot_be_used_stop_the_start_by_name() {
    let folder = folder("files");
    let (empty, encrypted) = (folder.join("empty.pem"), folder.join("encrypted.key"));
    std::fs::write(&empty, "nothing").unwrap();
    std::fs::write(&encrypted, "-----BEGIN ENCRYPTED PRIVATE KEY-----\n").unwrap();
    let text = |path: &Path| path.display().to_string();
    let (tls, plain) = ("rediss://localhost", "redis://localhost");
    let (ca, cert, key) = ("CUSTOMERS_REDIS_CA", "CUSTOMERS_REDIS_CERT", "CUSTOMERS_REDIS_KEY");
    let environment = variables(&database().await);
    for (url, name, value, expected) in [
        (
            plain,
            ca,
            text(&empty),
            "CUSTOMERS_REDIS_CA: is set, so REDIS_URL must start with rediss",
        ),
        (tls, ca, text(&folder.join("absent")), "CUSTOMERS_REDIS_CA: cannot read "),
        (tls, ca, text(&empty), "has no block -----BEGIN CERTIFICATE-----"),
        (tls, key, text(&encrypted), "the key must have no passphrase"),
        (tls, cert, text(&empty), "has no block -----BEGIN CERTIFICATE-----"),
    ] {
        let mut serve = command(&["serve"], &folder);
        serve.envs(environment.clone()).env("REDIS_URL", url).env(name, value);
        let output = serve.output().await.unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains(expected), "{told}");
    }
}
