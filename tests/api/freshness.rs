//! Reads and checks that requests share are no older than those that they would have made alone: on every
//! process a read shows what was acknowledged before it began, and a session that has ended opens nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};

use customers::events::values::Role;
use futures_util::future::join_all;
use serde_json::json;

use crate::harness::{Login, Service, With as _, send};
use crate::sessions::{token_and_cookie, verdict};

/// How many clients read at the same time, on each process.
const READERS: usize = 8;

/// How many versions are written meanwhile.
const VERSIONS: i64 = 150;

/// Reads until the writer is done: a read shows at least the version that was acknowledged before it.
async fn read(
    service: Arc<Service>,
    (path, login): (String, Login),
    (acknowledged, is_done): (Arc<AtomicI64>, Arc<AtomicBool>),
) -> usize {
    let mut reads = 0;
    while !is_done.load(Ordering::SeqCst) {
        let before = acknowledged.load(Ordering::SeqCst);
        let answer = send(service.get(&path).login(&login)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let customer = match answer.body.get("customers") {
            Some(list) => list[0].clone(),
            None => answer.body.clone(),
        };
        let shown = customer["version"].as_i64().unwrap();
        assert!(shown >= before, "{path}: version {shown} after {before} was acknowledged");
        reads += 1;
    }
    reads
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_on_every_process_show_what_was_acknowledged_before_they_began() {
    let here = Arc::new(Service::start().await);
    let there = Arc::new(Service::with(here.config.clone()).await);
    let admin = here.log_in_as(Role::Admin).await;
    let body = json!({"name": "Ada", "dob": "2020-12-10"});
    assert_eq!(send(here.post("/customers").login(&admin).json(&body)).await.status, 201);
    let acknowledged = Arc::new(AtomicI64::new(1));
    let is_done = Arc::new(AtomicBool::new(false));
    let mut readers = vec![];
    for number in 0..READERS {
        let path = ["/customers/1", "/customers?numbers=1"][number % 2].to_owned();
        for service in [&here, &there] {
            let what = (path.clone(), admin.clone());
            let until = (Arc::clone(&acknowledged), Arc::clone(&is_done));
            readers.push(tokio::spawn(read(Arc::clone(service), what, until)));
        }
    }
    for version in 2..=VERSIONS {
        let service = if version % 2 == 0 { &here } else { &there };
        let body = json!({"name": format!("Ada {version}"), "dob": "2020-12-10"});
        let answer = send(service.put("/customers/1").login(&admin).json(&body)).await;
        assert_eq!((answer.status, &answer.body["version"]), (200, &json!(version)));
        assert_eq!(answer.header("projection-pending"), None);
        acknowledged.store(version, Ordering::SeqCst);
    }
    is_done.store(true, Ordering::SeqCst);
    for reader in readers {
        assert!(reader.await.unwrap() > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_has_ended_opens_nothing_however_many_requests_bring_it() {
    let here = Arc::new(Service::start().await);
    let there = Arc::new(Service::with(here.config.clone()).await);
    here.add_account("viewer", Role::Viewer).await;
    for _ in 0..5 {
        let login = here.log_in("viewer").await;
        let (has_ended, opened) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut crowd = vec![];
        for number in 0..2 * READERS {
            let service = Arc::clone([&here, &there][number % 2]);
            let (login, has_ended, opened) =
                (login.clone(), Arc::clone(&has_ended), Arc::clone(&opened));
            crowd.push(tokio::spawn(async move {
                // One more request after the end.
                loop {
                    let ended = has_ended.load(Ordering::SeqCst);
                    let seen = token_and_cookie(&service, &login).await;
                    if ended {
                        assert_eq!(seen, "401 unauthenticated");
                        return;
                    }
                    opened.fetch_add(usize::from(seen == "200"), Ordering::SeqCst);
                }
            }));
        }
        crate::harness::until("the crowd is let in", async || {
            opened.load(Ordering::SeqCst) > 4 * READERS
        })
        .await;
        assert_eq!(verdict(here.delete("/logout").login(&login)).await, "200");
        has_ended.store(true, Ordering::SeqCst);
        for one in crowd {
            one.await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_arrive_together_are_counted_one_by_one() {
    const LIMIT: u32 = 40;
    let mut config = crate::harness::config().await;
    config.account_limit = LIMIT;
    let service = Arc::new(Service::with(config).await);
    let login = service.log_in_as(Role::Viewer).await;
    let began = std::time::Instant::now();
    let crowd = (0..3 * LIMIT).map(|_| {
        let (service, login) = (Arc::clone(&service), login.clone());
        async move { token_and_cookie(&service, &login).await }
    });
    let seen = join_all(crowd).await;
    let took = began.elapsed().as_secs_f64();
    let admitted = f64::from(seen.iter().map(|seen| u32::from(seen == "200")).sum::<u32>());
    assert!(seen.iter().all(|seen| seen == "200" || seen == "429 rate-limited"), "{seen:?}");
    // A second's worth at once, and what the time since has added.
    let limit = f64::from(LIMIT);
    let most = (limit * (1.0 + took)).ceil();
    assert!((limit..=most).contains(&admitted), "{admitted} of {limit} in {took} s");
}
