//! `customers export` and `customers import`: a whole log, and customers, as files.

use std::path::Path;
use std::process::Output;

use customers::events::values::Role;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

use crate::harness::{Service, With as _, config_on, database, folder, send, variables};
use crate::process::command;

/// Runs a command on a database.
pub async fn run(database_url: &str, place: &Path, arguments: &[&str]) -> Output {
    let mut command = command(arguments, place);
    command.envs(variables(database_url)).output().await.unwrap()
}

/// The standard output of a command, which must succeed.
pub async fn stdout(database_url: &str, place: &Path, arguments: &[&str]) -> String {
    let output = run(database_url, place, arguments).await;
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The standard output and standard error of a command, which must exit with 1.
pub async fn failed(database_url: &str, place: &Path, arguments: &[&str]) -> (String, String) {
    let output = run(database_url, place, arguments).await;
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr))
}

/// A service with a history: names that spreadsheets and shells interpret, an update, a deletion and
/// log-ins.
pub async fn registry() -> Service {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    let names =
        ["=HYPERLINK(\"http://x\")", "+1", "-1", "@sum", "Grace \"é\" \\ O'Hara, née", "Ada"];
    for name in names {
        let body = json!({"name": name, "dob": "1990-12-10"});
        let create = service.post("/customers").login(&admin).json(&body);
        assert_eq!(send(create.header("x-reason", "=1+1\\t")).await.status, 201);
    }
    let body = json!({"name": "Ada King", "dob": "1990-12-11"});
    assert_eq!(send(service.put("/customers/6").login(&admin).json(&body)).await.status, 200);
    assert_eq!(send(service.delete("/customers/2").login(&admin)).await.status, 200);
    service.log_in("admin").await;
    service
}

/// All columns of the log but the command ids, byte by byte.
pub async fn log(database_url: &str) -> Vec<String> {
    let mut connection = PgConnection::connect(database_url).await.unwrap();
    sqlx::query_scalar(
        "select concat_ws('|', position, aggregate_type, aggregate_id, sequence, event_type,
                          event_version, payload, metadata, recorded_at)
         from events order by position",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap()
}

/// The identity of a log.
async fn log_id(database_url: &str) -> String {
    let mut connection = PgConnection::connect(database_url).await.unwrap();
    sqlx::query_scalar("select id::text from log_identities where ended_at is null")
        .fetch_one(&mut connection)
        .await
        .unwrap()
}

