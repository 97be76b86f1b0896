//! PostgreSQL with TLS: certificates of the server and of the client, password files, sockets.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use customers::dev::Servers;
use customers::events::values::Role;
use customers::postgres::Server;
use customers::postgres::server::{Demand, PATIENT_LIMIT};
use customers::schema;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::SecretString;
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::process::Command;

use crate::harness::{Service, With as _, config_on, folder, postgres_alone, send};
use crate::lost_connections::server_of;
use crate::nginx::{program, run};
use crate::process::command;

/// Makes a certificate authority, and certificates of a server and of a client with its signature.
async fn certificates(folder: &Path, openssl: &Path) {
    let at = |name: &str| folder.join(name).display().to_string();
    let request = |name: &str, subject: &str| {
        let mut command = Command::new(openssl);
        command.args(["req", "-newkey", "rsa:2048", "-nodes", "-subj", subject]);
        command.args(["-keyout", &at(&format!("{name}.key"))]);
        command
    };
    for name in ["ca", "other"] {
        let mut root = request(name, &format!("/CN={name}"));
        let (made, text) =
            run(root.args(["-x509", "-days", "2", "-out", &at(&format!("{name}.pem"))])).await;
        assert!(made, "{text}");
    }
    for (name, subject, extension) in [
        ("server", "/CN=localhost", "subjectAltName=DNS:localhost"),
        ("client", "/CN=client", "extendedKeyUsage=clientAuth"),
    ] {
        let (csr, ext) = (at(&format!("{name}.csr")), at(&format!("{name}.ext")));
        let (made, text) = run(request(name, subject).args(["-out", &csr])).await;
        assert!(made, "{text}");
        std::fs::write(&ext, extension).unwrap();
        let (signed, text) = run(Command::new(openssl)
            .args(["x509", "-req", "-days", "2", "-CAcreateserial", "-in", &csr])
            .args(["-CA", &at("ca.pem"), "-CAkey", &at("ca.key"), "-extfile", &ext])
            .args(["-out", &at(&format!("{name}.pem"))]))
        .await;
        assert!(signed, "{text}");
    }
}

/// A PostgreSQL with TLS; the database `with_certificate` demands a certificate of the client.
async fn start() -> Option<(Servers, PathBuf)> {
    let openssl = program("openssl")?;
    let folder = folder("tls");
    certificates(&folder, &openssl).await;
    let hba = "hostssl with_certificate all all scram-sha-256 clientcert=verify-ca\n\
               host with_certificate all all reject\n\
               local all all scram-sha-256\n\
               host all all all scram-sha-256\n";
    std::fs::write(folder.join("hba"), hba).unwrap();
    let at = |name: &str| folder.join(name).display().to_string();
    let mut options = postgres_alone(&folder.join("servers"), [5; 32]);
    options.settings = vec![
        "ssl=on".to_owned(),
        format!("ssl_cert_file={}", at("server.pem")),
        format!("ssl_key_file={}", at("server.key")),
        format!("ssl_ca_file={}", at("ca.pem")),
        format!("hba_file={}", at("hba")),
    ];
    Some((Servers::start(options).await.unwrap(), folder))
}

async fn problem(url: &str) -> String {
    let server = match Server::new(url, Demand::Primary) {
        Ok(server) => server,
        Err(error) => return error.to_string(),
    };
    match server.connect("test", &[], PATIENT_LIMIT).await {
        Ok(connection) => {
            connection.close().await.unwrap();
            String::new()
        }
        Err(error) => format!("{:#}", anyhow::Error::from(error)),
    }
}

