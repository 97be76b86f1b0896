//! No process owns a projection: when a process is stopped or killed in the middle of a page, another
//! process applies the log.

use customers::commands::Bus;
use customers::demo;
use customers::events::customer::CustomerValues;
use customers::events::log::read;
use customers::events::metadata::Metadata;
use customers::pools::Pools;
use customers::postgres::Pool;
use customers::projections::checkpoint::checkpoint_of;
use customers::projections::customer_history::CustomerHistory;
use customers::projections::customers::Customers;
use customers::projections::verify::verify;
use customers::projections::{ALL, Projection};
use rustix::process::Signal;
use secrecy::SecretString;
use sqlx::Executor as _;

use crate::harness::{database, folder, until, variables};
use crate::process::{Process, command};

async fn serve(database_url: &str) -> Process {
    let mut serve = command(&["serve"], &folder("takeover"));
    serve.envs(variables(database_url));
    Process::start(serve).await
}

async fn create(bus: &Bus, number: u64) {
    for i in 0..number {
        let (name, dob) = demo::person(i);
        bus.create(CustomerValues::new(name, dob), Metadata::of_program("test")).await.unwrap();
    }
}

/// Waits until both projections show the whole log.
async fn until_caught_up(pool: &Pool) {
    let head = read::head(pool).await.unwrap();
    until("the projections have caught up", async || {
        for projection in ALL {
            if checkpoint_of(projection, pool).await.unwrap() != head {
                return false;
            }
        }
        true
    })
    .await;
}

/// A process that is stopped (SIGSTOP) in the middle of a page: it holds the lock on the checkpoint, and
/// its transaction is idle.
async fn stopped_in_page(bus: &Bus, database_url: &str) -> Process {
    let one = serve(database_url).await;
    let pools = Pools::new(&SecretString::from(database_url)).unwrap();
    until_caught_up(&pools.short).await;
    let asked = async |question: &str| -> bool {
        sqlx::query_scalar(question).fetch_one(&pools.short).await.unwrap()
    };
    loop {
        let mut locked = pools.long.once().begin().await.unwrap();
        locked.execute("lock table customers in share mode").await.unwrap();
        create(bus, 1).await;
        let waits = "select exists (
                         select from pg_locks join pg_database on pg_database.oid = database
                         where datname = current_database() and not granted
                           and relation = 'customers'::regclass)";
        until("the page waits for the lock", async || asked(waits).await).await;
        one.signal(Signal::STOP);
        locked.commit().await.unwrap();
        until("the page has the lock", async || !asked(waits).await).await;
        let at_work = "select exists (
                           select from pg_stat_activity
                           where datname = current_database() and pid <> pg_backend_pid()
                             and application_name = 'customers projector' and state = 'active')";
        until("PostgreSQL has executed the statement", async || !asked(at_work).await).await;
        let idle = "select exists (
                        select from pg_stat_activity
                        where datname = current_database()
                          and state like 'idle in transaction%')";
        if asked(idle).await {
            create(bus, 49).await;
            return one;
        }
        // The page waits for the lock for 2 s at most; on a busy machine it may have timed out, so retry.
        one.signal(Signal::CONT);
    }
}

async fn assert_verified(pool: &Pool) {
    let all: [&dyn Projection; 2] = [&Customers, &CustomerHistory];
    for projection in all {
        assert_eq!(
            verify(projection, pool).await.unwrap().difference,
            None,
            "{}",
            projection.name()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_process_at_work_stands_still_another_goes_on_and_it_does_no_harm_later() {
    let url = database().await;
    let pools = Pools::new(&SecretString::from(url.clone())).unwrap();
    let bus = Bus::new(pools.appender.clone(), pools.short.clone());
    create(&bus, 10).await;
    let one = stopped_in_page(&bus, &url).await;
    let two = serve(&url).await;
    until_caught_up(&pools.short).await;
    assert_verified(&pools.long).await;
    create(&bus, 10).await;
    until_caught_up(&pools.short).await;
    // The stopped process continues in the middle of a page that the other process has applied.
    one.signal(Signal::CONT);
    create(&bus, 10).await;
    until_caught_up(&pools.short).await;
    two.kill().await;
    create(&bus, 10).await;
    // The resumed process applies the log again.
    until_caught_up(&pools.short).await;
    assert_verified(&pools.long).await;
    assert_eq!(one.end(Signal::TERM).await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_process_at_work_is_killed_another_goes_on() {
    let url = database().await;
    let pools = Pools::new(&SecretString::from(url.clone())).unwrap();
    let bus = Bus::new(pools.appender.clone(), pools.short.clone());
    create(&bus, 10).await;
    let one = stopped_in_page(&bus, &url).await;
    let two = serve(&url).await;
    one.kill().await;
    until_caught_up(&pools.short).await;
    create(&bus, 10).await;
    until_caught_up(&pools.short).await;
    assert_verified(&pools.long).await;
    assert_eq!(two.end(Signal::TERM).await, Some(0));
}