/// The export with another time in one of its lines.
fn recorded_in_2999(lines: &[&str], number: usize) -> String {
    let mut event: Value = serde_json::from_str(lines[number]).unwrap();
    event["recorded_at"] = "2999-01-01T00:00:00.000000Z".into();
    let mut lines: Vec<_> = lines.iter().map(|&line| line.to_owned()).collect();
    lines[number] = event.to_string();
    lines.join("\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_in_an_empty_installation_is_the_same_registry() {
    let service = registry().await;
    let (here, there, place) = (service.database_url(), database().await, folder("transfer"));
    // The test databases are copies of one database. A copy that goes on by itself gets its own identity.
    stdout(&there, &place, &["log", "restart"]).await;
    let export = stdout(here, &place, &["export", "--format", "ndjson"]).await;
    let events = log(here).await;
    let (_, last) = export.trim_end().rsplit_once('\n').unwrap();
    let count = events.len();
    let identity = log_id(here).await;
    let expected =
        format!(r#"{{"summary":{{"events":{count},"last_position":{count},"log":"{identity}"}}}}"#);
    assert_eq!((last, export.lines().count()), (expected.as_str(), count + 1));

    std::fs::write(place.join("log.ndjson"), &export).unwrap();
    let summary = stdout(&there, &place, &["import", "--log", "log.ndjson"]).await;
    // The identity is that of the copy: a consumer of it begins there.
    assert_eq!(summary.trim_end(), expected.replace(&identity, &log_id(&there).await));
    assert_eq!(log(&there).await, events);
    let again = stdout(&there, &place, &["export", "--format", "ndjson"]).await;
    assert_ne!(log_id(&there).await, identity);
    assert_eq!(again, export.replace(&identity, &log_id(&there).await));

    // Nothing is applied yet, and that is not the same as equal.
    for projection in ["customers", "customer_history", "customer_search"] {
        let (told, _) = failed(&there, &place, &["projection", "verify", projection]).await;
        let missing = format!("does not have the {count} events after position 0, up to {count}");
        assert!(told.contains(&missing), "{told}");
    }

    // A service on the copy continues after its last id and position: none is used twice.
    let copy = Service::with(config_on(&there)).await;
    copy.caught_up().await;
    let told = stdout(&there, &place, &["projection", "verify", "customers"]).await;
    assert!(told.ends_with(&format!("equals the log up to position {count}\n")), "{told}");
    copy.add_account("root", Role::Admin).await;
    let (root, admin) = (copy.log_in("root").await, service.log_in("admin").await);
    let customers =
        async |service: &Service, login| send(service.get("/customers").login(login)).await.body;
    assert_eq!(customers(&copy, &root).await, customers(&service, &admin).await);
    let history = async |service: &Service, login| {
        send(service.get("/customers/6/history").login(login)).await.body
    };
    assert_eq!(history(&copy, &root).await, history(&service, &admin).await);
    let body = json!({"name": "New", "dob": "1990-12-10"});
    let created = send(copy.post("/customers").login(&root).json(&body)).await;
    assert_eq!(created.status, 201);
    assert!(created.body["id"].as_i64().unwrap() > 6, "{created:?}");

    // `customers history` reads the log itself.
    let lines = stdout(&there, &place, &["history", "6", "--json"]).await;
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(json!(lines), history(&service, &admin).await["history"]);
    let lines = stdout(&there, &place, &["history", "6"]).await;
    let line = lines.lines().find(|line| line.contains("CustomerUpdated")).unwrap();
    let told = &history(&service, &admin).await["history"][1];
    for part in [
        "CustomerUpdated  admin (admin)  from 127.0.0.1",
        &format!("  request {}", told["request_id"].as_str().unwrap()),
        &format!("  position {}", told["position"]),
        r#"  name: "Ada" -> "Ada King"  dob: "1990-12-10" -> "1990-12-11""#,
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
    let (_, problem) = failed(&there, &place, &["history", "999"]).await;
    assert!(problem.contains("the log has no customer 999"), "{problem}");

    // A log that is not empty accepts no import.
    let (_, problem) = failed(&there, &place, &["import", "--log", "log.ndjson"]).await;
    assert!(problem.contains("only an empty installation"), "{problem}");
    service.stop().await;
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_not_whole_is_not_taken_over() {
    let service = registry().await;
    let (there, place) = (database().await, folder("transfer"));
    let export = stdout(service.database_url(), &place, &["export", "--format", "ndjson"]).await;
    let lines: Vec<&str> = export.lines().collect();
    let without = |number: usize| {
        let rest = lines.iter().enumerate().filter(|(at, _)| *at != number);
        rest.map(|(_, line)| *line).collect::<Vec<_>>().join("\n")
    };
    let last = lines.len() - 1;
    let long = format!("\"{}\"", "x".repeat(5000));
    let cases = [
        (without(last), "truncated"),
        (without(last)[..200].to_owned(), "line 1: "),
        (without(3), "line 4: position 5 follows 3"),
        (without(last - 1), "the summary has"),
        (export.replace("CustomerDeleted", "CustomerErased"), "cannot be decoded"),
        (export.replace("\"customer\"", "\"account\""), "cannot be decoded"),
        (export.replace("1990-12-11", "1990-13-11"), "cannot be decoded"),
        (export.replace("\"version\":\"1\"", "\"version\":\"9\""), "version 9 of"),
        (export.replace("\"sequence\":2", "\"sequence\":7"), "have a gap"),
        // The values that every other way in refuses too.
        (export.replace("\"Ada King\"", "\"\""), "name must not be empty"),
        (export.replace("\"Ada King\"", &long), "name must have at most 128 characters"),
        (export.replace("Ada King", "Ada\\u0000"), "name must not contain control characters"),
        (export.replace("1990-12-11", "1066-12-11"), "dob must not be before 1900-01-01"),
        (
            export.replace("1990-12-11", "2990-12-11"),
            "dob must not be more than a day after recorded_at",
        ),
        (
            export.replace("\"aggregate_id\":\"6\"", "\"aggregate_id\":\"06\""),
            "aggregate_id must be",
        ),
        (
            export.replace("\"aggregate_type\":\"customer\"", "\"aggregate_type\":\"x\""),
            "x is unknown",
        ),
        // Every later event would get a time after it.
        (recorded_in_2999(&lines, last - 1), "line 12: recorded_at lies in the future"),
        (export.clone() + lines[0], "follows the summary"),
        ("nonsense".to_owned(), "line 1: "),
        (String::new(), "truncated"),
    ];
    for (file, expected) in cases {
        std::fs::write(place.join("log.ndjson"), file).unwrap();
        let (_, problem) = failed(&there, &place, &["import", "--log", "log.ndjson"]).await;
        assert!(problem.contains(expected), "{expected}: {problem}");
        assert_eq!(log(&there).await, Vec::<String>::new());
    }
    let (_, problem) = failed(&there, &place, &["import", "--log", "missing.ndjson"]).await;
    assert!(problem.contains("missing.ndjson"), "{problem}");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_has_what_each_format_has_room_for() {
    let service = registry().await;
    let (url, place) = (service.database_url(), folder("transfer"));
    let count = log(url).await.len();

    let output = run(url, &place, &["export", "--format", "csv"]).await;
    let mut reader = csv::Reader::from_reader(output.stdout.as_slice());
    let header: Vec<_> = reader.headers().unwrap().iter().map(str::to_owned).collect();
    let expected = "position,recorded_at,type,id,version,name,dob,actor,role,request_id,ip,reason";
    assert_eq!(header.join(","), expected);
    let records: Vec<Vec<String>> = reader
        .records()
        .map(|record| record.unwrap().iter().map(str::to_owned).collect())
        .collect();
    assert_eq!(records.len(), count);
    let created = records.iter().filter(|record| record[2] == "CustomerCreated");
    let names: Vec<_> = created.clone().map(|record| record[5].as_str()).collect();
    let expected =
        ["'=HYPERLINK(\"http://x\")", "'+1", "'-1", "'@sum", "Grace \"é\" \\ O'Hara, née", "Ada"];
    assert_eq!(names, expected);
    assert!(created.clone().all(|record| record[11] == "'=1+1\\t" && record[7] == "admin"));
    let identity = log_id(url).await;
    let summary = json!({"summary": {"events": count, "last_position": count, "log": identity}});
    let last_line: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(last_line, summary, "the summary of a CSV export is on standard error");

    let cloud = stdout(url, &place, &["export", "--format", "cloudevents", "--to", "4"]).await;
    let events: Vec<Value> =
        cloud.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len(), 4);
    assert_eq!(events[3]["id"], "4");
    assert_eq!(events[3]["source"], format!("http://customers.test/events?log={identity}"));

    let some = stdout(url, &place, &["export", "--format", "ndjson", "--to", "4"]).await;
    let end = format!(r#"{{"summary":{{"events":4,"last_position":4,"log":"{identity}"}}}}"#);
    assert!(some.trim_end().ends_with(&end), "{some}");
    let beyond = (count + 1).to_string();
    let output = run(url, &place, &["export", "--format", "csv", "--to", &beyond]).await;
    let problem = String::from_utf8(output.stderr).unwrap();
    assert!(problem.contains("beyond the end of the log"), "{problem}");
    assert_eq!(output.status.code(), Some(2));
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_customers_is_imported_as_by_the_route() {
    let service = Service::start().await;
    let (url, place) = (service.database_url(), folder("transfer"));
    let file = "name,dob\nAda,1990-12-10\nEve,2990-12-10\nGrace,1906-12-09\n";
    std::fs::write(place.join("people.csv"), file).unwrap();
    let bad = r#"{"line":3,"errors":[{"field":"dob","detail":"must not be in the future"}]}"#;
    let number = async || log(url).await.len();

    let (named, problem) = failed(url, &place, &["import", "people.csv", "--strict"]).await;
    assert_eq!((named.trim_end(), number().await), (bad, 0), "{problem}");
    let import = ["import", "people.csv", "--import-id", "one", "--reason", "moved"];
    let first_output = stdout(url, &place, &import).await;
    let summary = r#"{"summary":{"lines":3,"created":2,"refused":1,"last_position":2}}"#;
    assert_eq!(first_output, format!("{bad}\n{summary}\n"));
    assert_eq!(stdout(url, &place, &import).await, first_output);
    assert_eq!(number().await, 2);
    let log = log(url).await;
    assert!(
        log[0].contains(r#"{"actor":"customers import","reason":"moved","os_user":""#),
        "{log:?}"
    );

    std::fs::write(place.join("people.txt"), "{\"name\":\"Alan\",\"dob\":\"1912-06-23\"}\n")
        .unwrap();
    let output = run(url, &place, &["import", "people.txt"]).await;
    let problem = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), problem.contains("--format")), (Some(2), true), "{problem}");
    stdout(url, &place, &["import", "people.txt", "--format", "ndjson", "--strict"]).await;
    assert_eq!(number().await, 3);
    let (_, problem) =
        failed(url, &place, &["import", "people.csv", "--import-id", "one", "--format", "ndjson"])
            .await;
    assert!(problem.contains("used for another file"), "{problem}");
    let (_, problem) = failed(url, &place, &["import", ".", "--format", "csv"]).await;
    assert!(problem.contains(".: Is a directory"), "{problem}");
    // Neither a pipe nor standard input can be read twice, so the import must not need to.
    let (pipe, end) = (place.join("pipe"), place.join("people.txt"));
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let writing = std::thread::spawn(move || std::fs::write(&pipe, std::fs::read(end).unwrap()));
    stdout(url, &place, &["import", "pipe", "--format", "ndjson", "--strict"]).await;
    writing.join().unwrap().unwrap();
    assert_eq!(number().await, 4);
    service.stop().await;
}
