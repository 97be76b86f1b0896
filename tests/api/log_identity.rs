//! The identity of the log: shown with every event, and checked for a consumer that brings it.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;

use customers::events::values::Role;
use customers::schema;
use secrecy::SecretString;
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::harness::{
    Answer, Login, Service, With as _, config_on, database, folder, send, unique_name, until,
    variables,
};
use crate::process::{Process, command};
use crate::sessions::verdict;

async fn customers(database_url: &str, arguments: &[&str]) -> Output {
    let mut command = command(arguments, &folder("log"));
    command.envs(variables(database_url)).output().await.unwrap()
}

/// The standard output of a command, which must succeed.
async fn stdout(database_url: &str, arguments: &[&str]) -> String {
    let output = customers(database_url, arguments).await;
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

async fn get(service: &Service, login: &Login, path: &str) -> Answer {
    send(service.get(path).login(login)).await
}

async fn create(service: &Service, login: &Login) -> i64 {
    let body = json!({"name": "Ada", "dob": "1990-12-10"});
    let created = send(service.post("/customers").login(login).json(&body)).await;
    assert_eq!(created.status, 201, "{created:?}");
    created.position()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_of_the_feed_names_its_log() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    create(&service, &admin).await;
    let page = get(&service, &admin, "/events").await;
    let log = page.body["log"].as_str().unwrap().to_owned();
    for (accept, query) in [
        ("application/json", "?log="),
        ("application/x-ndjson", "?type=CustomerDeleted&log="),
        ("application/cloudevents-batch+json", "?limit=1&log="),
    ] {
        let path = format!("/events{query}{log}");
        let page = send(service.get(&path).login(&admin).header("accept", accept)).await;
        assert_eq!((page.status, page.header("event-log")), (200, Some(log.as_str())), "{accept}");
        if page.body.is_array() {
            let source = format!("http://customers.test/events?log={log}");
            assert_eq!(page.body[0]["source"], source);
        }
    }
    let stream = format!("/events/stream?log={log}");
    let stream = service.get(&stream).login(&admin).send().await.unwrap();
    assert_eq!(
        (stream.status().as_u16(), stream.headers()["event-log"].to_str().unwrap()),
        (200, log.as_str())
    );

    for route in ["/events", "/events/stream"] {
        for bad in ["", "7", "nonsense"] {
            let answer = get(&service, &admin, &format!("{route}?log={bad}")).await;
            assert_eq!(answer.status, 400, "{answer:?}");
            let expected = json!([{"field": "log", "detail": "must be the id of a log"}]);
            assert_eq!(answer.body["errors"], expected);
        }
        // An id that this log never had.
        let unknown = format!("{route}?log=11111111-2222-4333-8444-555555555555");
        let answer = get(&service, &admin, &unknown).await;
        assert_eq!((answer.status, &answer.body["log"]), (409, &json!(log)), "{answer:?}");
        assert_eq!(answer.body["type"], "/problems/log-restarted");
        assert!(answer.body.get("restarted_after").is_none(), "{answer:?}");
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_log_is_told_to_its_consumers_while_the_service_runs() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    let old = get(&service, &admin, "/events").await.body["log"].as_str().unwrap().to_owned();
    // One stream at the end of the log, and one that reads from its beginning.
    let mut streams = vec![];
    for after in ["", "&after=0"] {
        let path = format!("/events/stream?log={old}{after}");
        streams.push(service.get(&path).login(&admin).send().await.unwrap());
    }
    let before = create(&service, &admin).await;
    let told = stdout(service.database_url(), &["log", "restart"]).await;
    let (first, second) = told.trim_end().split_once('\n').unwrap();
    let ended = format!("ended at position {before}");
    assert!(first.starts_with(&format!("log {old}: from ")) && first.ends_with(&ended), "{told}");
    assert!(second.ends_with(", current"), "{told}");
    create(&service, &admin).await;
    for mut stream in streams {
        let mut text = String::new();
        while let Some(bytes) = stream.chunk().await.unwrap() {
            text += std::str::from_utf8(&bytes).unwrap();
        }
        // The stream has nothing of the new log.
        assert!(!text.contains(&format!("id: {}\n", before + 1)), "{text}");
    }

    let new = get(&service, &admin, "/events").await.body["log"].as_str().unwrap().to_owned();
    assert!(second.starts_with(&format!("log {new}: since ")), "{told}");
    let expected = (409, json!(new), json!(before));
    for path in ["/events?after=0", "/events?after=999999", "/events/stream?after=0"] {
        let answer = get(&service, &admin, &format!("{path}&log={old}")).await;
        let told =
            (answer.status, answer.body["log"].clone(), answer.body["restarted_after"].clone());
        assert_eq!(told, expected, "{answer:?}");
    }
    // As a browser reconnects.
    let back = service.get(&format!("/events/stream?log={old}")).header("last-event-id", before);
    assert_eq!(verdict(back.login(&admin)).await, "409 log-restarted");
    assert_eq!(
        get(&service, &admin, &format!("/events?after={before}&log={new}")).await.status,
        200
    );
    let stream = format!("/events/stream?after={before}&log={new}");
    let mut stream = service.get(&stream).login(&admin).send().await.unwrap();
    let mut text = String::new();
    while !text.contains(&format!("id: {}\n", before + 1)) {
        text += std::str::from_utf8(&stream.chunk().await.unwrap().unwrap()).unwrap();
    }

    let shown = stdout(service.database_url(), &["log", "show", "--json"]).await;
    let shown: Vec<Value> = shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let shown: Vec<_> = shown.iter().map(|one| (&one["log"], &one["last_position"])).collect();
    assert_eq!(shown, [(&json!(old), &json!(before)), (&json!(new), &Value::Null)]);
    service.stop().await;
}

#[tokio::test]
async fn the_services_role_cannot_restart_the_log() {
    let owner = database().await;
    let role = unique_name("role");
    let mut admin = PgConnection::connect(&owner).await.unwrap();
    let create = format!("create role {role} login password 'secret'");
    admin.execute(create.as_str()).await.unwrap();
    let (_, host) = owner.split_once('@').unwrap();
    let url = format!("postgres://{role}:secret@{host}");
    let secret = |url: &str| SecretString::from(url);
    schema::migrate(&secret(&owner), Some(&secret(&url))).await.unwrap();
    let before = stdout(&url, &["log", "show"]).await;
    let refused = customers(&url, &["log", "restart"]).await;
    let text = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{text}");
    assert!(text.contains("CUSTOMERS_OWNER_DATABASE_URL"), "{text}");
    assert_eq!(stdout(&url, &["log", "show"]).await, before);
    let mut restart = command(&["log", "restart"], &folder("log"));
    restart.envs(variables(&url)).env("CUSTOMERS_OWNER_DATABASE_URL", &owner);
    assert!(restart.output().await.unwrap().status.success());
    assert_ne!(stdout(&url, &["log", "show"]).await, before);
}

#[tokio::test]
async fn a_restart_of_the_log_takes_the_address_and_the_settings_of_every_command() {
    let url = database().await;
    let mut admin = PgConnection::connect(&url).await.unwrap();
    let name = url.rsplit_once('/').unwrap().1.split('?').next().unwrap();
    // Without the settings of the service the tables are not found, and the lock is not waited for.
    for setting in ["search_path = pg_temp", "default_transaction_isolation = serializable"] {
        admin.execute(format!("alter database {name} set {setting}").as_str()).await.unwrap();
    }
    let (start, host) = url.split_once('@').unwrap();
    let (user, password) = start.split_once("://").unwrap().1.split_once(':').unwrap();
    let folder = folder("log");
    let passfile = folder.join("passfile");
    std::fs::write(&passfile, format!("*:*:*:*:{password}\n")).unwrap();
    std::fs::set_permissions(&passfile, std::fs::Permissions::from_mode(0o600)).unwrap();
    let parameters = format!("passfile={}&target_session_attrs=read-write", passfile.display());
    // The first of two hosts does not answer.
    let owner = format!("postgres://{user}@127.0.0.1:1,{host}");
    let owner = format!("{owner}{}{parameters}", if host.contains('?') { '&' } else { '?' });
    let before = stdout(&url, &["log", "show"]).await;
    let mut restart = command(&["log", "restart"], &folder);
    restart.envs(variables(&url)).env("CUSTOMERS_OWNER_DATABASE_URL", &owner);
    let restarted = restart.output().await.unwrap();
    let told = String::from_utf8(restarted.stderr).unwrap();
    assert!(restarted.status.success(), "{told}");
    assert!(!told.contains("passfile") && !told.contains("read-write"), "{told}");
    assert_ne!(stdout(&url, &["log", "show"]).await, before);
}

#[tokio::test]
async fn a_log_without_an_identity_is_named_at_the_start_and_gets_one() {
    // As in a copy of single tables.
    let url = database().await;
    let mut owner = PgConnection::connect(&url).await.unwrap();
    owner.execute("delete from log_identities").await.unwrap();
    let refused = customers(&url, &["serve"]).await;
    let text = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{text}");
    assert!(text.contains("run `customers log restart`"), "{text}");
    let told = stdout(&url, &["log", "restart"]).await;
    assert!(told.lines().count() == 1 && told.trim_end().ends_with(", current"), "{told}");
    Service::with(config_on(&url)).await.stop().await;
}

/// Inserts customers with the ids 1 to `number` into the log, as a logical copy does, without a sequence.
async fn insert(database_url: &str, number: i64) {
    let mut owner = PgConnection::connect(database_url).await.unwrap();
    sqlx::query(
        r#"insert into events select n, 'customer', n::text, 1, 'CustomerCreated', '1',
             '{"type":"CustomerCreated","name":"Ada","dob":"1990-12-10"}', '{}', gen_random_uuid(),
             timestamptz '2026-01-01' + n * interval '1 microsecond'
           from generate_series(1, $1) n"#,
    )
    .bind(number)
    .execute(&mut owner)
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn creates_and_imports_skip_the_ids_that_the_log_has() {
    const TAKEN: i64 = 6_000;
    // The histories have them, or do not have them yet.
    for caught_up in [true, false] {
        let url = database().await;
        insert(&url, TAKEN).await;
        let service = Service::with(config_on(&url)).await;
        let mut owner = PgConnection::connect(&url).await.unwrap();
        let admin = service.log_in_as(Role::Admin).await;
        if caught_up {
            service.caught_up().await;
        }
        owner.execute("set default_transaction_isolation = 'read committed'").await.unwrap();
        let mut holding = owner.begin().await.unwrap();
        if !caught_up {
            holding.execute("select from projections for update").await.unwrap();
        }
        let create = || {
            let body = json!({"name": "Ada", "dob": "1990-12-10"});
            let create = service.post("/customers").login(&admin).header("prefer", "respond-async");
            let create = create.json(&body);
            tokio::spawn(async move { send(create).await })
        };
        let mut ids = vec![];
        for created in (0..20).map(|_| create()).collect::<Vec<_>>() {
            let created = created.await.unwrap();
            assert_eq!(created.status, 201, "{created:?}");
            ids.push(created.body["id"].as_i64().unwrap());
        }
        ids.sort_unstable();
        ids.dedup();
        assert!(ids.len() == 20 && ids[0] > TAKEN && ids[19] < TAKEN + 200, "{ids:?}");
        holding.rollback().await.unwrap();

        // An import, after the sequence has fallen back again.
        owner.execute("select setval('customer_ids', 1, false)").await.unwrap();
        let import = service.post("/customers/import").header("content-type", "text/csv");
        let rows = "Ada,1990-12-10\n".repeat(300);
        let imported = send(import.login(&admin).body(format!("name,dob\n{rows}"))).await;
        assert!(imported.text.contains("\"created\":300"), "{imported:?}");
        let largest: i64 = sqlx::query_scalar(
            "select max(aggregate_id::bigint) from events where event_type = 'CustomerCreated'",
        )
        .fetch_one(&mut owner)
        .await
        .unwrap();
        assert!((TAKEN + 300..TAKEN + 1000).contains(&largest), "{largest}");
        service.stop().await;
    }
}

#[tokio::test]
async fn a_sequence_of_ids_that_is_ahead_stays_as_it_is() {
    let url = database().await;
    insert(&url, 100).await;
    let mut owner = PgConnection::connect(&url).await.unwrap();
    let next = async |owner: &mut PgConnection| -> i64 {
        owner.execute("select skip_taken_ids()").await.unwrap();
        sqlx::query_scalar("select nextval('customer_ids')").fetch_one(owner).await.unwrap()
    };
    assert_eq!(next(&mut owner).await, 132);
    assert_eq!(next(&mut owner).await, 164);
    // A row that is in the histories and not in the log moves nothing.
    owner
        .execute(
            "insert into customer_history (customer_id, version, position, event_type, created_at,
                 valid_from) values (9007199254740000, 1, 1, 'CustomerCreated', now(), now())",
        )
        .await
        .unwrap();
    assert_eq!(next(&mut owner).await, 196);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_ends_in_the_future_is_named_and_served() {
    let url = database().await;
    let mut owner = PgConnection::connect(&url).await.unwrap();
    let doctor = async || String::from_utf8(customers(&url, &["doctor"]).await.stdout).unwrap();
    insert(&url, 1).await;
    let check = "the log does not end in the future";
    assert!(doctor().await.contains(&format!("ok    {check}\n")));
    owner
        .execute(
            r#"insert into events values (2, 'customer', '2', 1, 'CustomerCreated', '1',
                 '{"type":"CustomerCreated","name":"Ada","dob":"1990-12-10"}', '{}',
                 gen_random_uuid(), now() + interval '1 hour')"#,
        )
        .await
        .unwrap();
    let told = doctor().await;
    assert!(told.contains(&format!("FAIL  {check}: set the clock")), "{told}");

    let place = folder("future");
    let mut serve = command(&["serve"], &place);
    serve.envs(variables(&url)).stderr(std::fs::File::create(place.join("log")).unwrap());
    let process = Process::start(serve).await;
    let log = std::fs::read_to_string(place.join("log")).unwrap();
    assert!(log.contains("its last event lies in the future"), "{log}");
    until("the process is ready", async || {
        send(process.request(reqwest::Method::GET, "/readyz")).await.status == 200
    })
    .await;
    let ready = send(process.request(reqwest::Method::GET, "/readyz")).await;
    let told = ready.body["checks"]["log"].as_str().unwrap();
    assert!(told.starts_with("ends 3") && told.ends_with(" s in the future"), "{told}");
    process.kill().await;
}
