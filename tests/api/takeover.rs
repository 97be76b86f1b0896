//! Nobody owns a projection: when the process that is at work is gone, another goes on.

use customers::commands::Bus;
use customers::dev::demo;
use customers::events::metadata::Metadata;
use customers::pools::Pools;
use customers::projections::checkpoint::checkpoint_of;
use customers::projections::customer_history::CustomerHistory;
use customers::projections::customers::Customers;
use customers::projections::verify::verify;
use customers::projections::{ALL, Projection};
use rustix::process::Signal;
use secrecy::SecretString;
use sqlx::{Connection as _, Executor as _, PgConnection, PgPool};

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
        bus.create(name, dob, Metadata::of_program("test")).await.unwrap();
    }
}

async fn is_at(pool: &PgPool, position: i64) {
    until("the projections are there", async || {
        for projection in ALL {
            if checkpoint_of(projection, pool).await.unwrap() != position {
                return false;
            }
        }
        true
    })
    .await;
}

async fn exists(connection: &mut PgConnection, what: &str, query: &str) {
    let connection = tokio::sync::Mutex::new(connection);
    until(what, async || {
        let mut connection = connection.lock().await;
        let found: Option<i32> =
            sqlx::query_scalar(query).fetch_optional(&mut **connection).await.unwrap();
        found.is_some()
    })
    .await;
}

/// A process that is stopped in the middle of a page: it holds the checkpoint's row, and PostgreSQL
/// waits for what it says next.
async fn stopped_in_a_page(bus: &Bus, database_url: &str, position: i64) -> Process {
    let one = serve(database_url).await;
    let mut watching = PgConnection::connect(database_url).await.unwrap();
    let mut locking = PgConnection::connect(database_url).await.unwrap();
    let pools = Pools::new(&SecretString::from(database_url)).unwrap();
    is_at(&pools.read, position).await;
    let mut locked = locking.begin().await.unwrap();
    locked.execute("lock table customers in share mode").await.unwrap();
    // The page waits for the lock, for 2 s at most: what follows does not take so long.
    create(bus, 1).await;
    let waits = "select 1 from pg_locks join pg_database on pg_database.oid = database
                 where datname = current_database() and not granted
                   and relation = 'customers'::regclass";
    exists(&mut watching, "it writes a page", waits).await;
    one.signal(Signal::STOP);
    locked.commit().await.unwrap();
    let idle = "select 1 from pg_stat_activity
                where datname = current_database() and state like 'idle in transaction%'";
    exists(&mut watching, "it is stopped in the page", idle).await;
    create(bus, 49).await;
    one
}

async fn nothing_is_twice_or_missing(pool: &PgPool) {
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
    let bus = Bus::new(pools.appender.clone(), pools.read.clone());
    create(&bus, 10).await;
    let one = stopped_in_a_page(&bus, &url, 10).await;
    let two = serve(&url).await;
    is_at(&pools.read, 60).await;
    nothing_is_twice_or_missing(&pools.bulk).await;
    create(&bus, 10).await;
    is_at(&pools.read, 70).await;
    // It wakes up in the middle of its page, which is no longer its page.
    one.signal(Signal::CONT);
    create(&bus, 10).await;
    is_at(&pools.read, 80).await;
    two.kill().await;
    create(&bus, 10).await;
    // And is as good as before.
    is_at(&pools.read, 90).await;
    nothing_is_twice_or_missing(&pools.bulk).await;
    assert_eq!(one.end(Signal::TERM).await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_process_at_work_is_killed_another_goes_on() {
    let url = database().await;
    let pools = Pools::new(&SecretString::from(url.clone())).unwrap();
    let bus = Bus::new(pools.appender.clone(), pools.read.clone());
    create(&bus, 10).await;
    let one = stopped_in_a_page(&bus, &url, 10).await;
    let two = serve(&url).await;
    one.kill().await;
    is_at(&pools.read, 60).await;
    create(&bus, 10).await;
    is_at(&pools.read, 70).await;
    nothing_is_twice_or_missing(&pools.bulk).await;
    assert_eq!(two.end(Signal::TERM).await, Some(0));
}
