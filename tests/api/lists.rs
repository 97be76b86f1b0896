//! Lists: youngest first, complete, and of one consistent state, however slowly the client reads.

use std::time::Duration;

use chrono::NaiveDate;
use customers::api::list::PER_ACCOUNT;
use customers::demo;
use customers::events::customer::{CUSTOMER, CustomerEvent, CustomerValues};
use customers::events::log::{Append, NewEvent, append};
use customers::events::metadata::Metadata;
use customers::events::values::Role;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::harness::{Answer, Login, PATIENCE, Service, With as _, send, until};

/// So many customers that a list is spilled to a file (over 256 KiB) and fits into no socket buffer.
const MANY: u64 = 10_000;

/// The first id of those customers, far from the ids that the service leases.
const FIRST_ID: i64 = 1_000_000;

async fn list(service: &Service, login: &Login, query: &str) -> Answer {
    send(service.get(&format!("/customers{query}")).token(login)).await
}

async fn create(service: &Service, login: &Login, name: &str, dob: &str) {
    let body = json!({"name": name, "dob": dob});
    assert_eq!(send(service.post("/customers").token(login).json(&body)).await.status, 201);
}

/// The names in the order of the list. Checks the headers and members that every list has.
fn names(answer: &Answer) -> Vec<&str> {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("content-length"), Some(answer.text.len().to_string().as_str()));
    let customers = answer.body["customers"].as_array().unwrap();
    assert_eq!(answer.body["number"], customers.len());
    assert_eq!(answer.body.as_object().unwrap().len(), 2);
    customers.iter().map(|customer| customer["name"].as_str().unwrap()).collect()
}

/// Appends [`MANY`] creates without HTTP, in few calls, and waits until the read table shows them.
async fn append_many(service: &Service, login: &Login) {
    let creates: Vec<Append> = (0..MANY)
        .zip(FIRST_ID..)
        .map(|(i, id)| {
            let (name, dob) = demo::person(i);
            let event = CustomerEvent::created(CustomerValues::new(name, dob));
            Append {
                command_id: uuid::Uuid::from_u128(i.into()),
                aggregate_type: CUSTOMER,
                aggregate_id: id.to_string(),
                expected: Some(0),
                events: vec![NewEvent::from(&event)],
                metadata: Metadata::of_program("test").into(),
                key: None,
                external_id: None,
            }
        })
        .collect();
    for page in creates.chunks(5000) {
        append(&service.pools.accounts, page).await.unwrap();
    }
    until("the projection has all customers", async || {
        let last = FIRST_ID + i64::try_from(MANY).unwrap() - 1;
        send(service.get(&format!("/customers/{last}")).token(login)).await.status == 200
    })
    .await;
}

/// The ids and dates of birth of those customers, youngest first.
fn many_youngest_first() -> Vec<(i64, NaiveDate)> {
    let mut all: Vec<_> =
        (0..MANY).zip(FIRST_ID..).map(|(i, id)| (id, demo::person(i).1.date())).collect();
    all.sort_by(|(id, dob), (other_id, other)| other.cmp(dob).then(id.cmp(other_id)));
    all
}

