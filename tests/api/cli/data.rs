//! `customers demo`, `customers projection` and `customers history`: demo data, the verification and
//! rebuild of read tables, and histories.

use customers::events::values::Role;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, PgConnection};

use super::{Shell, json_lines};
use crate::harness::{Service, With as _, config_on, database, send};

async fn customers(database_url: &str) -> Vec<(i64, String, String)> {
    let mut connection = PgConnection::connect(database_url).await.unwrap();
    sqlx::query_as("select id, name, dob::text from customers order by id")
        .fetch_all(&mut connection)
        .await
        .unwrap()
}

/// The number of customers and of accounts that the log has created.
async fn counts(database_url: &str) -> (i64, i64) {
    let mut connection = PgConnection::connect(database_url).await.unwrap();
    sqlx::query_as(
        "select count(*) filter (where event_type = 'CustomerCreated'),
                count(*) filter (where event_type = 'AccountAdded') from events",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap()
}

/// The standard output of a command, which must succeed.
async fn stdout(shell: &Shell, arguments: &str) -> String {
    let ended = shell.run(arguments).await;
    assert_eq!(ended.code, 0, "{arguments}: {ended:?}");
    ended.stdout
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn person_i_is_the_same_for_every_number() {
    let mut lists = vec![];
    for number in [5, 10] {
        let url = database().await;
        let shell = Shell::on(&url);
        let expected = format!("created {number} customers\n");
        assert_eq!(stdout(&shell, &format!("demo --customers {number}")).await, expected);
        stdout(&shell, "projection rebuild customers").await;
        lists.push(customers(&url).await);
    }
    assert_eq!((lists[0].len(), lists[1].len()), (5, 10));
    assert_eq!(lists[0], lists[1][..5]);
    let mut names: Vec<_> = lists[1].iter().map(|(_, name, _)| name).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 10, "two customers have the same name");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn demo_customers_are_appended_unless_there_are_some() {
    let url = database().await;
    let shell = Shell::on(&url);
    stdout(&shell, "demo --customers 2 --if-empty").await;
    assert_eq!(counts(&url).await.0, 2);
    stdout(&shell, "demo --customers 2 --if-empty").await;
    assert_eq!(counts(&url).await.0, 2);
    stdout(&shell, "demo --customers 3").await;
    assert_eq!(counts(&url).await.0, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_account_is_made_once() {
    let url = database().await;
    let shell = Shell::on(&url);
    for _ in 0..2 {
        stdout(&shell, "demo --account").await;
        assert_eq!(counts(&url).await, (0, 1));
    }
    let accounts = json_lines(&stdout(&shell, "account list --json").await);
    assert_eq!((&accounts[0]["username"], &accounts[0]["role"]), (&json!("demo"), &json!("admin")));
    let service = Service::with(config_on(&url)).await;
    let body = json!({"username": "demo", "password": "demo-password"});
    let answer = crate::harness::send(service.post("/login").json(&body)).await;
    assert_eq!(answer.status, 200);
}

/// The statuses without `lag_seconds`. Checks that it is positive exactly when `lag_events` is.
fn statuses(text: &str) -> Vec<Value> {
    let mut all = json_lines(text);
    for status in &mut all {
        let seconds = status.as_object_mut().unwrap().remove("lag_seconds").unwrap();
        assert_eq!(seconds.as_f64().unwrap() > 0.0, status["lag_events"] != 0, "{text}");
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_says_how_far_a_projection_is() {
    let shell = Shell::migrated().await;
    stdout(&shell, "demo --customers 3").await;
    let status = |name, checkpoint| {
        json!({"name": name, "version": 1, "state": "following", "checkpoint": checkpoint,
            "head": 3, "lag_events": 3 - checkpoint, "parked": 0, "rebuild": null})
    };
    let json = stdout(&shell, "projection status --json").await;
    let expected = ["customers", "customer_history", "customer_search"].map(|name| status(name, 0));
    assert_eq!(statuses(&json), expected, "no projector runs in this test");
    stdout(&shell, "projection rebuild customers").await;
    stdout(&shell, "projection rebuild customer_history").await;
    stdout(&shell, "projection rebuild customer_search").await;
    let json = stdout(&shell, "projection status --json").await;
    let expected = ["customers", "customer_history", "customer_search"].map(|name| status(name, 3));
    assert_eq!(statuses(&json), expected);
    let plain = stdout(&shell, "projection status").await;
    let expected = "customers        checkpoint 3, head 3, lag 0\n\
                    customer_history checkpoint 3, head 3, lag 0\n\
                    customer_search  checkpoint 3, head 3, lag 0\n";
    assert_eq!(plain, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_difference_is_found_and_named_and_a_rebuild_mends_it() {
    let url = database().await;
    let shell = Shell::on(&url);
    stdout(&shell, "projection verify customers").await;
    stdout(&shell, "demo --customers 5").await;
    stdout(&shell, "projection rebuild customers").await;
    stdout(&shell, "projection verify customers").await;
    let good = customers(&url).await;
    let id = good[2].0;
    for damage in [
        format!("update customers set name = 'x' where id = {id}"),
        format!("update customers set version = 2 where id = {id}"),
        format!("update customers set updated_at = updated_at + interval '1 us' where id = {id}"),
        format!("delete from customers where id = {id}"),
    ] {
        let mut connection = PgConnection::connect(&url).await.unwrap();
        connection.execute(damage.as_str()).await.unwrap();
        let ended = shell.run("projection verify customers").await;
        assert_eq!(ended.code, 1, "{damage}: {ended:?}");
        assert!(ended.stdout.contains(&format!("customer {id}:")), "{damage}: {ended:?}");
        stdout(&shell, "projection rebuild customers").await;
        stdout(&shell, "projection verify customers").await;
        assert_eq!(customers(&url).await, good);
    }
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let more = "insert into customers select 999, name, dob, version, created_at, updated_at
                from customers limit 1";
    connection.execute(more).await.unwrap();
    let ended = shell.run("projection verify customers").await;
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.stdout.contains("customer 999:"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_projection_fails_and_names_those_there_are() {
    let shell = Shell::migrated().await;
    for what in ["rebuild", "verify"] {
        let ended = shell.run(&format!("projection {what} nothing")).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (2, ""), "{ended:?}");
        assert!(ended.stderr.contains("there are: customers"), "{ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_on_the_command_line_is_the_one_that_the_route_shows() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    let ask = |method, path: &str| service.request(method, path).token(&admin);
    let body = json!({"name": "Ada Byron", "dob": "1990-12-10"});
    assert_eq!(send(ask(Method::POST, "/customers").json(&body)).await.status, 201);
    let body = json!({"name": "Ada Lovelace", "dob": "1990-12-10"});
    let update = ask(Method::PUT, "/customers/1").header("x-reason", "married").json(&body);
    assert_eq!(send(update).await.status, 200);
    assert_eq!(send(ask(Method::DELETE, "/customers/1")).await.status, 200);
    let shown = send(ask(Method::GET, "/customers/1/history")).await.body["history"].clone();

    let shell = Shell::on(service.database_url());
    let told = json_lines(&stdout(&shell, "history 1 --json").await);
    assert_eq!(told.len(), 3);
    assert_eq!(Value::Array(told), shown);
    let plain = stdout(&shell, "history 1").await;
    let update = plain.lines().nth(1).unwrap();
    for part in ["CustomerUpdated", "admin", r#"name: "Ada Byron" -> "Ada Lovelace""#, "(married)"]
    {
        assert!(update.contains(part), "{part}: {update}");
    }
    let never = shell.run("history 2").await;
    assert_eq!(never.code, 1);
    assert!(never.stderr.contains("customer 2"), "{never:?}");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_is_rolled_back_and_what_is_parked_retried_by_name() {
    let url = database().await;
    let shell = Shell::on(&url);
    stdout(&shell, "demo --customers 3").await;
    let nothing = shell.run("projection rollback customers").await;
    assert_eq!(nothing.code, 1, "there is nothing to go back to: {nothing:?}");
    stdout(&shell, "projection rebuild customers").await;
    let mut connection = PgConnection::connect(&url).await.unwrap();
    connection.execute("update customers set name = 'x'").await.unwrap();
    stdout(&shell, "projection rollback customers").await;
    stdout(&shell, "projection verify customers").await;
    stdout(&shell, "projection retry customers").await;
}
