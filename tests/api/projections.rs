//! The read tables: the result of a rebuild, the result of the projector and the fold of the log are
//! equal.

use chrono::NaiveDate;
use customers::commands::{Bus, CustomerCommand, ExternalIdChange, IfMatch};
use customers::events::customer::CustomerValues;
use customers::events::log::read;
use customers::events::metadata::Metadata;
use customers::events::values::{CustomerId, DateOfBirth, Name, Role};
use customers::postgres::Pool;
use customers::postgres::transaction::begin;
use customers::projections::customers::Customers;
use customers::projections::rebuild::rebuild;
use customers::projections::verify::verify;
use customers::projections::{ALL, Projection};
use proptest::prelude::*;
use serde_json::json;
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::harness::{Login, Service, With as _, send};

/// A generated command for the customer with this index, if it exists.
#[derive(Debug, Clone)]
enum Step {
    Create(u8),
    Update(usize, u8),
    Delete(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => any::<u8>().prop_map(Step::Create),
        3 => (0..8_usize, any::<u8>()).prop_map(|(index, n)| Step::Update(index, n)),
        1 => (0..8_usize).prop_map(Step::Delete),
    ]
}

fn person(n: u8) -> (Name, DateOfBirth) {
    let date = NaiveDate::from_ymd_opt(1990, 1, 1 + u32::from(n % 28)).unwrap();
    (Name::parse(&format!("Person {n}")).unwrap(), DateOfBirth::stored(date))
}

async fn execute(bus: &Bus, steps: &[Step]) {
    let mut ids: Vec<CustomerId> = vec![];
    for step in steps {
        let result = match step {
            Step::Create(n) => {
                let (name, dob) = person(*n);
                let written =
                    bus.create(CustomerValues::new(name, dob), Metadata::default()).await.unwrap();
                ids.push(written.id);
                continue;
            }
            Step::Update(index, n) => {
                let Some(id) = ids.get(*index) else { continue };
                let (name, dob) = person(*n);
                let command = CustomerCommand::Update {
                    name,
                    dob,
                    external_id: ExternalIdChange::Keep,
                    if_match: IfMatch::Any,
                };
                bus.change(*id, command, Metadata::default()).await
            }
            Step::Delete(index) => {
                let Some(id) = ids.get(*index) else { continue };
                let command = CustomerCommand::Delete { if_match: IfMatch::Any };
                bus.change(*id, command, Metadata::default()).await
            }
        };
        // A command on a deleted customer is refused, which is worth a step too.
        drop(result);
    }
}

async fn rows(pool: &Pool) -> Vec<String> {
    sqlx::query_scalar("select customers::text from customers order by dob desc, id")
        .fetch_all(pool)
        .await
        .unwrap()
}

/// The rows of the two other tables.
const HISTORY_AND_SEARCH: &str = "select h::text from customer_history h
    union all select s::text from customer_search s order by 1";

async fn history(pool: &Pool) -> Vec<String> {
    sqlx::query_scalar(HISTORY_AND_SEARCH).fetch_all(pool).await.unwrap()
}

/// The rows of both tables after the log is applied in pages of these sizes, in turn. The transaction is
/// rolled back, so the tables do not change.
async fn by_pages(pool: &Pool, sizes: &[i64]) -> (Vec<String>, Vec<String>) {
    let mut transaction = begin(pool).await.unwrap();
    transaction.execute("truncate customers, customer_history, customer_search").await.unwrap();
    let mut position = 0;
    for size in sizes.iter().cycle() {
        let page = read::page(&mut *transaction, position, *size).await.unwrap();
        let Some(last) = page.last() else { break };
        position = last.position;
        for projection in ALL {
            projection.apply(&mut transaction, &page).await.unwrap();
        }
    }
    let customers =
        sqlx::query_scalar("select customers::text from customers order by dob desc, id")
            .fetch_all(&mut *transaction)
            .await
            .unwrap();
    let history =
        sqlx::query_scalar(HISTORY_AND_SEARCH).fetch_all(&mut *transaction).await.unwrap();
    (customers, history)
}

/// Begins a rebuild and drops it after `after` milliseconds.
async fn interrupted_rebuild(projection: &'static dyn Projection, pool: &Pool, after: u64) {
    let work = rebuild(projection, pool);
    let _ = tokio::time::timeout(std::time::Duration::from_millis(after), work).await;
}

