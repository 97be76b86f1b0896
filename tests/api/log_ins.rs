//! The cost of log-ins, one password hash each: it is bounded, and does not reveal whether an account
//! exists.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use customers::auth::fair_queue::Network;
use customers::auth::password::Passwords;
use customers::events::metadata::Metadata;
use customers::events::values::{Role, Username};
use reqwest::Method;
use serde_json::json;

use crate::harness::{PASSWORD, Service, folder, send, variables};
use crate::process::{Process, command};
use crate::sessions::verdict;

/// Starts a separate process on a database with the account "ada", so that a test can measure its memory
/// and its counters.
async fn process() -> (Service, Process) {
    let service = Service::start().await;
    service.add_account("ada", Role::Viewer).await;
    let mut serve = command(&["serve"], &folder("log_ins"));
    serve.envs(variables(service.database_url())).env("CUSTOMERS_LOGIN_LIMIT", "0");
    (service, Process::start(serve).await)
}

async fn hashes(process: &Process) -> u64 {
    let metrics = send(process.request(Method::GET, "/metrics")).await.text;
    let line =
        metrics.lines().find_map(|line| line.strip_prefix("customers_password_hashes_total "));
    line.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_name_and_a_disabled_account_cost_as_many_hashes_as_a_wrong_password() {
    let (service, process) = process().await;
    service.add_account("gone", Role::Viewer).await;
    let passwords = Passwords::new();
    let slot = passwords.slot(Network::LOCAL).await.unwrap();
    let hash = passwords.hash(slot, "pässword".to_owned()).await.unwrap();
    let accounts = service.accounts();
    let metadata = || Metadata::of_program("test");
    let name = |name| Username::parse(name).unwrap();
    accounts.add(&name("weg"), &hash, Role::Viewer, metadata()).await.unwrap();
    for gone in ["gone", "weg"] {
        accounts.disable(&name(gone), metadata()).await.unwrap();
    }
    let mut before = hashes(&process).await;
    for (name, password, hashes_of_it) in [
        ("ada", "wrong password", 1),
        ("nobody", "wrong password", 1),
        ("nobody", PASSWORD, 1),
        ("gone", PASSWORD, 1),
        ("no name at all", "wrong password", 1),
        ("", "wrong password", 1),
        // An earlier version may have hashed another spelling of these, and nothing else counts.
        ("ada", "wröng password", 2),
        ("nobody", "wröng password", 2),
        ("gone", "wröng password", 2),
        ("weg", "pässword", 2),
        ("weg", "pa\u{308}ssword", 2),
        ("ada", "wr\u{200b}ng", 1),
        ("nobody", "wr\u{200b}ng", 1),
    ] {
        let body = json!({"username": name, "password": password});
        let log_in = process.request(Method::POST, "/login").json(&body);
        assert_eq!(verdict(log_in).await, "401 unauthenticated", "{name}");
        let after = hashes(&process).await;
        assert_eq!(after - before, hashes_of_it, "{name} {password:?}");
        before = after;
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_hundred_log_ins_at_once_take_little_memory_and_keep_nobody_else_out() {
    let (service, process) = process().await;
    let process = Arc::new(process);
    let body = json!({"username": "ada", "password": PASSWORD});
    // The first log-in allocates what later ones reuse, so it does not count.
    assert_eq!(send(process.request(Method::POST, "/login").json(&body)).await.status, 200);
    let before = process.resident();
    let (stop, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let others = tokio::spawn({
        let (process, stop, most) = (Arc::clone(&process), Arc::clone(&stop), Arc::clone(&most));
        async move {
            let mut served = 0;
            while !stop.load(Ordering::SeqCst) {
                assert_eq!(verdict(process.request(Method::GET, "/livez")).await, "200");
                most.fetch_max(process.resident(), Ordering::SeqCst);
                served += 1;
            }
            served
        }
    });
    let log_ins = (0..400).map(|_| verdict(process.request(Method::POST, "/login").json(&body)));
    let told = futures_util::future::join_all(log_ins).await;
    stop.store(true, Ordering::SeqCst);
    let served = others.await.unwrap();
    let count = |what: &str| told.iter().filter(|told| *told == what).count();
    let (admitted, refused) = (count("200"), count("503 overloaded"));
    assert_eq!(admitted + refused, 400, "{told:?}");
    // The queue holds 256 log-ins; on a busy machine some of them also time out there.
    assert!(admitted > 20 && refused > 0, "{admitted} admitted, {refused} refused");
    // Two concurrent hashes of 19 MiB each, and the memory of 400 requests.
    let more = most.load(Ordering::SeqCst).saturating_sub(before);
    assert!(more < 100, "{more} MiB more than {before}");
    assert!(served > 10, "{served}");
    service.stop().await;
}
