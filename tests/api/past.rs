//! Reads of the past: one customer by version or time, lists by time, and pages of lists.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, Utc};
use customers::clock::Clock;
use customers::commands::Bus;
use customers::demo;
use customers::events::customer::CustomerValues;
use customers::events::metadata::Metadata;
use customers::events::values::Role;
use customers::projections::customer_history::CustomerHistory;
use customers::projections::rebuild::rebuild;
use customers::projections::verify::verify;
use proptest::prelude::*;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::harness::{Answer, Login, Service, With as _, send};
use crate::sessions::verdict;

async fn write(
    service: &Service,
    login: &Login,
    method: Method,
    path: &str,
    body: Value,
) -> Answer {
    let request = service.request(method, path).login(login);
    let request = if body.is_null() { request } else { request.json(&body) };
    let answer = send(request).await;
    assert!(answer.status < 300, "{answer:?}");
    answer
}

async fn get(service: &Service, login: &Login, path: &str) -> Answer {
    send(service.get(path).login(login)).await
}

/// The time of the last event, in RFC 3339.
async fn time(service: &Service) -> String {
    let mut connection = PgConnection::connect(service.database_url()).await.unwrap();
    let at: DateTime<Utc> =
        sqlx::query_scalar("select recorded_at from events order by position desc limit 1")
            .fetch_one(&mut connection)
            .await
            .unwrap();
    customers::clock::rfc3339(at)
}

fn person(name: &str, dob: &str) -> Value {
    json!({"name": name, "dob": dob})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_earlier_state_is_shown_as_it_was_shown_then() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    let before = time(&service).await;
    write(&service, &admin, Method::POST, "/customers", person("Ada", "1990-12-10")).await;
    let mut shown = vec![(time(&service).await, get(&service, &admin, "/customers/1").await)];
    for name in ["Ada King", "Augusta"] {
        write(&service, &admin, Method::PUT, "/customers/1", person(name, "1990-12-11")).await;
        shown.push((time(&service).await, get(&service, &admin, "/customers/1").await));
    }
    write(&service, &admin, Method::DELETE, "/customers/1", Value::Null).await;
    let gone = time(&service).await;

    for (number, (at, then)) in shown.iter().enumerate() {
        for query in [format!("version={}", number + 1), format!("as_of={at}")] {
            let past = get(&service, &admin, &format!("/customers/1?{query}")).await;
            assert_eq!((past.status, &past.text), (200, &then.text), "{query}");
            assert_eq!(past.header("etag"), then.header("etag"), "{query}");
        }
    }
    // The time is in another time zone and between two events.
    let other = DateTime::parse_from_rfc3339(&shown[1].0).unwrap();
    let other = (other + chrono::TimeDelta::microseconds(1))
        .with_timezone(&chrono::FixedOffset::east_opt(3600).unwrap())
        .to_rfc3339();
    let path = format!("/customers/1?as_of={}", other.replace('+', "%2B"));
    assert_eq!(get(&service, &admin, &path).await.text, shown[1].1.text);
    let never = ["version=0", "version=4", "version=99999999999999999999"].map(str::to_owned);
    for query in never.into_iter().chain([format!("as_of={before}"), format!("as_of={gone}")]) {
        let past = service.get(&format!("/customers/1?{query}")).login(&admin);
        assert_eq!(verdict(past).await, "404 not-found", "{query}");
    }
    assert_eq!(get(&service, &admin, "/customers/2?version=1").await.status, 404);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_past_is_for_auditors() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    write(&service, &admin, Method::POST, "/customers", person("Ada", "1990-12-10")).await;
    let now = time(&service).await;
    for role in [Role::Viewer, Role::Editor, Role::Auditor] {
        let login = service.log_in_as(role).await;
        let expected = if role == Role::Auditor { "200" } else { "403 forbidden" };
        for path in ["/customers/1?version=1", "/customers/1?as_of=", "/customers?as_of="] {
            let path =
                if path.ends_with("as_of=") { format!("{path}{now}") } else { path.to_owned() };
            assert_eq!(verdict(service.get(&path).login(&login)).await, expected, "{role} {path}");
        }
        assert_eq!(verdict(service.get("/customers?limit=1").login(&login)).await, "200");
    }
    service.stop().await;
}

