//! Sessions on a real Redis Cluster of three masters.

use std::process::Stdio;

use customers::events::metadata::Metadata;
use customers::events::values::{Role, Username};
use rustix::process::Signal;
use tokio::process::Command;

use crate::harness::{until, urls};
use crate::own_redis::Cluster;
use crate::redis_trouble::{Ended, service_on};
use crate::sessions::token_alone;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_restarts_from_an_older_dump_revives_no_session() {
    let mut cluster = Cluster::start().await;
    let service = service_on(cluster.urls()).await;
    let ended = Ended::open(&service).await;
    for node in &cluster.0 {
        assert_ne!(node.ask("DBSIZE").await, redis::Value::Int(0), "this node has no account");
        node.ask("SAVE").await;
    }
    ended.end(&service).await;
    for node in &mut cluster.0 {
        node.kill().await;
        node.start_again().await;
    }
    cluster.is_whole().await;
    ended.stay_ended(&service).await;
    assert_eq!(token_alone(&service, &ended.bound).await, "401 token-replay");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stands_still_is_left_for_its_replica_which_revives_no_session() {
    let cluster = Cluster::start().await;
    let service = service_on(cluster.urls()).await;
    let ended = Ended::open(&service).await;
    let [_, frozen, _] = &cluster.0;
    let _replica = cluster.replica_of(1).await;
    ended.end(&service).await;
    frozen.signal(Signal::STOP);
    ended.stay_ended(&service).await;
    assert_eq!(token_alone(&service, &ended.bound).await, "401 token-replay");
    frozen.signal(Signal::CONT);
    ended.stay_ended(&service).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_reaches_a_new_run_of_a_node_that_nobody_asks() {
    let mut cluster = Cluster::start().await;
    let service = service_on(cluster.urls()).await;
    let names: Vec<_> = ('a'..='j').map(|name| name.to_string()).collect();
    for name in &names {
        service.add_account(name, Role::Viewer).await;
        service.log_in(name).await;
    }
    let mut restarted = 0;
    for node in &mut cluster.0 {
        // The readiness check uses the node with this key, so it notices no restart of another node.
        if node.ask("KEYS *{ready}*").await == redis::Value::Array(vec![]) {
            node.kill().await;
            node.start_again().await;
            restarted += 1;
        }
    }
    assert_eq!(restarted, 2);
    cluster.is_whole().await;
    for name in &names {
        let name = Username::parse(name).unwrap();
        service.accounts().disable(&name, Metadata::of_program("test")).await.unwrap();
    }
    until("every change is on its node", async || {
        let mut known = 0;
        for node in &cluster.0 {
            let keys = node.ask("KEYS *:changed").await;
            known += redis::from_redis_value::<Vec<String>>(keys).unwrap().len();
        }
        known == names.len()
    })
    .await;
    service.stop().await;
}

/// Runs some tests of sessions again in a process whose Redis is a cluster; with `CUSTOMERS_TEST_LONG`,
/// all tests of log-in, sessions and throttling that start no Redis themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_holds_on_one_redis_holds_on_a_cluster() {
    let (short, long) = (
        ["own_sessions::", "limits::", "binding::the_first_right_cookie"],
        [
            "sessions::",
            "binding::",
            "tokens::",
            "throttle::",
            "password::",
            "keys::",
            "limits::",
            "log_ins::",
            "headers::",
            "roles::",
            "hostile::",
            "cli::accounts::",
        ],
    );
    let chosen: &[&str] =
        if std::env::var_os("CUSTOMERS_TEST_LONG").is_some() { &long } else { &short };
    let cluster = Cluster::start().await;
    let output = Command::new(std::env::current_exe().unwrap())
        .args(chosen)
        .env("DATABASE_URL", &urls().database)
        .env("REDIS_URL", cluster.urls())
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let result = said.lines().find(|line| line.starts_with("test result: ")).unwrap_or_default();
    assert!(output.status.success(), "{said}");
    assert!(!result.contains(" 0 passed"), "{said}");
    println!("{result}");
}
