//! Searches: customers by words of their names and by dates of birth, in four orders, page by page; and their number.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use customers::events::values::Role;
use serde_json::{Value, json};

use crate::harness::{Answer, Login, Service, With as _, send};

/// Names and dates of birth, in the order in which they are created.
const PEOPLE: [(&str, &str); 8] = [
    ("Ada Lovelace", "1990-12-10"),
    ("Grace Hopper", "1991-12-09"),
    ("Zoë Adams", "1985-02-28"),
    ("山田太郎", "2000-01-01"),
    ("ÅSA LÖVGREN", "1970-06-30"),
    ("Adam Ader", "2001-03-03"),
    ("Jean-Luc Picard", "1985-07-13"),
    ("conan o’brien", "1963-04-18"),
];

/// The parameters of a request.
type Query<'a> = &'a [(&'a str, &'a str)];

async fn with_people() -> (Service, Login) {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    for (name, dob) in PEOPLE {
        create(&service, &editor, name, dob).await;
    }
    (service, editor)
}

async fn create(service: &Service, editor: &Login, name: &str, dob: &str) -> Answer {
    let body = json!({"name": name, "dob": dob});
    let created = send(service.post("/customers").login(editor).json(&body)).await;
    assert_eq!(created.status, 201, "{created:?}");
    created
}

async fn ask(service: &Service, login: &Login, query: &[(&str, &str)]) -> Answer {
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
    send(service.get(&format!("/customers?{query}")).login(login)).await
}

