//! The feed under load: two processes, many writers, and one reader that follows all the time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use customers::events::values::Role;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Login, Service, With as _, folder, send, until, variables};
use crate::process::{Process, command};

const WRITERS: usize = 64;

/// Starts writers, half of them on each process; each returns the acknowledged names with their positions.
fn writers(
    processes: [&Process; 2],
    login: &Login,
    stop: &Arc<AtomicBool>,
    done: &Arc<AtomicUsize>,
) -> Vec<tokio::task::JoinHandle<Vec<(i64, String)>>> {
    (0..WRITERS)
        .map(|writer| {
            let request = processes[writer % 2].request(Method::POST, "/customers").login(login);
            let (stop, done) = (Arc::clone(stop), Arc::clone(done));
            tokio::spawn(async move {
                let mut acknowledged = vec![];
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let name = format!("Writer {writer} number {number}");
                    let body = json!({"name": name, "dob": "1990-12-10"});
                    // The outcome of a request that the kill interrupted is unknown, so the test ignores it.
                    let Ok(answer) = request.try_clone().unwrap().json(&body).send().await else {
                        break;
                    };
                    assert_eq!(answer.status(), 201);
                    let position = answer.headers()["event-position"].to_str().unwrap();
                    acknowledged.push((position.parse().unwrap(), name));
                    done.fetch_add(1, Ordering::Relaxed);
                }
                acknowledged
            })
        })
        .collect()
}

/// Reads the feed page by page until `enough`; returns the events in the order received.
async fn read_feed(
    process: &Process,
    login: &Login,
    mut enough: impl FnMut(&[Value]) -> bool,
) -> Vec<Value> {
    let (mut events, mut after) = (vec![], 0);
    while !enough(&events) {
        let path = format!("/events?after={after}&limit=1000");
        let page = send(process.request(Method::GET, &path).login(login)).await;
        assert_eq!(page.status, 200, "{page:?}");
        events.extend(page.body["events"].as_array().unwrap().iter().cloned());
        after = page.body["next"].as_i64().unwrap();
    }
    events
}

async fn run(kill_one: bool) {
    let service = Service::start().await;
    service.add_account("editor", Role::Editor).await;
    service.add_account("auditor", Role::Auditor).await;
    let (variables, place) = (variables(service.database_url()), folder("two"));
    let start = || {
        let mut serve = command(&["serve"], &place);
        serve.envs(variables.clone());
        Process::start(serve)
    };
    let (one, two) = (start().await, start().await);
    let editor = one.log_in("editor").await;
    let auditor = one.log_in("auditor").await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let writers = writers([&one, &two], &editor, &stop, &done);
    let last = Arc::new(AtomicUsize::new(usize::MAX));
    let reading = async {
        let last = Arc::clone(&last);
        read_feed(&one, &auditor, move |events| {
            let position = events.last().map_or(0, |event| event["position"].as_u64().unwrap());
            usize::try_from(position).unwrap() >= last.load(Ordering::Relaxed)
        })
        .await
    };
    let writing = async {
        until("a part is written", async || done.load(Ordering::Relaxed) > 300).await;
        if kill_one {
            two.kill().await;
        }
        let half = done.load(Ordering::Relaxed);
        until("more is written", async || done.load(Ordering::Relaxed) > half + 300).await;
        stop.store(true, Ordering::Relaxed);
        let mut acknowledged = BTreeMap::new();
        for writer in writers {
            acknowledged.extend(writer.await.unwrap());
        }
        let head = customers::events::log::read::head(&service.pools.short).await.unwrap();
        last.store(usize::try_from(head).unwrap(), Ordering::Relaxed);
        acknowledged
    };
    let (events, acknowledged) = tokio::join!(reading, writing);

    let positions: Vec<_> =
        events.iter().map(|event| event["position"].as_u64().unwrap()).collect();
    let expected: Vec<_> = (1..=positions.len() as u64).collect();
    assert_eq!(positions, expected, "a gap, a duplicate, or events out of order");
    let mut names = BTreeSet::new();
    for event in events.iter().filter(|event| event["aggregate_type"] == "customer") {
        assert!(names.insert(event["data"]["name"].as_str().unwrap()), "duplicate: {event}");
    }
    for (position, name) in &acknowledged {
        let index = usize::try_from(*position).unwrap() - 1;
        assert_eq!(events[index]["data"]["name"], *name, "an acknowledged customer is missing");
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_the_feed_sees_every_event_once_in_order_while_sixty_four_write() {
    run(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_the_feed_sees_every_event_once_also_when_a_process_is_killed() {
    run(true).await;
}