/// Property: for any commands, page sizes and moments at which rebuilds are interrupted, the live rows,
/// the rows from other pages, the rows of a rebuild and the fold of the log are equal.
#[test]
fn a_rebuild_gives_what_following_gave_and_what_the_log_says() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let service = runtime.block_on(Service::start());
    let bus = Bus::new(service.pools.appender.clone(), service.pools.short.clone());
    let config = ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() };
    let sizes = prop::collection::vec(1..20_i64, 1..5);
    let stops = prop::collection::vec(0..40_u64, 0..3);
    let commands = prop::collection::vec(step(), 1..40);
    proptest!(config, |(steps in commands, sizes in sizes, stops in stops)| {
        runtime.block_on(async {
            let pool = &service.pools.long;
            execute(&bus, &steps).await;
            service.caught_up().await;
            let live = (rows(pool).await, history(pool).await);
            prop_assert_eq!(&by_pages(pool, &sizes).await, &live, "by pages");
            for projection in ALL {
                prop_assert_eq!(verify(projection, pool).await.unwrap().difference, None, "log");
                for after in &stops {
                    interrupted_rebuild(projection, &service.pools.rebuild, *after).await;
                }
                let rebuilt = rebuild(projection, &service.pools.rebuild).await.unwrap();
                prop_assert_eq!(rebuilt.position, read::head(pool).await.unwrap(), "position");
                prop_assert_eq!(rebuilt.changed, 0, "changed");
            }
            prop_assert_eq!((rows(pool).await, history(pool).await), live, "rebuilt");
            Ok(())
        })?;
    });
    runtime.block_on(service.stop());
}

