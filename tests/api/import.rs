//! `POST /customers/import`: creates many customers from one body, in NDJSON or CSV.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use customers::api::import::PER_ACCOUNT;
use customers::auth::account::Accounts;
use customers::commands::Bus;
use customers::config::Config;
use customers::demo;
use customers::events::customer::{CUSTOMER, CustomerEvent, CustomerValues};
use customers::events::log::{Append, NewEvent, append};
use customers::events::metadata::Metadata;
use customers::events::values::{Role, Username};
use futures_util::future::select_all;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{
    Answer, Login, PATIENCE, Service, With as _, config, folder, send, until, variables,
};
use crate::process::{Process, command};
use crate::sessions::verdict;

fn import(service: &Service, login: &Login, kind: &'static str) -> RequestBuilder {
    service.post("/customers/import").login(login).header("content-type", kind)
}

const NDJSON: &str = "application/x-ndjson";
const CSV: &str = "text/csv; charset=utf-8";

fn lines(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    answer.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn summary(answer: &Answer) -> Value {
    lines(answer).pop().unwrap()["summary"].clone()
}

/// An NDJSON file of `number` customers with different names.
fn people(number: u64) -> String {
    let mut file = String::new();
    for i in 0..number {
        let (_, dob) = demo::person(i);
        writeln!(file, "{{\"name\":\"Person {i}\",\"dob\":\"{dob}\"}}").unwrap();
    }
    file
}

/// The number of created customers in the log, and of their different names.
async fn created(database_url: &str) -> (i64, i64) {
    let mut connection = PgConnection::connect(database_url).await.unwrap();
    sqlx::query_as(
        "select count(*), count(distinct payload ->> 'name') from events
         where event_type = 'CustomerCreated'",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap()
}

#[tokio::test]
async fn good_lines_are_created_and_bad_ones_named() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    let long = "x".repeat(70_000);
    let file = [
        r#"{"name":" Ada ","dob":"1990-12-10","shoe":42}"#,
        "",
        r#"{"name":"","dob":"2990-12-10"}"#,
        r#"{"name":null,"dob":19901210}"#,
        "{}",
        "nonsense",
        r#"["Ada","1990-12-10"]"#,
        r#"{"name":"Ada","name":"Eve","dob":"1990-12-10"}"#,
        &long,
        r#"{"name":"Grace","dob":"1906-12-09"}"#,
    ]
    .join("\n");
    let request = import(&service, &editor, NDJSON).header("x-reason", "from the old system");
    let answer = send(request.body(format!("\u{feff}{file}"))).await;
    insta::assert_snapshot!("import_ndjson", answer.text);
    let customers = send(service.get("/customers").login(&editor)).await;
    let names: Vec<_> = customers.body["customers"].as_array().unwrap().iter().collect();
    assert_eq!(
        (names[0]["name"].as_str(), names[1]["name"].as_str()),
        (Some("Ada"), Some("Grace"))
    );
    assert_eq!(names.len(), 2);

    let admin = service.log_in_as(Role::Admin).await;
    let history = send(service.get("/customers/1/history").login(&admin)).await;
    let entry = &history.body["history"][0];
    assert_eq!(
        (&entry["actor"], &entry["reason"]),
        (&json!("editor"), &json!("from the old system"))
    );

    let file = "Born, DOB ,name\n1,1990-12-10,\"Ada, \"\"the first\"\"\"\n\n2,1990-12-10\n3,10.12.1990,\"two\nlines\"\n\r\n4,1906-12-09,Grace\r\n5,x,Eve";
    let answer = send(import(&service, &editor, CSV).body(file)).await;
    insta::assert_snapshot!("import_csv", answer.text);
    // The lines after an unclosed quote are lost, but take no memory.
    let file = format!("name,dob\nAda,1990-12-10\n\"Eve,1990-12-10\n{}", "x\n".repeat(200_000));
    let answer = send(import(&service, &editor, CSV).body(file)).await;
    insta::assert_snapshot!("import_open_quote", answer.text);
    service.stop().await;
}

#[tokio::test]
async fn a_repeat_under_the_same_id_does_nothing_twice() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    let admin = service.log_in_as(Role::Admin).await;
    let file = people(300) + "nonsense\n";
    let run = |login, file: &str| {
        send(import(&service, login, NDJSON).header("import-id", "may").body(file.to_owned()))
    };
    let first = run(&editor, &file).await;
    assert_eq!(summary(&first)["created"], 300);
    let head = summary(&first)["last_position"].clone();
    assert_eq!(run(&editor, &file).await.text, first.text);
    assert_eq!(created(service.database_url()).await, (300, 300));
    // Another file with the same import id.
    let other = run(&editor, &people(2)).await;
    assert_eq!(
        (other.status, &other.body["type"]),
        (422, &json!("/problems/idempotency-mismatch"))
    );
    // An import id belongs to one account. Without an import id every request is a new import.
    assert_eq!(summary(&run(&admin, &file).await)["created"], 300);
    let again = send(import(&service, &editor, NDJSON).body(file.clone())).await;
    assert_ne!(summary(&again)["last_position"], head);
    assert_eq!(created(service.database_url()).await, (900, 300));
    let mut connection = PgConnection::connect(service.database_url()).await.unwrap();
    let kept: i64 = sqlx::query_scalar("select count(*) from imports")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(kept, 2, "an import without an id is not kept");
    // Two concurrent requests with one import id create each customer once.
    let both = people(2000).replace("Person", "Both");
    let run =
        || send(import(&service, &editor, NDJSON).header("import-id", "two").body(both.clone()));
    let (one, two) = tokio::join!(run(), run());
    assert_eq!((summary(&one), summary(&one)["created"].clone()), (summary(&two), json!(2000)));
    assert_eq!(created(service.database_url()).await, (2900, 2300));
    service.stop().await;
}

