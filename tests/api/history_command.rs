//! `customers history` for auditors, and who ran a command that changed something.

use std::process::Command as SystemCommand;

use customers::events::values::Role;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

use crate::harness::{PASSWORD, Service, With as _, folder, send};
use crate::transfer::{run, stdout};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_is_printed_for_a_time_and_as_rows_with_from_and_to() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    let (url, place) = (service.database_url(), folder("history"));
    let body = json!({"name": "Ada", "dob": "1990-12-10"});
    assert_eq!(send(service.post("/customers").login(&admin).json(&body)).await.status, 201);
    let body = json!({"name": "=1+1", "dob": "1990-12-11"});
    let update = service.put("/customers/1").login(&admin).header("x-reason", "a, \"b\"");
    assert_eq!(send(update.header("x-request-id", "call-7").json(&body)).await.status, 200);
    assert_eq!(send(service.delete("/customers/1").login(&admin)).await.status, 200);

    let all = stdout(url, &place, &["history", "1", "--json"]).await;
    let all: Vec<Value> = all.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let at = |version: usize| all[version - 1]["at"].as_str().unwrap();
    let versions = async |more: &[&str]| -> Vec<i64> {
        let arguments = [&["history", "1", "--json"], more].concat();
        let lines = stdout(url, &place, &arguments).await;
        let version = |line: &str| serde_json::from_str::<Value>(line).unwrap()["version"].as_i64();
        lines.lines().map(|line| version(line).unwrap()).collect()
    };
    assert_eq!(versions(&[]).await, [1, 2, 3]);
    // Its beginning is in a time, and its end is not.
    assert_eq!(versions(&["--from", at(2)]).await, [2, 3]);
    assert_eq!(versions(&["--to", at(3)]).await, [1, 2]);
    assert_eq!(versions(&["--from", at(2), "--to", at(3)]).await, [2]);
    assert_eq!(versions(&["--to", "2020-01-01"]).await, [0_i64; 0]);
    assert_eq!(
        versions(&["--from", "2020-01-01", "--to", "2100-01-01T00:00:00+02:00"]).await,
        [1, 2, 3]
    );
    for wrong in ["yesterday", "2020-13-01", "2020-01-01T00:00:00"] {
        let output = run(url, &place, &["history", "1", "--from", wrong]).await;
        assert_eq!(output.status.code(), Some(2), "{wrong}");
    }

    let rows = stdout(url, &place, &["history", "1", "--csv"]).await;
    let mut reader = csv::Reader::from_reader(rows.as_bytes());
    let head: Vec<String> = reader.headers().unwrap().iter().map(str::to_owned).collect();
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    let cell = |row: &csv::StringRecord, name: &str| {
        row[head.iter().position(|known| known == name).unwrap()].to_owned()
    };
    let changes: Vec<_> = rows
        .iter()
        .map(|row| ["version", "field", "from", "to"].map(|name| cell(row, name)).join("|"))
        .collect();
    assert_eq!(
        changes,
        [
            "1|name||Ada",
            "1|dob||1990-12-10",
            "2|name|Ada|'=1+1",
            "2|dob|1990-12-10|1990-12-11",
            "3|name|'=1+1|",
            "3|dob|1990-12-11|",
        ]
    );
    let said = ["customer", "event", "actor", "role", "ip", "request_id", "reason", "position"];
    assert_eq!(
        said.map(|name| cell(&rows[2], name)),
        [
            "1",
            "CustomerUpdated",
            "admin",
            "admin",
            "127.0.0.1",
            "call-7",
            "a, \"b\"",
            &all[1]["position"].to_string()
        ]
    );
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_command_changes_names_the_user_of_the_system_that_ran_it() {
    let service = Service::start().await;
    let (url, place) = (service.database_url(), folder("history"));
    let id = SystemCommand::new("id").arg("-run").output().unwrap();
    let user = String::from_utf8(id.stdout).unwrap().trim().to_owned();
    std::fs::write(place.join("people.csv"), "name,dob\nAda,1990-12-10\n").unwrap();
    stdout(url, &place, &["demo", "--customers", "1", "--account"]).await;
    stdout(url, &place, &["import", "people.csv"]).await;
    stdout(url, &place, &["account", "role", "demo", "viewer"]).await;
    let mut connection = PgConnection::connect(url).await.unwrap();
    let recorded: Vec<(String, Option<String>, Option<String>)> = sqlx::query_as(
        "select event_type, metadata ->> 'actor', metadata ->> 'os_user' from events order by position",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let by =
        |event: &str, actor: &str| (event.to_owned(), Some(actor.to_owned()), Some(user.clone()));
    assert_eq!(
        recorded,
        [
            by("AccountAdded", "customers demo"),
            by("CustomerCreated", "customers demo"),
            by("CustomerCreated", "customers import"),
            by("RoleChanged", "customers account"),
        ]
    );
    let history = stdout(url, &place, &["history", "1"]).await;
    assert!(history.contains(&format!("customers demo  by {user}  position 2")), "{history}");
    // What clients of the API change names none.
    service.add_account("admin", Role::Admin).await;
    let login = json!({"username": "admin", "password": PASSWORD});
    assert_eq!(send(service.post("/login").json(&login)).await.status, 200);
    let last: Option<String> = sqlx::query_scalar(
        "select metadata ->> 'os_user' from events order by position desc limit 1",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert_eq!(last, None);
    service.stop().await;
}