/// The customers of all pages of a list, read through the `Link` headers. Checks that each link has the
/// cursor of the body.
async fn all_pages(service: &Service, login: &Login, path: &str) -> Vec<Value> {
    let (mut path, mut all) = (path.to_owned(), vec![]);
    loop {
        let page = get(service, login, &path).await;
        assert_eq!(page.status, 200, "{page:?}");
        let customers = page.body["customers"].as_array().unwrap();
        assert_eq!(page.body["number"], customers.len());
        all.extend(customers.iter().cloned());
        let Some(link) = page.header("link") else {
            assert_eq!(page.body["next"], Value::Null);
            return all;
        };
        let next = link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap();
        assert!(next.contains(page.body["next"].as_str().unwrap()));
        next.clone_into(&mut path);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_is_walked_page_by_page_at_any_moment() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    // Several customers share a date of birth, so that pages end between them.
    for number in 1..=11 {
        let dob = format!("1990-12-{:02}", 10 + number % 3);
        let body = person(&format!("Person {number}"), &dob);
        write(&service, &admin, Method::POST, "/customers", body).await;
    }
    let then = time(&service).await;
    let all = get(&service, &admin, "/customers").await;
    write(&service, &admin, Method::DELETE, "/customers/3", Value::Null).await;
    write(&service, &admin, Method::PUT, "/customers/4", person("Late", "2001-01-01")).await;
    write(&service, &admin, Method::POST, "/customers", person("New", "2002-01-01")).await;
    let now = get(&service, &admin, "/customers").await;
    for limit in [1, 2, 3, 11, 1000] {
        let list = all_pages(&service, &admin, &format!("/customers?limit={limit}")).await;
        assert_eq!(json!(list), now.body["customers"], "{limit}");
        let past = format!("/customers?limit={limit}&as_of={then}");
        assert_eq!(
            json!(all_pages(&service, &admin, &past).await),
            all.body["customers"],
            "{limit}"
        );
    }
    assert_eq!(get(&service, &admin, &format!("/customers?as_of={then}")).await.text, all.text);
    let some = get(&service, &admin, &format!("/customers?as_of={then}&numbers=3")).await;
    assert_eq!(
        json!(some.body["customers"]),
        json!(all.body["customers"].as_array().unwrap()[..3])
    );
    let empty = get(&service, &admin, "/customers?as_of=1999-01-01T00:00:00Z").await;
    assert_eq!(empty.text, "{\"number\":0,\"customers\":[]}");

    // A cursor is valid only for its own moment, and a forged cursor is refused.
    let of = async |path: &str| get(&service, &admin, path).await.body["next"].clone();
    let (live, past) =
        (of("/customers?limit=1").await, of(&format!("/customers?limit=1&as_of={then}")).await);
    let (live, past) = (live.as_str().unwrap(), past.as_str().unwrap());
    let forged = live.replacen(live.chars().nth(9).unwrap(), "A", 1);
    for query in [
        format!("after={past}"),
        format!("after={live}&as_of={then}"),
        format!("after={past}&as_of=1999-01-01T00:00:00Z"),
        format!("after={forged}x"),
        format!("after={}", &live[..live.len() - 4]),
    ] {
        let answer = get(&service, &admin, &format!("/customers?{query}")).await;
        assert_eq!(
            (answer.status, &answer.body["errors"][0]["field"]),
            (400, &json!("after")),
            "{query}"
        );
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_moment_that_was_shown_while_others_write_is_shown_again_as_it_was() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    let bus = Bus::new(service.pools.appender.clone(), service.pools.short.clone());
    let over = Arc::new(AtomicBool::new(false));
    let writers = (0..32).map(|writer| {
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
    let mut shown = vec![];
    for _ in 0..15 {
        let moment = customers::clock::rfc3339(Clock::system().now());
        let list =
            get(&service, &admin, &format!("/customers?as_of={moment}&numbers=1000000")).await;
        assert_eq!(list.status, 200, "{list:?}");
        shown.push((moment, list.body["number"].as_i64().unwrap()));
    }
    over.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(shown.first().unwrap().1 < shown.last().unwrap().1, "the writers wrote nothing");
    for (moment, count) in shown {
        let list =
            get(&service, &admin, &format!("/customers?as_of={moment}&numbers=1000000")).await;
        assert_eq!(list.body["number"], count, "{moment}");
    }
    service.stop().await;
}

/// A generated write to the customer with this index.
#[derive(Debug, Clone)]
enum Step {
    Create(u8),
    Update(usize, u8),
    Delete(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => any::<u8>().prop_map(Step::Create),
        3 => (0..6_usize, any::<u8>()).prop_map(|(index, n)| Step::Update(index, n)),
        1 => (0..6_usize).prop_map(Step::Delete),
    ]
}

fn body(n: u8) -> Value {
    person(&format!("Person {n}"), &format!("1990-12-{:02}", 1 + n % 28))
}

/// Property: the list as of any moment equals the list at that moment, also later; and a rebuild gives
/// the same histories as the projector.
#[test]
fn the_list_as_of_any_moment_is_the_list_of_that_moment() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let service = runtime.block_on(Service::start());
    let admin = runtime.block_on(service.log_in_as(Role::Admin));
    let config = ProptestConfig { cases: 8, failure_persistence: None, ..Default::default() };
    proptest!(config, |(steps in prop::collection::vec(step(), 1..16))| {
        runtime.block_on(async {
            let (mut ids, mut moments) = (vec![], BTreeMap::new());
            for step in steps {
                let (method, path, body) = match step {
                    Step::Create(n) => (Method::POST, "/customers".to_owned(), body(n)),
                    Step::Update(index, n) if index < ids.len() => {
                        (Method::PUT, format!("/customers/{}", ids[index]), body(n))
                    }
                    Step::Delete(index) if index < ids.len() => {
                        (Method::DELETE, format!("/customers/{}", ids[index]), Value::Null)
                    }
                    Step::Update(..) | Step::Delete(_) => continue,
                };
                let request = service.request(method.clone(), &path).login(&admin);
                let request = if body.is_null() { request } else { request.json(&body) };
                let answer = send(request).await;
                if method == Method::POST {
                    ids.push(answer.body["id"].as_i64().unwrap());
                }
                let list = get(&service, &admin, "/customers").await.text;
                moments.insert(time(&service).await, list);
            }
            for round in 0..2 {
                for (moment, list) in &moments {
                    let past = get(&service, &admin, &format!("/customers?as_of={moment}")).await;
                    prop_assert_eq!(&past.text, list, "{} {}", round, moment);
                }
                rebuild(&CustomerHistory, &service.pools.rebuild).await.unwrap();
            }
            let difference = verify(&CustomerHistory, &service.pools.long).await.unwrap().difference;
            prop_assert_eq!(difference, None);
            Ok(())
        })?;
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_difference_between_the_histories_and_the_log_is_found() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    for name in ["Ada", "Eve"] {
        write(&service, &admin, Method::POST, "/customers", person(name, "1990-12-10")).await;
    }
    write(&service, &admin, Method::PUT, "/customers/1", person("Ada King", "1990-12-10")).await;
    service.caught_up().await;
    let mut owner = PgConnection::connect(service.database_url()).await.unwrap();
    for (statement, expected) in [
        ("update customer_history set name = 'x' where version = 2", "customer 1, version 2: the"),
        ("update customer_history set valid_to = null", "customer 1, version 1: the table has"),
        ("update customer_history set actor = 'x' where customer_id = 2", "customer 2, version 1:"),
        ("delete from customer_history where customer_id = 2", "in the log, not in the table"),
        (
            "insert into customer_history select 1, 3, 99, null, event_type, name, dob, created_at,
                    valid_from from customer_history where version = 2",
            "customer 1, version 3: in the table, not in the log",
        ),
        (
            "insert into customer_history select 9, 1, 99, null, event_type, name, dob, created_at,
                    valid_from from customer_history where version = 2",
            "customer 9: in the table, not in the log",
        ),
    ] {
        owner.execute(statement).await.unwrap();
        let difference = verify(&CustomerHistory, &service.pools.long).await.unwrap().difference;
        let difference = difference.unwrap_or_default();
        assert!(difference.contains(expected), "{statement}: {difference}");
        rebuild(&CustomerHistory, &service.pools.rebuild).await.unwrap();
        let difference = verify(&CustomerHistory, &service.pools.long).await.unwrap().difference;
        assert_eq!(difference, None);
    }
    service.stop().await;
}
