//! `customers import --log`: what this service has written is restored, in whatever way the file came here,
//! and nothing else is.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::harness::{database, empty_database, folder};
use crate::import_files::encoded;
use crate::transfer::{failed, log, registry, stdout};

/// An export of a registry, line by line.
async fn export() -> Vec<String> {
    let service = registry().await;
    let url = service.database_url();
    let text = stdout(url, &folder("log_import"), &["export", "--format", "ndjson"]).await;
    service.stop().await;
    text.lines().map(str::to_owned).collect()
}

/// The number of the first line with this text.
fn line_with(lines: &[String], text: &str) -> usize {
    lines
        .iter()
        .position(|line| line.contains(text))
        .unwrap_or_else(|| panic!("no line with {text}"))
}

/// The export with one event changed.
fn changed(lines: &[String], number: usize, change: impl FnOnce(&mut Value)) -> String {
    let mut event: Value = serde_json::from_str(&lines[number]).unwrap();
    change(&mut event);
    let mut lines = lines.to_vec();
    lines[number] = event.to_string();
    lines.join("\n")
}

/// Each of these changed copies of an export is refused, with this problem and the line that was changed.
async fn refused(lines: &[String], cases: &[(String, &str)]) {
    let (there, place) = (database().await, folder("log_import"));
    for (file, expected) in cases {
        std::fs::write(place.join("log.ndjson"), file).unwrap();
        let (_, problem) = failed(&there, &place, &["import", "--log", "log.ndjson"]).await;
        assert!(problem.contains(expected), "{expected}: {problem}");
        let changed = file
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.is_empty() && !lines.iter().any(|known| known == line));
        let mut named = changed.map(|(at, _)| format!("customers: line {}: ", at + 1));
        let is_named =
            expected.starts_with("the file") || named.any(|line| problem.starts_with(&line));
        assert!(is_named, "{problem}");
        assert_eq!(log(&there).await, Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_no_door_lets_in_are_not_restored() {
    let lines = export().await;
    let ada = line_with(&lines, "Ada King");
    let account = line_with(&lines, "AccountAdded");
    let session = line_with(&lines, "SessionOpened");
    let deleted = line_with(&lines, "CustomerDeleted");
    let last = lines.len() - 2;
    let data = |number, member: &str, value: Value| {
        changed(&lines, number, |event| event["data"][member] = value)
    };
    let metadata = |number, member: &str, value: Value| {
        changed(&lines, number, |event| event["metadata"][member] = value)
    };
    let member =
        |number, member: &str, value: Value| changed(&lines, number, |event| event[member] = value);
    let deleted_twice = {
        let mut lines = lines.clone();
        let mut event: Value = serde_json::from_str(&lines[ada]).unwrap();
        (event["aggregate_id"], event["sequence"]) = (json!("2"), json!(2));
        (event["type"], event["data"]) = (json!("CustomerDeleted"), json!({}));
        lines[ada] = event.to_string();
        changed(&lines, deleted, |event| event["sequence"] = json!(3))
    };
    let cases = [
        // Values that a read table would get in another form than the log, or not at all.
        (data(ada, "name", json!(" Ada ")), r#"name must be written "Ada""#),
        (data(ada, "name", json!("A\u{308}da")), r#"name must be written "Äda""#),
        (data(ada, "name", json!("\u{9b}2J")), "name must not contain control characters"),
        (data(ada, "shoe", json!(42)), r#"data has the unknown member "shoe""#),
        (data(ada, "note", json!("\0")), r#"data has the unknown member "note""#),
        (data(deleted, "name", json!("Ada")), r#"data has the unknown member "name""#),
        (data(session, "session", json!("a\0b")), "session must not contain control"),
        (data(account, "username", json!("Admin")), r#"username must be written "admin""#),
        (data(account, "username", json!("other")), "username must be the aggregate_id"),
        (
            member(deleted, "type", json!("CustomerDeleted\",\"x\":\"")),
            "type is not the name of an event",
        ),
        // What PostgreSQL and cqrs-es cannot load.
        (metadata(ada, "reason", json!("a\0b")), r#""reason" in metadata must not contain"#),
        (metadata(ada, "actor", json!("\u{1b}[2J")), r#""actor" in metadata must not contain"#),
        (metadata(ada, "x", json!(1)), "metadata: invalid type"),
        (metadata(ada, "actor", json!(null)), "metadata: invalid type"),
        (member(ada, "metadata", json!([])), "metadata: invalid type"),
        (
            changed(&lines, last, |event| {
                let time = event["recorded_at"].as_str().unwrap().replace('Z', "001Z");
                event["recorded_at"] = time.into();
            }),
            "recorded_at must be a time in microseconds",
        ),
        // An order of events that no command leads to.
        (member(ada, "type", json!("CustomerCreated")), "CustomerCreated is number 2"),
        (
            lines.join("\n").replacen("CustomerCreated", "CustomerUpdated", 1),
            "CustomerUpdated is number 1",
        ),
        (deleted_twice, "CustomerDeleted is number 3"),
        // Files that are none.
        (format!("{}{}", " ".repeat(1024 * 1024 + 1), lines.join("\n")), "line 1: is longer than"),
        ("PK\x03\x04".to_owned(), "the file is an archive"),
    ];
    refused(&lines, &cases).await;
    let (there, place) = (database().await, folder("log_import"));
    std::fs::write(place.join("log.ndjson"), b"\"K\xf6ln\"\n").unwrap();
    let (_, problem) = failed(&there, &place, &["import", "--log", "log.ndjson"]).await;
    assert!(problem.contains("line 1: is not UTF-8 (byte 0xF6)"), "{problem}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_export_does_not_write_is_refused_with_its_line() {
    let lines = export().await;
    let (ada, last) = (line_with(&lines, "Ada King"), lines.len() - 2);
    let member =
        |number, member: &str, value: Value| changed(&lines, number, |event| event[member] = value);
    let cases = [
        (
            changed(&lines, last, |event| {
                let time = event["recorded_at"].as_str().unwrap().replace('Z', "+00:00");
                event["recorded_at"] = time.into();
            }),
            "recorded_at must be written 2",
        ),
        (member(ada, "x", json!(1)), "unknown field `x`"),
        (lines.join("\n").replace("{\"summary\":{", "{\"summary\":{\"x\":1,"), "unknown field `x`"),
        (member(ada, "sequence", json!(0)), "sequence must be 1 or more"),
        (member(ada, "sequence", json!(1)), "duplicate key value"),
        (member(ada, "sequence", json!(3)), "the sequences of customer 6 have a gap"),
        (
            // The empty lines count.
            member(ada, "sequence", json!(3)).replacen('\n', "\n\n\n", 1),
            "the sequences of customer 6 have a gap",
        ),
    ];
    refused(&lines, &cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_is_restored_in_each_encoding_and_with_each_line_end() {
    let lines = export().await;
    let place = folder("log_import");
    let mut restored = vec![];
    // As a shell on Windows writes it, and with an empty line at its end.
    for end in ["\n", "\r\n", "\r"] {
        for file in encoded(&(lines.join(end) + end + end)) {
            let there = database().await;
            std::fs::write(place.join("log.ndjson"), file).unwrap();
            stdout(&there, &place, &["import", "--log", "log.ndjson"]).await;
            restored.push(log(&there).await);
        }
    }
    assert_eq!(restored[0].len(), lines.len() - 1);
    restored.dedup();
    assert_eq!(restored.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_of_an_older_version_is_restored() {
    let lines = export().await;
    let place = folder("log_import");
    let created = line_with(&lines, "CustomerCreated");
    let older: [&dyn Fn(&mut Value); 4] = [
        // An older version of an event.
        &|event| {
            event["version"] = "0".into();
            event["data"] = json!({"full_name": "Ada", "born": "1990-12-10"});
        },
        // `import --reason` took any text.
        &|event| event["metadata"]["reason"] = ("\u{1b}[2J\n".repeat(20) + &"x".repeat(600)).into(),
        // A reason was anything that is no control character.
        &|event| event["metadata"]["reason"] = "\u{200b}\u{3164}".into(),
        // A member of metadata that this version does not know.
        &|event| event["metadata"]["department"] = "sales".into(),
    ];
    for older in older {
        let there = database().await;
        std::fs::write(place.join("log.ndjson"), changed(&lines, created, older)).unwrap();
        stdout(&there, &place, &["import", "--log", "log.ndjson"]).await;
        stdout(&there, &place, &["projection", "rebuild", "customers"]).await;
        stdout(&there, &place, &["projection", "verify", "customers"]).await;
        let csv = stdout(&there, &place, &["export", "--format", "csv"]).await;
        assert!(!csv.contains(|c: char| c.is_control() && c != '\n'), "{csv:?}");
        assert_eq!(csv.lines().count(), lines.len(), "{csv:?}");
    }
    // Without the identity of the log, which older exports lack.
    let there = database().await;
    let mut lines = lines;
    let last = lines.last_mut().unwrap();
    let mut summary: Value = serde_json::from_str(last).unwrap();
    summary["summary"].as_object_mut().unwrap().remove("log");
    *last = summary.to_string();
    std::fs::write(place.join("log.ndjson"), lines.join("\n")).unwrap();
    stdout(&there, &place, &["import", "--log", "log.ndjson"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_not_migrated_is_told_to_be() {
    let (there, place) = (empty_database().await, folder("log_import"));
    std::fs::write(place.join("log.ndjson"), "{}\n").unwrap();
    let (_, problem) = failed(&there, &place, &["import", "--log", "log.ndjson"]).await;
    assert!(problem.contains("run `customers migrate`"), "{problem}");
}

/// The clock of the service checks a dob, and that of PostgreSQL tells when the event was recorded: at midnight
/// they need not agree on the day.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dob_may_be_a_day_after_its_event_and_no_more() {
    let lines = export().await;
    let (there, place) = (database().await, folder("log_import"));
    let ada = line_with(&lines, "Ada King");
    let born = |days| {
        changed(&lines, ada, |event| {
            let recorded: DateTime<Utc> = event["recorded_at"].as_str().unwrap().parse().unwrap();
            let born = (recorded + TimeDelta::days(days)).date_naive();
            event["data"]["dob"] = born.to_string().into();
        })
    };
    std::fs::write(place.join("log.ndjson"), born(2)).unwrap();
    let (_, problem) = failed(&there, &place, &["import", "--log", "log.ndjson"]).await;
    let expected = format!("line {}: dob must not be more than a day after recorded_at", ada + 1);
    assert!(problem.contains(&expected), "{problem}");
    std::fs::write(place.join("log.ndjson"), born(1)).unwrap();
    stdout(&there, &place, &["import", "--log", "log.ndjson"]).await;
    stdout(&there, &place, &["projection", "rebuild", "customers"]).await;
    stdout(&there, &place, &["projection", "verify", "customers"]).await;
}