/// Imports so many customers.
async fn import(service: &Service, admin: &Login, lines: usize) {
    let lines: Vec<String> =
        (0..lines).map(|n| format!("Person {n},1990-01-{:02}\n", 1 + n % 28)).collect();
    let import = service.post("/customers/import").header("content-type", "text/csv");
    let imported = send(import.login(admin).body(format!("name,dob\n{}", lines.concat()))).await;
    assert_eq!(imported.status, 200, "{imported:?}");
    service.caught_up().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_many_new_customers_gives_what_pages_of_few_give() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    let bus = Bus::new(service.pools.appender.clone(), service.pools.short.clone());
    let steps = [Step::Create(1), Step::Create(2), Step::Update(0, 3), Step::Delete(1)];
    execute(&bus, &steps).await;
    import(&service, &admin, 700).await;
    execute(&bus, &[&steps[..], &[Step::Update(0, 5), Step::Create(6)]].concat()).await;
    import(&service, &admin, 250).await;
    service.caught_up().await;
    let pool = &service.pools.long;
    let live = (rows(pool).await, history(pool).await);
    assert_eq!(live.0.len(), 953);
    for sizes in [&[1][..], &[199, 3], &[200, 201, 400], &[2_000]] {
        assert_eq!(by_pages(pool, sizes).await, live, "{sizes:?}");
    }
    for projection in ALL {
        assert_eq!(verify(projection, pool).await.unwrap().difference, None);
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_the_service_has_not_written_is_overwritten_in_a_page_of_many() {
    let service = Service::start().await;
    let foreign = "insert into customers (id, name, dob, version, created_at, updated_at)
                   select 150, 'Mallory', date '1990-01-01', 7, now(), now()";
    let mut owner = PgConnection::connect(service.database_url()).await.unwrap();
    owner.execute(foreign).await.unwrap();
    let admin = service.log_in_as(Role::Admin).await;
    import(&service, &admin, 700).await;
    let row: (String, i64) = sqlx::query_as("select name, version from customers where id = 150")
        .fetch_one(&service.pools.long)
        .await
        .unwrap();
    assert_eq!(row, ("Person 149".to_owned(), 1));
    assert_eq!(verify(ALL[0], &service.pools.long).await.unwrap().parked.len(), 0);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verify_names_the_first_difference_and_a_rebuild_mends_it() {
    let service = Service::start().await;
    let bus = Bus::new(service.pools.appender.clone(), service.pools.short.clone());
    let pool = &service.pools.long;
    execute(&bus, &[Step::Create(1), Step::Create(2), Step::Create(3)]).await;
    service.caught_up().await;
    for (mistake, expected) in [
        ("update customers set name = 'Eve' where id = 2", "customer 2: the table has"),
        ("delete from customers where id = 1", "customer 1: in the log, not in the table"),
        (
            "insert into customers values (9, 'Eve', '2000-01-01', 1, now(), now())",
            "customer 9: in the table, not in the log",
        ),
        ("update customers set created_at = now() where id = 3", "customer 3: the table has"),
    ] {
        pool.execute(mistake).await.unwrap();
        let difference = verify(&Customers, pool).await.unwrap().difference.unwrap();
        assert!(difference.starts_with(expected), "{mistake}: {difference}");
        rebuild(&Customers, &service.pools.rebuild).await.unwrap();
        assert_eq!(verify(&Customers, pool).await.unwrap().difference, None);
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_go_on_while_a_rebuild_runs_and_writes_arrive_after_it() {
    let service = Service::start().await;
    let login = service.log_in_as(Role::Editor).await;
    let ada = json!({"name": "Ada", "dob": "1990-12-10"});
    for _ in 0..20 {
        assert_eq!(send(service.post("/customers").login(&login).json(&ada)).await.status, 201);
    }
    let pool = service.pools.rebuild.clone();
    let rebuilds = tokio::spawn(async move {
        for _ in 0..20 {
            rebuild(&Customers, &pool).await.unwrap();
        }
    });
    let mut expected = 20;
    while !rebuilds.is_finished() {
        let list = send(service.get("/customers").login(&login)).await;
        assert_eq!(list.body["number"], expected, "a reader saw a half-built table");
        let created = send(service.post("/customers").login(&login).json(&ada)).await;
        assert_eq!(created.status, 201);
        expected += 1;
        let position = created.position().to_string();
        let read = service.get("/customers?numbers=0").login(&login);
        assert_eq!(send(read.header("min-event-position", position)).await.status, 200);
    }
    rebuilds.await.unwrap();
    service.caught_up().await;
    assert_eq!(verify(&Customers, &service.pools.long).await.unwrap().difference, None);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_share_the_work_and_apply_nothing_twice() {
    let config = crate::harness::config().await;
    let (a, b) = (Service::with(config.clone()).await, Service::with(config).await);
    let login = a.log_in_as(Role::Editor).await;
    let ada = json!({"name": "Ada", "dob": "1990-12-10"});
    let writes = (0..60).map(|i| {
        let service = if i % 2 == 0 { &a } else { &b };
        send(service.post("/customers").login(&login).json(&ada))
    });
    for answer in futures_util::future::join_all(writes).await {
        assert_eq!((answer.status, answer.header("projection-pending")), (201, None));
    }
    let list = send(b.get("/customers").login(&login)).await;
    assert_eq!(list.body["number"], 60);
    assert_eq!(verify(&Customers, &a.pools.long).await.unwrap().difference, None);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_projection_that_stands_still_holds_no_other_back() {
    let service = Service::start().await;
    let login = service.log_in_as(Role::Admin).await;
    let ada = json!({"name": "Ada", "dob": "1990-12-10"});
    // This request binds the session, which appends an event.
    assert_eq!(send(service.get("/customers").login(&login)).await.status, 200);
    service.caught_up().await;
    let mut locking = PgConnection::connect(service.database_url()).await.unwrap();
    let mut locked = locking.begin().await.unwrap();
    locked.execute("lock table customer_history in share mode").await.unwrap();
    for number in 1..=20 {
        let created = send(service.post("/customers").login(&login).json(&ada)).await;
        assert_eq!((created.status, created.header("projection-pending")), (201, None));
        let list = send(service.get("/customers").login(&login)).await;
        assert_eq!(list.body["number"], number);
    }
    let told = send(service.get("/projections").login(&login)).await;
    assert_eq!(told.body["projections"][0]["lag_events"], 0);
    assert_eq!(told.body["projections"][1]["lag_events"], 20);
    locked.commit().await.unwrap();
    service.caught_up().await;
    for projection in ALL {
        assert_eq!(verify(projection, &service.pools.long).await.unwrap().difference, None);
    }
    service.stop().await;
}
