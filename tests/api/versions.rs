//! The roll-out of a new version of a projection while a process with the old version serves.

use std::collections::BTreeMap;

use customers::events::customer::CustomerEvent;
use customers::events::log::StoredEvent;
use customers::events::log::notify::Subscription;
use customers::events::values::{CustomerId, Role};
use customers::pools::Pools;
use customers::postgres::copy::CopyEncoder;
use customers::postgres::{Connection, Pool};
use customers::projections::projector::Projector;
use customers::projections::rebuild::rebuild;
use customers::projections::verify::verify;
use customers::projections::{ALL, ProjectionError, TableProjection, TableRow};
use customers::tasks::Tasks;
use rustix::process::Signal;
use secrecy::SecretString;
use serde_json::json;
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::harness::{PATIENCE, Service, With as _, folder, send, variables};
use crate::process::{Process, command};

/// The migration of a release with version 2.
const MIGRATION: [&str; 4] = [
    "create table customers_2 (id bigint primary key, shouted text not null, version bigint not null)",
    "insert into projections (name, version, checkpoint) values ('customers', 2, 0)",
    "insert into projection_tables (projection, version, table_name)
     values ('customers', 2, 'customers_2')",
    "select partition_read_table('customers_2')",
];

/// Version 2, with other columns than version 1. A new projection needs only its row, its fold and the
/// application of a page.
struct CustomersTwo;

#[derive(Debug, PartialEq, sqlx::FromRow)]
struct Row {
    id: i64,
    shouted: String,
    version: i64,
}

impl TableRow for Row {
    const TABLE: &'static str = "customers_2";
    const COLUMNS: &'static [&'static str] = &["id", "shouted", "version"];
    const KEY: &'static [&'static str] = &["id"];

    fn label(&self) -> String {
        format!("customer {}", self.id)
    }

    fn encode(&self, row: &mut CopyEncoder) -> Result<(), sqlx::Error> {
        row.field(self.id)?;
        row.field(self.shouted.as_str())?;
        row.field(self.version)
    }
}

/// The last state of each customer of a page; `None` after a deletion.
fn last_states(page: &[StoredEvent]) -> Result<BTreeMap<i64, Option<Row>>, ProjectionError> {
    let mut states = BTreeMap::new();
    for stored in page {
        let Some(id) = stored.customer().map(CustomerId::get) else { continue };
        let position = stored.position;
        let event: CustomerEvent =
            stored.decode().map_err(|source| ProjectionError::Decode { position, source })?;
        let state = match event {
            CustomerEvent::CustomerCreated { name, .. }
            | CustomerEvent::CustomerUpdated { name, .. }
            | CustomerEvent::CustomerRestored { name, .. } => {
                Some(Row { id, shouted: name.as_str().to_uppercase(), version: stored.sequence })
            }
            CustomerEvent::CustomerDeleted {} => None,
        };
        states.insert(id, state);
    }
    Ok(states)
}

impl TableProjection for CustomersTwo {
    const NAME: &'static str = "customers";
    const VERSION: i32 = 2;
    type Row = Row;

    fn fold(streams: &[StoredEvent]) -> Result<Vec<Row>, ProjectionError> {
        Ok(last_states(streams)?.into_values().flatten().collect())
    }

    async fn apply_page(db: &mut Connection, page: &[StoredEvent]) -> Result<(), ProjectionError> {
        for (id, state) in last_states(page)? {
            sqlx::query("delete from customers_2 where id = $1").bind(id).execute(&mut *db).await?;
            if let Some(Row { id, shouted, version }) = state {
                sqlx::query("insert into customers_2 values ($1, $2, $3)")
                    .bind(id)
                    .bind(shouted)
                    .bind(version)
                    .execute(&mut *db)
                    .await?;
            }
        }
        Ok(())
    }
}

async fn shouted(db: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar("select shouted from customers_2 order by id").fetch_all(db).await
}

/// The name of the customer in the table of version 2.
async fn name_in_two(pool: &Pool, id: i64) -> Option<String> {
    sqlx::query_scalar("select shouted from customers_2 where id = $1")
        .bind(id)
        .fetch_optional(pool)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_version_is_built_beside_the_old_one_and_both_answer_rightly() {
    let service = Service::start().await;
    service.add_account("admin", Role::Admin).await;
    let url = service.database_url().to_owned();
    let mut serve = command(&["serve"], &folder("versions"));
    serve.envs(variables(&url));
    let old = Process::start(serve).await;
    let admin = old.log_in("admin").await;
    let write = async |method: reqwest::Method, path: &str, name: &str| {
        let body = json!({"name": name, "dob": "1990-12-10"});
        let answer = send(old.request(method, path).login(&admin).json(&body)).await;
        assert_eq!(answer.header("projection-pending"), None, "{answer:?}");
        answer.position()
    };
    for n in 1..=20 {
        write(reqwest::Method::POST, "/customers", &format!("Person {n}")).await;
    }
    service.stop().await;

    // The new release migrates, builds version 2 next to the served table, and follows the log.
    let mut owner = PgConnection::connect(&url).await.unwrap();
    for statement in MIGRATION {
        owner.execute(statement).await.unwrap();
    }
    let pools = Pools::new(&SecretString::from(url)).unwrap();
    rebuild(&CustomersTwo, &pools.rebuild).await.unwrap();
    let tasks = Tasks::default();
    let appends = Subscription::start(&pools.appender, pools.notify.clone(), &tasks);
    let new = Projector::start(&CustomersTwo, pools.projector.clone(), appends, &tasks);
    for n in 1..=20 {
        let path = format!("/customers/{n}");
        let name = format!("Changed {n}");
        let position = write(reqwest::Method::PUT, &path, &name).await;
        let read = send(old.request(reqwest::Method::GET, &path).login(&admin)).await;
        assert_eq!(read.body["name"], name);
        assert!(new.wait_for_position(position, PATIENCE).await);
        assert_eq!(name_in_two(&pools.short, n).await, Some(name.to_uppercase()));
        if n % 5 == 0 {
            // A rebuild of one version does not affect the other.
            assert_eq!(rebuild(&CustomersTwo, &pools.rebuild).await.unwrap().changed, 0);
            assert_eq!(rebuild(ALL[0], &pools.rebuild).await.unwrap().changed, 0);
        }
    }
    let position = write(reqwest::Method::DELETE, "/customers/3", "").await;
    assert!(new.wait_for_position(position, PATIENCE).await);
    assert_eq!(name_in_two(&pools.short, 3).await, None);
    let list = send(old.request(reqwest::Method::GET, "/customers").login(&admin)).await;
    assert_eq!(list.body["number"], 19);
    for projection in ALL {
        assert_eq!(verify(projection, &pools.long).await.unwrap().difference, None);
    }
    assert_eq!(shouted(&mut owner).await.unwrap().len(), 19);
    assert_eq!(old.end(Signal::TERM).await, Some(0));
    tasks.shut_down(PATIENCE).await;
}