fn ids(body: &Value) -> Vec<(i64, NaiveDate)> {
    let customers = body["customers"].as_array().unwrap();
    let of = |customer: &Value| {
        let dob = customer["dob"].as_str().unwrap().parse().unwrap();
        (customer["id"].as_i64().unwrap(), dob)
    };
    customers.iter().map(of).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_registry_is_an_empty_list() {
    let service = Service::start().await;
    let viewer = service.log_in_as(Role::Viewer).await;
    for query in ["", "?numbers=0", "?numbers=10", "?number=10"] {
        assert_eq!(list(&service, &viewer, query).await.text, r#"{"number":0,"customers":[]}"#);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_are_youngest_first_with_ties_by_id_after_every_change() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    for (name, dob) in [
        ("middle", "1950-06-01"),
        ("old", "1900-01-01"),
        ("twin", "1980-02-29"),
        ("twin too", "1980-02-29"),
        ("young", "2020-12-31"),
    ] {
        create(&service, &editor, name, dob).await;
    }
    let all = list(&service, &editor, "").await;
    assert_eq!(names(&all), ["young", "twin", "twin too", "middle", "old"]);
    insta::assert_snapshot!(list(&service, &editor, "?numbers=2").await.shape(), @r#"200 {"customers":[{"created_at":"[time]","dob":"2020-12-31","external_id":null,"id":5,"name":"young","updated_at":"[time]","version":1},{"created_at":"[time]","dob":"1980-02-29","external_id":null,"id":3,"name":"twin","updated_at":"[time]","version":1}],"number":2}"#);

    let body = json!({"name": "older twin", "dob": "1980-02-28"});
    assert_eq!(send(service.put("/customers/3").token(&editor).json(&body)).await.status, 200);
    let all = list(&service, &editor, "").await;
    assert_eq!(names(&all), ["young", "twin too", "older twin", "middle", "old"]);
    assert_eq!(send(service.delete("/customers/5").token(&editor)).await.status, 200);
    let all = list(&service, &editor, "").await;
    assert_eq!(names(&all), ["twin too", "older twin", "middle", "old"]);
    create(&service, &editor, "youngest", "2021-01-01").await;
    assert_eq!(names(&list(&service, &editor, "?number=1").await), ["youngest"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_has_as_many_as_asked_for_or_all() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    for (name, dob) in [("a", "2003-01-01"), ("b", "2002-01-01"), ("c", "2001-01-01")] {
        create(&service, &editor, name, dob).await;
    }
    for name in ["numbers", "number", "%6eumber"] {
        for (value, expected) in [
            ("0", 0),
            ("1", 1),
            ("%31", 1),
            ("002", 2),
            ("3", 3),
            ("4", 3),
            ("1001", 3),
            ("9223372036854775807", 3),
            ("9223372036854775808", 3),
            ("99999999999999999999", 3),
        ] {
            let answer = list(&service, &editor, &format!("?{name}={value}")).await;
            assert_eq!(names(&answer), ["a", "b", "c"][..expected], "{name}={value}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_list_is_whole() {
    let service = Service::start().await;
    let viewer = service.log_in_as(Role::Viewer).await;
    append_many(&service, &viewer).await;
    let expected = many_youngest_first();
    for (query, number) in [("", 10_000), ("?numbers=9999", 9999), ("?numbers=1001", 1001)] {
        let answer = list(&service, &viewer, query).await;
        assert_eq!(names(&answer).len(), number);
        assert_eq!(ids(&answer.body), expected[..number], "{query}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_slowly_gets_one_state_and_holds_nothing_in_the_database() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    append_many(&service, &editor).await;

    // The service cannot send the list before the test reads it.
    let mut stream = stalled_list(&service, &editor, "").await;

    // The service has read the whole list from PostgreSQL by now.
    let busy = "select count(*) from pg_stat_activity
                where datname = current_database() and state <> 'idle' and query like '%customers%'
                  and pid <> pg_backend_pid()";
    until("no connection is busy", async || {
        let count: i64 = sqlx::query_scalar(busy).fetch_one(&service.pools.long).await.unwrap();
        count == 0
    })
    .await;
    let (oldest, _) = many_youngest_first()[usize::try_from(MANY).unwrap() - 1];
    let deleted = send(service.delete(&format!("/customers/{oldest}")).token(&editor)).await;
    assert_eq!(deleted.status, 200);

    let mut answer = vec![];
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["number"], MANY);
    assert_eq!(ids(&body), many_youngest_first());
    assert_eq!(list(&service, &editor, "").await.body["number"], MANY - 1);
}

/// Requests a list with a small receive window, and reads the head of the answer only.
async fn stalled_list(service: &Service, login: &Login, query: &str) -> TcpStream {
    let (stream, status) = try_stalled_list(service, login, query).await;
    assert_eq!(status, "HTTP/1.1 200 OK");
    stream
}

/// The same, with the first bytes of the status line.
async fn try_stalled_list(service: &Service, login: &Login, query: &str) -> (TcpStream, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(service.address).await.unwrap();
    let head = format!(
        "GET /customers{query} HTTP/1.1\r\nHost: customers.test\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\r\n",
        login.token
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 15];
    stream.read_exact(&mut answer).await.unwrap();
    (stream, String::from_utf8(answer).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_of_one_account_leave_room_for_the_others() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    append_many(&service, &editor).await;
    let slow = service.log_in_as(Role::Viewer).await;
    let mut stalled = vec![];
    for _ in 0..PER_ACCOUNT {
        stalled.push(stalled_list(&service, &slow, "").await);
    }
    let refused = list(&service, &slow, "").await;
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")), "{refused:?}");
    assert_eq!(
        refused.body["detail"],
        "at most 2 long lists of an account are answered at the same time"
    );
    assert_eq!(list(&service, &slow, "?numbers=10").await.status, 200);
    assert_eq!(list(&service, &editor, "").await.status, 200);
    // A list that is not read ends with its session, and its slot is free.
    assert_eq!(send(service.delete("/logout").login(&slow)).await.status, 200);
    let again = service.log_in("viewer").await;
    // The other one, too: with one more stalled list a second one fits only beside it.
    let mut held = None;
    until("a slot is free", async || {
        let (stream, status) = try_stalled_list(&service, &again, "").await;
        held = Some(stream);
        status.ends_with("200 OK")
    })
    .await;
    until("both slots are free", async || list(&service, &again, "").await.status == 200).await;
    drop(held);
    for mut stream in stalled {
        let mut rest = vec![];
        let read = stream.read_to_end(&mut rest).await;
        let (head, body) =
            rest.split_at(rest.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4);
        let head = String::from_utf8_lossy(head);
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        assert!(body.len() < length.parse().unwrap(), "the list was sent whole: {read:?}");
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_is_not_read_gives_its_file_back() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    append_many(&service, &editor).await;
    let mut stalled = vec![];
    for _ in 0..PER_ACCOUNT {
        stalled.push(stalled_list(&service, &editor, "").await);
    }
    assert_eq!(list(&service, &editor, "").await.status, 429);
    // Each request waits for a slot for a few seconds.
    let mut tries = 0;
    while list(&service, &editor, "").await.status != 200 {
        tries += 1;
        assert!(tries < 12, "the files are still held");
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_is_read_too_slowly_is_cut_off() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    append_many(&service, &editor).await;
    let mut stream = stalled_list(&service, &editor, "?numbers=900").await;
    let mut piece = [0; 100];
    let mut read = 0;
    // A hundred bytes a second are no stall for the kernel, and much less than the least rate.
    let cut = async {
        while let Ok(length @ 1..) = stream.read(&mut piece).await {
            read += length;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE * 6, cut).await.expect("the answer is cut off");
    assert!(read < 90_000, "{read} bytes were read");
    service.stop().await;
}