fn ids(answer: &Answer) -> Vec<i64> {
    assert_eq!(answer.status, 200, "{answer:?}");
    let customers = answer.body["customers"].as_array().unwrap();
    assert_eq!(answer.body["number"], json!(customers.len()));
    customers.iter().map(|customer| customer["id"].as_i64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prefix_of_any_word_finds_a_name_whatever_its_case_accents_and_width() {
    let (service, editor) = with_people().await;
    let cases: [(&str, &[i64]); 14] = [
        ("ada", &[6, 1, 3]),
        ("ADA L", &[1]),
        ("lov", &[1, 5]),
        ("ｌｏｖ", &[1, 5]),
        ("zoe", &[3]),
        ("Zoé", &[3]),
        ("asa", &[5]),
        ("太郎", &[4]),
        ("山", &[4]),
        ("luc", &[7]),
        ("O'Br", &[8]),
        ("obrien", &[8]),
        ("velace", &[]),
        ("nobody", &[]),
    ];
    for (name, expected) in cases {
        let answer = ask(&service, &editor, &[("name", name)]).await;
        assert_eq!(ids(&answer), expected, "{name}");
        assert_eq!(answer.body["next"], Value::Null);
        // Adam Ader is found once.
        let count = ask(&service, &editor, &[("name", name), ("count", "true")]).await;
        assert_eq!(count.body, json!({"number": expected.len()}), "{name}");
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_has_four_orders_and_the_days_of_birth_that_are_asked_for() {
    let (service, editor) = with_people().await;
    let renamed = json!({"name": "Grace Murray Hopper", "dob": "1991-12-09"});
    send(service.put("/customers/2").login(&editor).json(&renamed)).await;
    let cases: [(Query<'_>, &[i64]); 9] = [
        (&[("sort", "dob")], &[6, 4, 2, 1, 7, 3, 5, 8]),
        (&[("sort", "name")], &[1, 6, 5, 8, 2, 7, 3, 4]),
        (&[("sort", "created")], &[8, 7, 6, 5, 4, 3, 2, 1]),
        (&[("sort", "updated")], &[2, 8, 7, 6, 5, 4, 3, 1]),
        (&[("born_from", "1985-07-13"), ("born_to", "1991-12-09")], &[2, 1, 7]),
        (&[("born_from", "2001-03-03")], &[6]),
        (&[("born_to", "1970-06-30"), ("sort", "name")], &[5, 8]),
        (&[("name", "ad"), ("sort", "name")], &[1, 6, 3]),
        (&[("name", "ad"), ("born_to", "1990-12-10"), ("sort", "created")], &[3, 1]),
    ];
    for (query, expected) in cases {
        assert_eq!(ids(&ask(&service, &editor, query).await), expected, "{query:?}");
        let filters: Vec<_> = query.iter().copied().filter(|(name, _)| *name != "sort").collect();
        let counted = [filters, vec![("count", "true")]].concat();
        let counted = ask(&service, &editor, &counted).await;
        assert_eq!(counted.body, json!({"number": expected.len()}), "{query:?}");
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pages_of_a_search_have_each_customer_once_in_one_order() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    // Many with one date of birth and with one name; half of them match.
    for number in 0..60 {
        let name = ["Ada Adams", "Ada", "Bert", "Bert Ode"][number % 4];
        create(&service, &editor, name, ["1990-12-10", "1991-12-10"][number % 2]).await;
    }
    for sort in ["dob", "name", "created", "updated"] {
        let whole = ids(&ask(
            &service,
            &editor,
            &[("name", "ad"), ("sort", sort), ("limit", "1000")],
        )
        .await);
        assert_eq!((whole.len(), BTreeSet::from_iter(&whole).len()), (30, 30));
        let mut pages = vec![];
        let mut path = format!("/customers?name=ad&sort={sort}&limit=7");
        loop {
            let page = send(service.get(&path).login(&editor)).await;
            pages.extend(ids(&page));
            let Some(link) = page.header("link") else { break };
            path = link.strip_prefix('<').unwrap().split_once('>').unwrap().0.to_owned();
            assert!(path.contains("name=ad") && path.contains(page.body["next"].as_str().unwrap()));
        }
        assert_eq!(pages, whole, "{sort}");
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_that_cannot_be_read_is_refused_by_name() {
    let (service, editor) = with_people().await;
    let first = ask(&service, &editor, &[("name", "a"), ("limit", "1")]).await;
    let next = first.body["next"].as_str().unwrap();
    let listed = ask(&service, &editor, &[("limit", "1")]).await;
    let of_list = listed.body["next"].as_str().unwrap();
    let long = "x".repeat(129);
    let cases: [(Query<'_>, &str); 17] = [
        (&[("name", "")], "name"),
        (&[("name", " ")], "name"),
        (&[("name", &long)], "name"),
        (&[("name", "a\0")], "name"),
        (&[("born_from", "1990-02-30")], "born_from"),
        (&[("born_to", "soon")], "born_to"),
        (&[("born_to", "+1990-02-3")], "born_to"),
        (&[("born_from", "1991-01-01"), ("born_to", "1990-01-01")], "born_from"),
        (&[("sort", "age")], "sort"),
        (&[("count", "yes")], "count"),
        (&[("count", "true"), ("limit", "3")], "limit"),
        (&[("count", "true"), ("sort", "dob")], "sort"),
        (&[("name", "a"), ("numbers", "3")], "numbers"),
        (&[("name", "a"), ("as_of", "2026-01-01T00:00:00Z")], "as_of"),
        // The cursor of another search, of a list, and the cursor of a search for a list.
        (&[("name", "b"), ("limit", "1"), ("after", next)], "after"),
        (&[("name", "a"), ("limit", "1"), ("after", of_list)], "after"),
        (&[("limit", "1"), ("after", next)], "after"),
    ];
    for (query, field) in cases {
        let refused = ask(&service, &editor, query).await;
        assert_eq!(
            (refused.status, &refused.body["errors"][0]["field"]),
            (400, &json!(field)),
            "{query:?}"
        );
    }
    let going_on = ask(&service, &editor, &[("name", "a"), ("limit", "1"), ("after", next)]).await;
    assert_eq!(ids(&going_on).len(), 1);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_on_any_process_shows_every_write_that_was_acknowledged() {
    const WRITES: usize = 60;
    let here = Arc::new(Service::start().await);
    let there = Arc::new(Service::with(here.config.clone()).await);
    let editor = here.log_in_as(Role::Editor).await;
    for number in 0..WRITES {
        let (writer, reader) = if number % 2 == 0 { (&here, &there) } else { (&there, &here) };
        let name = format!("Unique{number} Name");
        let created = create(writer, &editor, &name, "1990-12-10").await;
        let found = ask(reader, &editor, &[("name", &format!("unique{number} "))]).await;
        assert_eq!(ids(&found), [created.body["id"].as_i64().unwrap()]);
        // The position is that of the very moment that the page shows.
        assert!(found.position() >= created.position());
        let counted = ask(reader, &editor, &[("count", "true")]).await;
        assert_eq!(counted.body["number"], json!(number + 1));
        let named = ask(reader, &editor, &[("count", "true"), ("name", "unique")]).await;
        assert_eq!(named.body["number"], json!(number + 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_number_of_customers_is_exact_while_they_come_and_go() {
    let service = Arc::new(Service::start().await);
    let editor = service.log_in_as(Role::Editor).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers = (0..4).map(|writer| {
        let (service, editor, stop) = (Arc::clone(&service), editor.clone(), Arc::clone(&stop));
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let created = create(&service, &editor, &format!("W{writer}"), "1990-12-10").await;
                let path = format!("/customers/{}", created.body["id"]);
                if created.position() % 3 != 0 {
                    send(service.delete(&path).login(&editor)).await;
                }
                if created.position() % 3 == 1 {
                    let path = format!("{path}/restore");
                    let body = json!({"version": 1});
                    assert_eq!(
                        send(service.post(&path).login(&editor).json(&body)).await.status,
                        200
                    );
                }
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    let auditor = service.log_in_as(Role::Auditor).await;
    for _ in 0..40 {
        let counted = ask(&service, &editor, &[("count", "true")]).await;
        // The log up to that position has as many.
        let mut there = BTreeSet::new();
        let (mut after, end) = (0, counted.position());
        while after < end {
            let path = format!("/events?after={after}&limit=1000");
            let page = send(service.get(&path).login(&auditor)).await.body;
            for event in page["events"].as_array().unwrap() {
                if event["position"].as_i64().unwrap() > end {
                    break;
                }
                let id = event["aggregate_id"].as_str().unwrap().to_owned();
                match event["type"].as_str().unwrap() {
                    "CustomerCreated" | "CustomerRestored" => drop(there.insert(id)),
                    "CustomerDeleted" => drop(there.remove(&id)),
                    _ => {}
                }
            }
            after = page["next"].as_i64().unwrap();
        }
        assert_eq!(counted.body["number"], json!(there.len()));
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
}
