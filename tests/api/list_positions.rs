//! Lists name the position of the very moment that they show, so that a copy is one list and then the feed; and a weak
//! entity tag, so that a poll costs a 304.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, Days, NaiveDate, Utc};
use customers::clock;
use customers::events::log::{identity, read};
use customers::events::values::Role;
use customers::projections::ALL;
use customers::projections::customers::Customers;
use customers::projections::parked::retry;
use customers::projections::rebuild::rebuild;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::harness::{Answer, Login, Service, With as _, config_on, database, send};

/// Lists of each kind: those that requests share, pages, long ones, and with a named position.
const LISTS: [&str; 6] =
    ["?numbers=1000", "?limit=999", "?limit=1000", "?numbers=5000", "", "?number=1000"];

async fn get(service: &Service, login: &Login, path: &str) -> Answer {
    let answer = send(service.get(path).login(login)).await;
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer
}

async fn create(service: &Service, login: &Login, name: &str) -> Answer {
    let body = json!({"name": name, "dob": "1990-12-10"});
    let answer = send(service.post("/customers").login(login).json(&body)).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer
}

/// The customers of a list by their ids: version, name.
fn copy_of(list: &Answer) -> BTreeMap<i64, (i64, String)> {
    let customers = list.body["customers"].as_array().unwrap().iter();
    let of = |customer: &Value| {
        let name = customer["name"].as_str().unwrap().to_owned();
        (customer["id"].as_i64().unwrap(), (customer["version"].as_i64().unwrap(), name))
    };
    customers.map(of).collect()
}

/// Applies the events after the position to the copy. Each must be the next one of its customer: none was missed, and
/// none is shown twice.
async fn follow(
    service: &Service,
    login: &Login,
    copy: &mut BTreeMap<i64, (i64, String)>,
    mut after: i64,
) {
    loop {
        let path = format!("/events?after={after}&limit=1000&aggregate_type=customer");
        let page = get(service, login, &path).await;
        for event in page.body["events"].as_array().unwrap() {
            let id: i64 = event["aggregate_id"].as_str().unwrap().parse().unwrap();
            let version = event["sequence"].as_i64().unwrap();
            let before = copy.remove(&id);
            match event["type"].as_str().unwrap() {
                "CustomerCreated" => assert_eq!((before, version), (None, 1), "{event}"),
                _ => assert_eq!(before.map(|(before, _)| before), Some(version - 1), "{event}"),
            }
            if let Some(name) = event["data"]["name"].as_str() {
                copy.insert(id, (version, name.to_owned()));
            }
        }
        after = page.body["next"].as_i64().unwrap();
        if after == page.body["head"].as_i64().unwrap() {
            return;
        }
    }
}

/// How many customers a writer creates at most: all of them fit into a short list.
const OF_WRITER: u32 = 200;

