//! The rotation of signing keys: `customers keys` adds and retires keys without ending sessions.

use chrono::TimeDelta;
use customers::events::values::Role;
use reqwest::Method;
use serde_json::Value;
use sqlx::Connection as _;
use tokio::process::Command;

use crate::harness::{Login, PATIENCE, Service, With as _, folder, send, until};
use crate::process::command;
use crate::sessions::token_alone;
use crate::tokens::kid;

/// Runs `customers keys` on the keys of a service; returns exit code, standard output and standard error.
async fn keys(service: &Service, arguments: &[&str]) -> (i32, String, String) {
    let arguments: Vec<&str> = ["keys"].iter().chain(arguments).copied().collect();
    let mut run: Command = command(&arguments, &folder("keys_command"));
    let output = run.env("CUSTOMERS_KEYS_DIR", &service.config.keys_dir).output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap().trim().to_owned();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

async fn listed(service: &Service) -> Vec<(String, String)> {
    let (code, lines, _) = keys(service, &["list", "--json"]).await;
    assert_eq!(code, 0);
    let of = |line: &str| {
        let key: Value = serde_json::from_str(line).unwrap();
        (key["kid"].as_str().unwrap().to_owned(), key["state"].as_str().unwrap().to_owned())
    };
    lines.lines().map(of).collect()
}

async fn published(service: &Service) -> usize {
    send(service.get("/.well-known/jwks.json")).await.body["keys"].as_array().unwrap().len()
}

/// Logs in repeatedly until this key signs the token. Logs out in between: the oldest of a hundred sessions ends.
async fn signed_by(service: &Service, key: &str) -> Login {
    let mut login = service.log_in("viewer").await;
    until("the key signs", async || {
        let logout = service.request(Method::DELETE, "/logout").login(&login);
        assert_eq!(send(logout).await.status, 200);
        login = service.log_in("viewer").await;
        kid(&login) == key
    })
    .await;
    login
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_changed_on_two_processes_and_nobody_is_logged_out() {
    let here = Service::start().await;
    let there = Service::with(here.config.clone()).await;
    let early = here.log_in_as(Role::Viewer).await;
    let old = kid(&early);
    let (code, new, _) = keys(&here, &["new"]).await;
    assert_eq!(code, 0);
    assert_eq!(
        listed(&here).await,
        [(old.clone(), "verifies".to_owned()), (new.clone(), "signs".to_owned())]
    );
    let late = signed_by(&here, &new).await;
    for service in [&here, &there] {
        assert_eq!(token_alone(service, &early).await, "200");
        assert_eq!(token_alone(service, &late).await, "200");
    }
    let (code, said, _) = keys(&here, &["retire", &old]).await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("verifies until"), "{said}");
    let (_, lines, _) = keys(&here, &["list"]).await;
    assert!(lines.contains("retired, verifies until 2"), "{lines}");
    signed_by(&there, &new).await;
    for service in [&here, &there] {
        assert_eq!(token_alone(service, &early).await, "200", "before its window ends");
        assert_eq!(published(service).await, 2);
    }
    // A token lives for a day at most, so none of the old key is valid when the key ends.
    for service in [&here, &there] {
        service.hands.forward(24 * 60 * 60 + 60);
    }
    until("the old key is not published", async || {
        published(&here).await == 1 && published(&there).await == 1
    })
    .await;
    let again = there.log_in("viewer").await;
    assert_eq!(token_alone(&here, &again).await, "200");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retired_key_verifies_until_its_window_ends_and_not_a_second_longer() {
    let service = Service::start().await;
    let login = service.log_in_as(Role::Viewer).await;
    let old = kid(&login);
    let (_, new, _) = keys(&service, &["new"]).await;
    signed_by(&service, &new).await;
    let end = service.hands.clock().now() + TimeDelta::minutes(5);
    let file = service.config.keys_dir.join(format!("{old}.retired"));
    std::fs::write(&file, end.to_rfc3339()).unwrap();
    service.hands.forward(290);
    assert_eq!(token_alone(&service, &login).await, "200");
    service.hands.forward(20);
    // The process reads the file periodically.
    until("the key has ended", async || token_alone(&service, &login).await != "200").await;
    assert_eq!(token_alone(&service, &login).await, "401 unauthenticated");
    // A file without a valid time is reported, and does not reactivate the key.
    std::fs::write(&file, "some day").unwrap();
    let (code, _, said) = keys(&service, &["list"]).await;
    assert_eq!((code, said.contains(".retired: is not a time")), (1, true), "{said}");
    assert_eq!(token_alone(&service, &login).await, "401 unauthenticated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_leaked_opens_nothing_within_seconds() {
    let here = Service::start().await;
    let there = Service::with(here.config.clone()).await;
    let login = here.log_in_as(Role::Viewer).await;
    let (_, new, _) = keys(&here, &["new"]).await;
    assert_eq!(keys(&here, &["retire", &kid(&login), "--now"]).await.0, 0);
    for service in [&here, &there] {
        // The clock of the service moves only when the test moves it.
        service.hands.forward(10);
        until("the key has ended", async || {
            token_alone(service, &login).await == "401 unauthenticated"
        })
        .await;
    }
    let again = here.log_in("viewer").await;
    assert_eq!(kid(&again), new);
    assert_eq!(token_alone(&there, &again).await, "200");
    assert_eq!(published(&there).await, 1);
    // A second `retire` does not reactivate an ended key.
    assert_eq!(keys(&here, &["retire", &kid(&login)]).await.0, 0);
    assert!(listed(&here).await.contains(&(kid(&login), "ended".to_owned())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_key_stays_and_what_is_no_key_is_refused() {
    let service = Service::start().await;
    let login = service.log_in_as(Role::Viewer).await;
    let (code, _, said) = keys(&service, &["retire", &kid(&login)]).await;
    assert_eq!((code, said.contains("create a new one first")), (1, true), "{said}");
    let (code, _, said) = keys(&service, &["retire", "0198c0de-0000-7000-8000-000000000000"]).await;
    assert_eq!((code, said.contains("no such key")), (1, true), "{said}");
    assert_eq!(keys(&service, &["retire", "../../etc/passwd"]).await.0, 2);
    assert_eq!(listed(&service).await, [(kid(&login), "signs".to_owned())]);
    assert_eq!(token_alone(&service, &login).await, "200");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_others_can_read_or_write_are_refused() {
    use std::fs::{Permissions, rename, set_permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    let service = Service::start().await;
    let folder = service.config.keys_dir.clone();
    let [(kid, _)] = &listed(&service).await[..] else { panic!("there is one key") };
    let key = folder.join(format!("{kid}.pem"));
    let open = |path: &std::path::Path, mode| {
        set_permissions(path, Permissions::from_mode(mode)).unwrap();
    };
    for (path, private, expected) in [(&folder, 0o700, 2), (&key, 0o600, 1)] {
        for extra in [0o040, 0o020, 0o004, 0o002] {
            open(path, private | extra);
            let (code, _, said) = keys(&service, &["list"]).await;
            assert_eq!((code, said.contains("is open to other users")), (expected, true), "{said}");
            let advice = format!("chmod {private:o}");
            assert!(said.contains(&advice), "{said}");
            assert!(said.contains(&path.display().to_string()), "{said}");
        }
        open(path, private);
    }
    // The rights of a folder that is not for keys alone are not the keys' business.
    let other = folder.join("notes.txt");
    std::fs::write(&other, "").unwrap();
    open(&folder, 0o755);
    let (code, _, said) = keys(&service, &["list"]).await;
    assert_eq!((code, said.contains("chmod")), (2, false), "{said}");
    assert!(said.contains("customers: CUSTOMERS_KEYS_DIR: "), "{said}");
    std::fs::remove_file(&other).unwrap();
    open(&folder, 0o700);
    let elsewhere = folder.with_extension("elsewhere");
    rename(&key, &elsewhere).unwrap();
    symlink(&elsewhere, &key).unwrap();
    let (code, _, said) = keys(&service, &["list"]).await;
    assert_eq!((code, said.contains("is a link")), (1, true), "{said}");
    // A running process keeps the key that it knows.
    let login = service.log_in_as(Role::Viewer).await;
    assert_eq!(token_alone(&service, &login).await, "200");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_leaked_ends_the_streams_of_its_tokens() {
    let service = Service::start().await;
    let auditor = service.log_in_as(Role::Auditor).await;
    let mut stream = service.get("/events/stream").login(&auditor).send().await.unwrap();
    assert_eq!(stream.status(), 200);
    assert_eq!(keys(&service, &["new"]).await.0, 0);
    assert_eq!(keys(&service, &["retire", "--now", &kid(&auditor)]).await.0, 0);
    let ending = async { while let Ok(Some(_)) = stream.chunk().await {} };
    tokio::time::timeout(PATIENCE, ending).await.expect("the stream ends");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_keys_are_events_with_the_user_that_made_them() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    let old = kid(&admin);
    let run = async |arguments: &[&str]| {
        let mut run = command(arguments, &folder("keys_command"));
        run.env("CUSTOMERS_KEYS_DIR", &service.config.keys_dir);
        let output = run.env("DATABASE_URL", service.database_url()).output().await.unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let new = run(&["keys", "new"]).await;
    let retired = run(&["keys", "retire", &old]).await;
    let until = retired.rsplit(' ').next().unwrap();
    let feed = send(service.get("/events").login(&admin)).await;
    let events = feed.body["events"].as_array().unwrap();
    let of_keys: Vec<_> =
        events.iter().filter(|event| event["aggregate_type"] == "installation").collect();
    let shown = |event: &Value| {
        let member = |name: &str| event[name].clone();
        (member("aggregate_id"), member("sequence"), member("type"), member("data"))
    };
    let id = serde_json::json!("token-keys");
    assert_eq!(
        of_keys.iter().map(|event| shown(event)).collect::<Vec<_>>(),
        [
            (id.clone(), 1.into(), "TokenKeyCreated".into(), serde_json::json!({"kid": new})),
            (
                id,
                2.into(),
                "TokenKeyRetired".into(),
                serde_json::json!({"kid": old, "verifies_until": until})
            ),
        ]
    );
    for event in of_keys {
        assert_eq!(event["metadata"]["actor"], "customers keys");
        assert!(!event["metadata"]["os_user"].as_str().unwrap().is_empty());
    }
    // The rest of the log goes on, also in a copy.
    service.caught_up().await;
    let (place, there) = (folder("keys_command"), crate::harness::database().await);
    let log =
        crate::transfer::stdout(service.database_url(), &place, &["export", "--format", "ndjson"])
            .await;
    std::fs::write(place.join("log.ndjson"), log).unwrap();
    crate::transfer::stdout(&there, &place, &["import", "--log", "log.ndjson"]).await;
    assert_eq!(
        crate::transfer::log(&there).await,
        crate::transfer::log(service.database_url()).await
    );
    // Without a database the key is changed, and the command says what is missing.
    let (code, third, problem) = keys(&service, &["new"]).await;
    assert_eq!((code, third.len()), (0, 36));
    assert!(problem.contains("the log has no event of it"), "{problem}");
    service.stop().await;
}

#[tokio::test]
async fn only_events_of_keys_are_recorded_as_such() {
    let url = crate::harness::database().await;
    let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
    let kid = "0198c1a2-3b4c-7d5e-8f60-718293a4b5c6";
    let mut record = async |payload: &str, metadata: &str| {
        let recorded: Result<i64, sqlx::Error> =
            sqlx::query_scalar("select record_key_change(gen_random_uuid(), $1, $2)")
                .bind(payload)
                .bind(metadata)
                .fetch_one(&mut connection)
                .await;
        recorded.map_err(|error| error.as_database_error().unwrap().code().unwrap().into_owned())
    };
    let created = format!(r#"{{"type":"TokenKeyCreated","kid":"{kid}"}}"#);
    let until = "2026-11-28T08:00:00.000000Z";
    let retired =
        format!(r#"{{"type":"TokenKeyRetired","kid":"{kid}","verifies_until":"{until}"}}"#);
    assert_eq!(record(&created, "{}").await, Ok(1));
    assert_eq!(record(&retired, "{}").await, Ok(2));
    for wrong in [
        "[]",
        "null",
        r#"{"type":"AccountAdded","username":"root","role":"admin"}"#,
        r#"{"type":"TokenKeyCreated"}"#,
        &created.replace(kid, "../../etc"),
        &created.replace('}', r#","more":1}"#),
        &retired.replace(until, "soon"),
        &retired.replace("TokenKeyRetired", "TokenKeyCreated"),
    ] {
        assert_eq!(record(wrong, "{}").await, Err("23514".to_owned()), "{wrong}");
    }
    assert_eq!(record(&created, "[]").await, Err("23514".to_owned()));
}
