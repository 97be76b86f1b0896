//! Durability when a process is killed, and consistency between two processes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use customers::events::values::Role;
use reqwest::Method;
use serde_json::json;

use crate::harness::{Service, With as _, config, folder, send, until, variables};
use crate::process::{Process, command};

/// The names of the customers, and the number of customers with each name.
async fn names(process: &Process) -> BTreeMap<String, usize> {
    let login = process.log_in("editor").await;
    let answer = send(process.request(Method::GET, "/customers").login(&login)).await;
    assert_eq!(answer.status, 200);
    let mut names = BTreeMap::new();
    for customer in answer.body["customers"].as_array().unwrap() {
        *names.entry(customer["name"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_create_is_there_once_after_a_kill_in_the_middle() {
    const CREATES: usize = 1000;
    let service = Service::start().await;
    service.add_account("editor", Role::Editor).await;
    let url = secrecy::ExposeSecret::expose_secret(service.config.database_url.as_ref().unwrap());
    let (variables, place) = (variables(url), folder("crash"));
    let start = || {
        let mut serve = command(&["serve"], &place);
        serve.envs(variables.clone());
        Process::start(serve)
    };
    let process = start().await;
    let login = process.log_in("editor").await;
    let (next, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let writers: Vec<_> = (0..16)
        .map(|_| {
            let (next, done) = (Arc::clone(&next), Arc::clone(&done));
            let request = process.request(Method::POST, "/customers").login(&login);
            tokio::spawn(async move {
                let mut acknowledged = vec![];
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= CREATES {
                        return acknowledged;
                    }
                    let name = format!("Person {i}");
                    let body = json!({"name": name, "dob": "1990-12-10"});
                    let request = request.try_clone().unwrap().json(&body);
                    // The outcome of a request that the kill interrupted is unknown, so the test ignores it.
                    match request.send().await {
                        Ok(answer) if answer.status() == 201 => acknowledged.push(name),
                        Ok(answer) => panic!("{answer:?}"),
                        Err(_) => return acknowledged,
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    until("a third is acknowledged", async || done.load(Ordering::Relaxed) > CREATES / 3).await;
    process.kill().await;
    let mut acknowledged = BTreeSet::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    assert!((CREATES / 3..CREATES).contains(&acknowledged.len()), "the kill came too late");

    let process = start().await;
    let names = names(&process).await;
    let missing: Vec<_> = acknowledged.iter().filter(|name| !names.contains_key(*name)).collect();
    assert_eq!(missing, Vec::<&String>::new());
    assert!(names.values().all(|count| *count == 1), "a customer was created twice");

    let mut verify = command(&["projection", "verify", "customers"], &place);
    let verified = verify.envs(variables.clone()).output().await.unwrap();
    assert!(verified.status.success(), "{verified:?}");
    let gaps: i64 = sqlx::query_scalar("select max(position) - count(*) from events")
        .fetch_one(&service.pools.short)
        .await
        .unwrap();
    assert_eq!(gaps, 0);
    assert_eq!(process.end(rustix::process::Signal::TERM).await, Some(0));
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_never_answer_from_what_the_other_has_changed() {
    let config = config().await;
    let (a, b) = (Service::with(config.clone()).await, Service::with(config).await);
    let login = a.log_in_as(Role::Editor).await;
    let body = |name: &str| json!({"name": name, "dob": "1990-12-10"});
    for round in 0..20 {
        let created = send(a.post("/customers").login(&login).json(&body("Ada"))).await;
        let path = created.header("location").unwrap().to_owned();

        let other = format!("Ada {round}");
        let updated = send(b.put(&path).login(&login).json(&body(&other))).await;
        assert_eq!((updated.status, updated.header("etag")), (200, Some("\"2\"")));
        // Process `a` has only seen version 1; it must not answer 412 from its cache.
        let back = a.put(&path).login(&login).header("if-match", "\"2\"").json(&body("Ada"));
        let back = send(back).await;
        assert_eq!((back.status, back.header("etag")), (200, Some("\"3\"")), "{back:?}");
        // Process `b` has only seen version 2; it must not answer "unchanged" from its cache.
        let again = send(b.put(&path).login(&login).json(&body(&other))).await;
        assert_eq!((again.status, again.header("etag")), (200, Some("\"4\"")), "{again:?}");
        // A read with the position of the other process's write shows that write.
        let position = again.position().to_string();
        let read = a.get(&path).login(&login).header("min-event-position", &position);
        assert_eq!(send(read).await.body["name"], other);

        assert_eq!(send(a.delete(&path).login(&login)).await.status, 200);
        assert_eq!(send(b.put(&path).login(&login).json(&body("Ada"))).await.status, 404);
        assert_eq!(send(b.delete(&path).login(&login)).await.status, 404);
    }
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_on_two_processes_all_succeed_on_one_customer() {
    let config = config().await;
    let (a, b) = (Service::with(config.clone()).await, Service::with(config).await);
    let login = a.log_in_as(Role::Editor).await;
    let ada = json!({"name": "Ada", "dob": "1990-12-10"});
    let created = send(a.post("/customers").login(&login).json(&ada)).await;
    let path = created.header("location").unwrap();
    let writes = (0..50).map(|i| {
        let service = if i % 2 == 0 { &a } else { &b };
        let body = json!({"name": format!("Ada {i}"), "dob": "1990-12-10"});
        send(service.put(path).login(&login).json(&body))
    });
    let answers = futures_util::future::join_all(writes).await;
    let versions: BTreeSet<i64> = answers
        .iter()
        .map(|answer| {
            assert_eq!(answer.status, 200, "{answer:?}");
            answer.body["version"].as_i64().unwrap()
        })
        .collect();
    assert_eq!(versions, (2..=51).collect());
    a.stop().await;
    b.stop().await;
}