#[tokio::test]
async fn what_cannot_be_imported_is_refused_before_anything_is_written() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    let viewer = service.log_in_as(Role::Viewer).await;
    let ask = |kind| import(&service, &editor, kind).body("");
    assert_eq!(verdict(import(&service, &viewer, NDJSON).body("{}")).await, "403 forbidden");
    for kind in ["application/json", "text/plain", "", "text/csv;", "multipart/form-data"] {
        let expected =
            if kind == "text/csv;" { "422 invalid" } else { "415 unsupported-media-type" };
        assert_eq!(verdict(ask(kind)).await, expected, "{kind}");
    }
    let packed = ask(NDJSON).header("content-encoding", "br");
    assert_eq!(verdict(packed).await, "415 unsupported-media-type");
    for id in ["", "two words", "é", &"x".repeat(256)] {
        let answer = send(ask(NDJSON).header("import-id", id)).await;
        assert_eq!(answer.body["errors"][0]["field"], "import-id", "{id}");
        assert_eq!(answer.status, 400);
    }
    for header in ["", "name", "dob|name", "name,name,dob", "\"open"] {
        let answer = send(import(&service, &editor, CSV).body(format!("{header}\nAda"))).await;
        assert_eq!(
            (answer.status, &answer.body["type"]),
            (422, &json!("/problems/invalid")),
            "{header}"
        );
    }
    assert_eq!(created(service.database_url()).await, (0, 0));
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_connections_and_taken_ids_change_nothing() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    // Some ids are taken already, as after an import of customers with their ids.
    let (name, dob) = demo::person(1);
    for id in (40..4000).step_by(700) {
        let command = Append {
            command_id: customers::clock::new_id(),
            aggregate_type: CUSTOMER,
            aggregate_id: id.to_string(),
            expected: Some(0),
            events: vec![NewEvent::from(&CustomerEvent::created(CustomerValues::new(
                name.clone(),
                dob,
            )))],
            metadata: Metadata::of_program("test").into(),
            key: None,
            external_id: None,
        };
        let mut owner = PgConnection::connect(service.database_url()).await.unwrap();
        append(&mut owner, [&command]).await.unwrap();
    }
    let over = AtomicBool::new(false);
    let cutting = async {
        let mut admin = PgConnection::connect(service.database_url()).await.unwrap();
        while !over.load(Ordering::Relaxed) {
            let importing = "select pg_terminate_backend(pid) from pg_stat_activity
                             where datname = current_database() and query like '%import_customers%'
                               and pid <> pg_backend_pid()";
            admin.execute(importing).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    let importing = async {
        // The cuts delay the import, the more so on a busy machine.
        let request = import(&service, &editor, NDJSON).timeout(PATIENCE * 3);
        let answer = send(request.body(people(5000))).await;
        over.store(true, Ordering::Relaxed);
        answer
    };
    let (answer, ()) = tokio::join!(importing, cutting);
    assert_eq!(summary(&answer)["created"], 5000, "{}", answer.text);
    let there_before = 6;
    assert_eq!(created(service.database_url()).await, (5000 + there_before, 5001));
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_goes_on_when_its_client_has_gone() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    let answer =
        import(&service, &editor, NDJSON).body(people(5000) + "bad\n").send().await.unwrap();
    drop(answer);
    let all = async || created(service.database_url()).await == (5000, 5000);
    until("all customers are created", all).await;
    service.stop().await;
}

/// Starts a second process on the database of `service`.
async fn process(service: &Service) -> Process {
    let mut serve = command(&["serve"], &folder("import"));
    serve.envs(variables(service.database_url()));
    Process::start(serve).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_was_killed_goes_on_where_it_stopped_on_another_process() {
    let service = Service::start().await;
    service.add_account("editor", Role::Editor).await;
    let (one, two) = (process(&service).await, process(&service).await);
    let (login_one, login_two) = (one.log_in("editor").await, two.log_in("editor").await);
    let file = people(20_000) + "bad\n";
    let ask = |process: &Process, login: &Login| {
        process
            .request(Method::POST, "/customers/import")
            .login(login)
            .header("content-type", NDJSON)
            .header("import-id", "big")
            .body(file.clone())
    };
    let sending = tokio::spawn(ask(&one, &login_one).send());
    until("a part is imported", async || created(service.database_url()).await.0 > 2000).await;
    one.kill().await;
    if let Ok(Ok(answer)) = sending.await {
        assert!(!answer.text().await.is_ok_and(|text| text.contains("summary")));
    }
    assert!(created(service.database_url()).await.0 < 20_000, "the kill came too late");
    let answer = send(ask(&two, &login_two)).await;
    let expected = json!({
        "lines": 20_001,
        "created": 20_000,
        "refused": 1,
        "last_position": summary(&answer)["last_position"],
    });
    assert_eq!(summary(&answer), expected);
    assert_eq!(created(service.database_url()).await, (20_000, 20_000));
    assert_eq!(two.end(rustix::process::Signal::TERM).await, Some(0));
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_import_takes_little_memory_and_leaves_room_for_others() {
    let service = Service::start().await;
    service.add_account("editor", Role::Editor).await;
    let process = process(&service).await;
    let login = process.log_in("editor").await;
    let before = process.resident();
    let over = AtomicBool::new(false);
    let importing = async {
        let request = process
            .request(Method::POST, "/customers/import")
            .timeout(std::time::Duration::from_mins(3));
        let request = request.login(&login).header("content-type", NDJSON);
        let answer = send(request.body(people(100_000))).await;
        over.store(true, Ordering::Relaxed);
        answer
    };
    let others = async {
        let (mut written, mut most) = (0, 0);
        while !over.load(Ordering::Relaxed) {
            let body = json!({"name": "Somebody else", "dob": "1990-12-10"});
            let write = process.request(Method::POST, "/customers").login(&login).json(&body);
            assert_eq!(send(write).await.status, 201);
            let read = process.request(Method::GET, "/customers?numbers=10").login(&login);
            assert_eq!(send(read).await.status, 200);
            written += 1;
            most = most.max(process.resident());
        }
        (written, most)
    };
    let (answer, (written, most)) = tokio::join!(importing, others);
    assert_eq!(summary(&answer)["created"], 100_000, "{}", answer.text);
    println!("{before} MiB before, {most} MiB at most; {written} other writes meanwhile");
    assert!(most < 150, "{most} MiB");
    assert!(written > 10, "the import blocked the other writer");
    assert_eq!(created(service.database_url()).await.0, 100_000 + written);
    process.kill().await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn imports_leave_half_of_the_log_to_those_who_write_beside_them() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    let bus = Bus::new(service.pools.appender.clone(), service.pools.short.clone());
    let over = Arc::new(AtomicBool::new(false));
    let writers = (0..512).map(|writer| {
        let (bus, over) = (bus.clone(), Arc::clone(&over));
        tokio::spawn(async move {
            while !over.load(Ordering::Relaxed) {
                let (name, dob) = demo::person(writer);
                bus.create(CustomerValues::new(name, dob), Metadata::of_program("writer"))
                    .await
                    .unwrap();
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    // Two concurrent imports together get no larger share of the log than one.
    let run = || send(import(&service, &editor, NDJSON).body(people(6000)));
    let (one, two) = tokio::join!(run(), run());
    over.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(
        (&summary(&one)["created"], &summary(&two)["created"]),
        (&json!(6000), &json!(6000))
    );
    let mut connection = PgConnection::connect(service.database_url()).await.unwrap();
    let (imported, others): (i64, i64) = sqlx::query_as(
        "with imported as (
             select min(position) as first, max(position) as last, count(*) as number
             from events where metadata ->> 'actor' = 'editor' and aggregate_type = 'customer'
         )
         select number, last - first + 1 - number from imported",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    // Imports leave half of the log to other writers. How much of it the writers use depends on the
    // machine, which other tests load too, so the test requires only a third.
    assert!(others * 2 >= imported, "{imported} by imports, {others} by others meanwhile");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_and_long_lists_wait_in_the_configured_folder() {
    let spool = folder("spool");
    let service = Service::with(Config { spool_dir: Some(spool.clone()), ..config().await }).await;
    let admin = service.log_in_as(Role::Admin).await;
    let line = |n: u32| format!("{{\"name\":\"Person {n}\",\"dob\":\"1990-12-10\"}}");
    let lines = (0..3000).map(line).collect::<Vec<_>>().join("\n");
    let import = || send(import(&service, &admin, NDJSON).body(lines.clone()));
    assert_eq!(import().await.status, 200);
    let list = || send(service.get("/customers").login(&admin));
    assert_eq!(list().await.body["number"], 3000);
    // Without the folder no body or list can be spilled, so imports and long lists are refused.
    std::fs::remove_dir(&spool).unwrap();
    for answer in [import().await, list().await] {
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{answer:?}");
    }
    assert_eq!(send(service.get("/customers?numbers=1").login(&admin)).await.status, 200);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_ends_when_its_account_is_disabled() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    let number = 100_000;
    let importing = import(&service, &editor, NDJSON).body(people(number));
    let importing = tokio::spawn(send(importing));
    let some = async || created(service.database_url()).await.0 > 500;
    until("the import has begun", some).await;
    let name = Username::parse("editor").unwrap();
    let accounts = Accounts::new(service.pools.accounts.clone(), service.pools.appender.clone());
    let disabled = accounts.disable(&name, Metadata::of_program("a test")).await.unwrap();
    let answer = importing.await.unwrap();
    let last = lines(&answer).pop().unwrap();
    assert_eq!(last["error"]["type"], "/problems/unauthenticated", "{last}");
    let after: i64 = sqlx::query_scalar(
        "select max(position) - $1 from events where event_type = 'CustomerCreated'",
    )
    .bind(disabled.position)
    .fetch_one(&service.pools.long)
    .await
    .unwrap();
    let (total, _) = created(service.database_url()).await;
    assert!(
        total < i64::try_from(number).unwrap(),
        "{total} in all, {after} after the account was disabled"
    );
    service.stop().await;
}

/// Sends the head and the first lines of an import, and no more.
async fn unfinished_import(service: &Service, login: &Login) -> TcpStream {
    let mut stream = TcpStream::connect(service.address).await.unwrap();
    let head = format!(
        "POST /customers/import HTTP/1.1\r\nHost: customers.test\r\nAuthorization: Bearer {}\r\n\
         Content-Type: text/csv\r\nContent-Length: 1000\r\n\r\nname,dob\nAda,1990-12-10\n",
        login.token
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_arrive_slowly_keep_no_import_out() {
    let service = Service::start().await;
    let mut slow = vec![];
    for name in ["one", "two", "three"] {
        service.add_account(name, Role::Editor).await;
        let login = service.log_in(name).await;
        let mut answers = vec![];
        // One more than the account may have, whichever of them comes last.
        for _ in 0..=PER_ACCOUNT {
            let mut stream = unfinished_import(&service, &login).await;
            answers.push(Box::pin(async move {
                let mut answer = vec![0; 12];
                stream.read_exact(&mut answer).await.unwrap();
                answer
            }));
        }
        let (answer, _, waiting) = select_all(answers).await;
        assert_eq!(answer, b"HTTP/1.1 429");
        slow.extend(waiting);
    }
    let editor = service.log_in_as(Role::Editor).await;
    let answer = send(import(&service, &editor, NDJSON).body(people(10))).await;
    assert_eq!(summary(&answer)["created"], 10, "{answer:?}");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_bad_lines_ends_early_and_one_with_good_lines_does_not() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    let answer = send(import(&service, &editor, NDJSON).body("{}\n".repeat(100_000))).await;
    let mut all = lines(&answer);
    let last = all.pop().unwrap();
    assert_eq!(last["error"]["type"], "/problems/invalid", "{last}");
    assert!((10_000..11_000).contains(&all.len()), "{} lines", all.len());
    let mixed = "{}\n".repeat(10_500) + &people(11_000);
    let answer = send(import(&service, &editor, NDJSON).body(mixed)).await;
    assert_eq!(lines(&answer).pop().unwrap()["error"]["status"], 422, "bad lines come first");
    let mixed = people(11_000) + &"{}\n".repeat(10_500);
    let answer = send(import(&service, &editor, NDJSON).body(mixed)).await;
    assert_eq!(
        (&summary(&answer)["created"], &summary(&answer)["refused"]),
        (&json!(11_000), &json!(10_500))
    );
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spool_files_have_a_budget() {
    let limit = 512 * 1024;
    let service = Service::with(Config { spool_limit: limit, ..config().await }).await;
    let editor = service.log_in_as(Role::Editor).await;
    for _ in 0..3 {
        // Each import fits, and gives its bytes back.
        let answer = send(import(&service, &editor, NDJSON).body(people(6000))).await;
        assert_eq!(summary(&answer)["created"], 6000, "{answer:?}");
    }
    for refused in [
        send(import(&service, &editor, NDJSON).body(people(20_000))).await,
        send(service.get("/customers").login(&editor)).await,
    ] {
        assert_eq!(refused.status, 503, "{refused:?}");
        assert_eq!(refused.body["type"], "/problems/overloaded");
        assert_eq!(refused.body["detail"], "the spool space is used up");
    }
    assert_eq!(send(service.get("/customers?numbers=1000").login(&editor)).await.status, 200);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_arrives_after_its_session_has_ended_imports_nothing() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    let again = service.log_in("editor").await;
    let mut stream = unfinished_import(&service, &editor).await;
    assert_eq!(verdict(service.delete("/logout").token(&editor)).await, "200");
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 401");
    // Its slot is free.
    for _ in 0..PER_ACCOUNT {
        let answer = send(import(&service, &again, NDJSON).body(people(1))).await;
        assert_eq!(summary(&answer)["created"], 1, "{answer:?}");
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_stops_because_of_its_lines_is_no_error_in_the_log() {
    let service = Service::start().await;
    service.add_account("editor", Role::Editor).await;
    let place = folder("import");
    let log = place.join("log");
    let mut serve = command(&["serve"], &place);
    serve.envs(variables(service.database_url())).env("CUSTOMERS_LOG", "info");
    let process = Process::start({
        serve.stderr(std::fs::File::create(&log).unwrap());
        serve
    })
    .await;
    let editor = process.log_in("editor").await;
    let import = process.request(Method::POST, "/customers/import").login(&editor);
    let bad = import.header("content-type", NDJSON).body("[]\n".repeat(12_000));
    let answer = send(bad).await;
    let last: Value = serde_json::from_str(answer.text.lines().last().unwrap()).unwrap();
    assert_eq!(last["error"]["status"], 422, "{last}");
    assert_eq!(process.end(rustix::process::Signal::TERM).await, Some(0));
    let told = std::fs::read_to_string(&log).unwrap();
    assert!(told.contains("import: stopped") && !told.contains("ERROR"), "{told}");
    service.stop().await;
}