/// Creates, updates and deletes customers until it is told to stop.
async fn write(service: Arc<Service>, login: Login, writer: u32, is_over: Arc<AtomicBool>) {
    for number in 0..OF_WRITER {
        if is_over.load(Ordering::Relaxed) {
            return;
        }
        let created = create(&service, &login, &format!("Writer {writer} {number}")).await;
        let path = format!("/customers/{}", created.body["id"]);
        let body = json!({"name": format!("Renamed {number}"), "dob": "1980-02-29"});
        assert_eq!(send(service.put(&path).login(&login).json(&body)).await.status, 200);
        if number % 3 == 0 {
            assert_eq!(send(service.delete(&path).login(&login)).await.status, 200);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_one_list_and_then_the_feed_however_much_is_written_meanwhile() {
    let service = Arc::new(Service::start().await);
    let admin = service.log_in_as(Role::Admin).await;
    let log = get(&service, &admin, "/events?limit=1").await.header("event-log").map(str::to_owned);
    // Of an empty registry, too.
    let mut taken: Vec<(&str, Answer)> = vec![];
    for list in LISTS {
        taken.push((list, get(&service, &admin, &format!("/customers{list}")).await));
    }
    let is_over = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (service, admin) = (Arc::clone(&service), admin.clone());
            tokio::spawn(write(service, admin, writer, Arc::clone(&is_over)))
        })
        .collect();
    for round in 0..8 {
        for list in LISTS {
            let list_now = get(&service, &admin, &format!("/customers{list}")).await;
            taken.push((list, list_now));
        }
        let shown = read::head(&service.pools.short).await.unwrap();
        let least = service.get("/customers?numbers=1000").login(&admin);
        let least = send(least.header("min-event-position", shown)).await;
        assert_eq!(least.status, 200, "{least:?}");
        assert!(least.position() >= shown, "round {round}");
        taken.push(("min-event-position", least));
    }
    is_over.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    service.caught_up().await;
    let now = copy_of(&get(&service, &admin, "/customers").await);
    let mut different = std::collections::BTreeSet::new();
    for (what, list) in taken {
        assert_eq!(list.header("event-log"), log.as_deref(), "{what}");
        let mut copy = copy_of(&list);
        different.insert(list.position());
        follow(&service, &admin, &mut copy, list.position()).await;
        assert_eq!(copy, now, "{what} at {}", list.position());
    }
    assert!(different.len() > 10, "the lists showed {different:?}");
}

/// The entity tag of the list, which is weak.
fn tag(list: &Answer) -> String {
    let tag = list.header("etag").expect("a list has an entity tag").to_owned();
    assert!(tag.starts_with("W/\"") && tag.ends_with('"'), "{tag}");
    tag
}

async fn poll(service: &Service, login: &Login, list: &str, tag: &str) -> Answer {
    let request = service.get(&format!("/customers{list}")).login(login);
    send(request.header("if-none-match", tag)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poll_costs_a_304_until_something_has_changed() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    create(&service, &admin, "Ada").await;
    for list in LISTS {
        let first = get(&service, &admin, &format!("/customers{list}")).await;
        for tags in [tag(&first), format!("\"1\", {}", tag(&first)), "*".to_owned()] {
            let again = poll(&service, &admin, list, &tags).await;
            assert_eq!((again.status, again.text.as_str()), (304, ""), "{list} {tags}");
            for name in ["etag", "event-position", "event-log"] {
                assert_eq!(again.header(name), first.header(name), "{list} {name}");
            }
            assert_eq!(again.header("content-type"), None, "{list}");
        }
        let head = service.request(Method::HEAD, &format!("/customers{list}")).login(&admin);
        assert_eq!(send(head.header("if-none-match", tag(&first))).await.status, 304, "{list}");
        create(&service, &admin, "Grace").await;
        let changed = poll(&service, &admin, list, &tag(&first)).await;
        assert_eq!(changed.status, 200, "{list}");
        assert_ne!(tag(&changed), tag(&first), "{list}");
        // A weak tag protects no change (RFC 9110, section 8.8.3.2).
        let guarded = service.get(&format!("/customers{list}")).login(&admin);
        assert_eq!(send(guarded.header("if-match", tag(&changed))).await.status, 412, "{list}");
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_changed_without_the_log_has_another_tag() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    create(&service, &admin, "Ada").await;
    let mut owner = PgConnection::connect(service.database_url()).await.unwrap();
    owner
        .execute("alter table customers add constraint poison check (name <> 'Poison')")
        .await
        .unwrap();
    let body = json!({"name": "Poison", "dob": "1990-12-10"});
    assert_eq!(send(service.put("/customers/1").login(&admin).json(&body)).await.status, 200);
    service.caught_up().await;
    let before = get(&service, &admin, "/customers").await;
    assert_eq!(before.body["customers"][0]["name"], "Ada", "the customer is not parked");
    owner.execute("alter table customers drop constraint poison").await.unwrap();
    // A retry of the parked customer, a rebuild, and another log with the same positions.
    for projection in ALL {
        retry(projection, &service.pools.long).await.unwrap();
    }
    let retried = poll(&service, &admin, "", &tag(&before)).await;
    assert_eq!(retried.status, 200);
    assert_eq!(retried.body["customers"][0]["name"], "Poison");
    rebuild(&Customers, &service.pools.rebuild).await.unwrap();
    let rebuilt = poll(&service, &admin, "", &tag(&retried)).await;
    assert_eq!(rebuilt.status, 200);
    identity::restart(&mut owner).await.unwrap();
    let restarted = poll(&service, &admin, "", &tag(&rebuilt)).await;
    assert_eq!(restarted.status, 200);
    let all = [&before, &retried, &rebuilt, &restarted];
    assert!(all.iter().all(|list| list.position() == before.position()), "{all:?}");
    service.stop().await;
}

/// A service whose customer 1 was created on the first of these days, renamed in the last microsecond of the second, and
/// again in the first of the third.
async fn of_three_days() -> (Service, Login) {
    let url = database().await;
    let mut owner = PgConnection::connect(&url).await.unwrap();
    let insert = "insert into events
         select position, 'customer', '1', position,
                case position when 1 then 'CustomerCreated' else 'CustomerUpdated' end, '1',
                json_build_object('type', case position when 1 then 'CustomerCreated' else 'CustomerUpdated' end,
                                  'name', 'Name ' || position, 'dob', '1990-12-10'),
                '{}', gen_random_uuid(), at::timestamptz
         from (values (1, '2020-01-01T10:00:00Z'), (2, '2020-01-02T23:59:59.999999Z'),
                      (3, '2020-01-03T00:00:00Z')) as e (position, at)";
    owner.execute(insert).await.unwrap();
    let service = Service::with(config_on(&url)).await;
    let admin = service.log_in_as(Role::Admin).await;
    service.caught_up().await;
    (service, admin)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_of_a_date_is_the_end_of_that_day_and_the_answer_says_so() {
    let (service, admin) = of_three_days().await;
    for (day, name, position) in [
        ("2019-12-31", None, 0),
        ("2020-01-01", Some("Name 1"), 1),
        ("2020-01-02", Some("Name 2"), 2),
        ("2020-01-03", Some("Name 3"), 3),
        ("2020-02-29", Some("Name 3"), 3),
    ] {
        let list = get(&service, &admin, &format!("/customers?as_of={day}")).await;
        assert_eq!(list.body["customers"][0]["name"].as_str(), name, "{day}");
        assert_eq!(list.position(), position, "{day}");
        assert_eq!(list.header("as-of"), Some(format!("{day}T23:59:59.999999Z").as_str()));
        // What is over does not change, so there is nothing to poll.
        assert_eq!(list.header("etag"), None, "{day}");
        let one = send(service.get(&format!("/customers/1?as_of={day}")).login(&admin)).await;
        assert_eq!(one.status, if name.is_some() { 200 } else { 404 }, "{day}");
        assert_eq!(one.body["name"].as_str(), name, "{day}");
        if name.is_some() {
            assert_eq!(one.header("as-of"), list.header("as-of"), "{day}");
        }
    }
    // A list of the past and then the feed is the present, too.
    let then = get(&service, &admin, "/customers?as_of=2020-01-01").await;
    let mut copy = copy_of(&then);
    follow(&service, &admin, &mut copy, then.position()).await;
    assert_eq!(copy, copy_of(&get(&service, &admin, "/customers").await));
    for day in ["2020-02-30", "2020-1-01", "20200101", "2020-01", "+2020-1-01"] {
        let answer = send(service.get(&format!("/customers?as_of={day}")).login(&admin)).await;
        assert_eq!((answer.status, &answer.body["errors"][0]["field"]), (400, &json!("as_of")));
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_of_today_is_now_and_tomorrow_is_refused() {
    let (service, admin) = of_three_days().await;
    create(&service, &admin, "Ada").await;
    let now: DateTime<Utc> = sqlx::query_scalar("select clock_timestamp()")
        .fetch_one(&service.pools.short)
        .await
        .unwrap();
    let today: NaiveDate = now.date_naive();
    let list = get(&service, &admin, &format!("/customers?as_of={today}")).await;
    assert_eq!(list.body["number"], 2);
    let shown: DateTime<Utc> = list.header("as-of").unwrap().parse().unwrap();
    assert!(shown >= now && shown - now < chrono::TimeDelta::minutes(1), "{shown} {now}");
    // The pages of one list are of one moment, whatever is written meanwhile.
    let first = get(&service, &admin, &format!("/customers?limit=1&as_of={today}")).await;
    create(&service, &admin, "Grace").await;
    let link = first.header("link").unwrap();
    let next = link.strip_prefix('<').unwrap().split('>').next().unwrap();
    let second = get(&service, &admin, next).await;
    assert_eq!((&second.body["number"], &second.body["next"]), (&json!(1), &Value::Null));
    assert_eq!(second.header("as-of"), first.header("as-of"));
    assert_eq!(second.position(), first.position());
    let tomorrow = today + Days::new(1);
    for path in [format!("/customers?as_of={tomorrow}"), format!("/customers/1?as_of={tomorrow}")] {
        let answer = send(service.get(&path).login(&admin)).await;
        assert_eq!(answer.status, 400, "{path}");
        assert_eq!(answer.body["errors"][0]["detail"], "must not be in the future", "{path}");
    }
    // A time says what it is, too.
    let time = clock::rfc3339(now);
    let list = get(&service, &admin, &format!("/customers?as_of={time}")).await;
    assert_eq!(list.header("as-of"), Some(time.as_str()));
    service.stop().await;
}