/// Where the URL is silent, the variables of libpq count; those that cannot be honoured are refused.
async fn the_environment_counts(url: &str, ca: &str, other: &str) {
    schema::migrate(&SecretString::from(url), None).await.unwrap();
    for (variables, expected) in [
        (vec![("PGSSLROOTCERT", ca)], "the schema is up to date"),
        (vec![("PGSSLROOTCERT", other)], "UnknownIssuer"),
        (vec![("PGSSLROOTCERT", other), ("PGSSLMODE", "require")], "UnknownIssuer"),
        (vec![("PGSSLMODE", "verify_full")], "PGSSLMODE: must be"),
        (vec![("PGSSLMODE", "allow")], "PGSSLMODE: must be"),
        (vec![("PGCHANNELBINDING", "require")], "PGCHANNELBINDING"),
    ] {
        let mut plan = command(&["migrate", "--dry-run"], &folder("plan"));
        plan.env("DATABASE_URL", url).envs(variables.iter().copied());
        let told = String::from_utf8(plan.output().await.unwrap().stderr).unwrap();
        assert!(told.contains(expected), "{variables:?}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_server_and_client_are_checked_and_presented() {
    let Some((servers, folder)) = start().await else {
        eprintln!("openssl: not installed, left out");
        return;
    };
    let url = servers.database_url().unwrap().to_owned();
    let mut owner = PgConnection::connect(&url).await.unwrap();
    owner.execute("create database with_certificate").await.unwrap();
    let at = |name: &str| folder.join(name).display().to_string();
    let base = url.rsplit_once('/').unwrap().0;
    // The certificate names localhost.
    let port = server_of(&url).port();
    let base = base.replace(&server_of(&url).to_string(), &format!("localhost:{port}"));
    let (ca, other) = (at("ca.pem"), at("other.pem"));
    let verified = format!("sslmode=verify-full&sslrootcert={ca}");
    let client = format!("sslcert={}&sslkey={}", at("client.pem"), at("client.key"));
    let works = [
        format!("{base}/postgres?sslmode=require"),
        format!("{base}/postgres?{verified}"),
        format!("{base}/with_certificate?{verified}&{client}"),
        format!("{base}/postgres?sslrootcert={ca}"),
    ];
    for url in &works {
        assert_eq!(problem(url).await, "", "{url}");
    }
    let numeric = base.replace("localhost", "127.0.0.1");
    for url in [
        format!("{base}/postgres?sslmode=verify-full&sslrootcert={other}"),
        format!("{base}/postgres?sslmode=verify-ca&sslrootcert={other}"),
        // A root certificate that is there is checked.
        format!("{base}/postgres?sslmode=require&sslrootcert={other}"),
        format!("{base}/postgres?sslmode=prefer&sslrootcert={other}"),
        format!("{base}/postgres?sslrootcert={other}"),
        // They would not.
        format!("{base}/postgres?sslmode=disable&sslrootcert={ca}"),
        format!("{base}/postgres?sslmode=allow"),
        // The name could not be checked.
        format!("{base}/postgres?{verified}&hostaddr=127.0.0.1"),
        // Another name than that of the certificate.
        format!("{numeric}/postgres?{verified}"),
        format!("{base}/with_certificate?{verified}"),
        format!("{base}/postgres?sslmode=verify-full&sslrootcert=/nonexistent"),
    ] {
        assert_ne!(problem(&url).await, "", "{url}");
    }
    the_environment_counts(&format!("{base}/postgres"), &ca, &other).await;
    // The whole service on it, with a password from a file.
    let url = format!("{base}/with_certificate?{verified}&{client}");
    let (user, password) =
        url.split_once("://").unwrap().1.split_once('@').unwrap().0.split_once(':').unwrap();
    let passfile = folder.join("passfile");
    std::fs::write(&passfile, format!("localhost:{port}:with_certificate:{user}:{password}\n"))
        .unwrap();
    let without = url.replace(&format!(":{password}@"), "@");
    let without = format!("{without}&passfile={}", passfile.display());
    assert!(problem(&without).await.contains("chmod 600"));
    std::fs::set_permissions(&passfile, std::fs::Permissions::from_mode(0o600)).unwrap();
    schema::migrate(&SecretString::from(without.clone()), None).await.unwrap();
    let service = Service::with(config_on(&without)).await;
    let admin = service.log_in_as(Role::Admin).await;
    assert_eq!(send(service.get("/customers").login(&admin)).await.status, 200);
    let is_encrypted: bool = sqlx::query_scalar(
        "select bool_and(ssl) from pg_stat_ssl join pg_stat_activity using (pid)
         where datname = 'with_certificate' and application_name like 'customers%'",
    )
    .fetch_one(&mut owner)
    .await
    .unwrap();
    assert!(is_encrypted);
    service.stop().await;
    servers.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passwords_with_every_character_and_unix_sockets_work() {
    let folder = folder("socket");
    let mut options = postgres_alone(&folder.join("servers"), [6; 32]);
    // The path of a socket has at most 107 bytes.
    let sockets = tempfile::tempdir().unwrap();
    std::fs::set_permissions(sockets.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    options.settings = vec![format!("unix_socket_directories={}", sockets.path().display())];
    let servers = Servers::start(options).await.unwrap();
    let url = servers.database_url().unwrap().to_owned();
    let mut owner = PgConnection::connect(&url).await.unwrap();
    let password = "p@:/?#[]%& +\"'\\é";
    owner
        .execute(
            format!("create role \"we:ird@\" login password '{}'", password.replace('\'', "''"))
                .as_str(),
        )
        .await
        .unwrap();
    let encoded: String = utf8_percent_encode(password, NON_ALPHANUMERIC).to_string();
    let port = server_of(&url).port();
    for url in [
        format!("postgres://we%3Aird%40:{encoded}@127.0.0.1:{port}/postgres"),
        format!(
            "postgresql:///postgres?user=we%3Aird%40&password={encoded}&host=127.0.0.1&port={port}"
        ),
        format!(
            "postgres:///postgres?user=we%3Aird%40&password={encoded}&host={}&port={port}",
            sockets.path().display()
        ),
    ] {
        assert_eq!(problem(&url).await, "", "{url}");
    }
    servers.stop().await;
}
