//! A new version of a projection, rolled out while a process of the old one serves.

use async_trait::async_trait;
use customers::events::customer::CustomerEvent;
use customers::events::log::StoredEvent;
use customers::events::log::notify::Subscription;
use customers::events::values::{CustomerId, Role};
use customers::pools::Pools;
use customers::projections::projector::Projector;
use customers::projections::rebuild::rebuild;
use customers::projections::verify::verify;
use customers::projections::{ALL, Projection, ProjectionError, Tally};
use rustix::process::Signal;
use secrecy::SecretString;
use serde_json::json;
use sqlx::{Connection as _, Executor as _, PgConnection, PgPool};
use tokio_util::sync::CancellationToken;

use crate::harness::{PATIENCE, Service, With as _, folder, send, variables};
use crate::process::{Process, command};

/// What a release with a new version would bring along.
const MIGRATION: [&str; 3] = [
    "create table customers_2 (id bigint primary key, shouted text not null, version bigint not null)",
    "insert into projections (name, version, checkpoint) values ('customers', 2, 0)",
    "insert into projection_tables (projection, version, table_name)
     values ('customers', 2, 'customers_2')",
];

/// Keeps other columns than version 1.
struct CustomersTwo;

impl CustomersTwo {
    async fn take(db: &mut PgConnection, events: &[StoredEvent]) -> Result<(), ProjectionError> {
        for stored in events {
            let Some(id) = stored.customer() else { continue };
            let position = stored.position;
            let event: CustomerEvent =
                stored.decode().map_err(|source| ProjectionError::Decode { position, source })?;
            let query = match event {
                CustomerEvent::CustomerCreated { name, .. }
                | CustomerEvent::CustomerUpdated { name, .. } => {
                    sqlx::query("delete from customers_2 where id = $1")
                        .bind(id.get())
                        .execute(&mut *db)
                        .await?;
                    sqlx::query("insert into customers_2 values ($1, $2, $3)")
                        .bind(id.get())
                        .bind(name.as_str().to_uppercase())
                        .bind(stored.sequence)
                }
                CustomerEvent::CustomerDeleted {} => {
                    sqlx::query("delete from customers_2 where id = $1").bind(id.get())
                }
            };
            query.execute(&mut *db).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Projection for CustomersTwo {
    fn name(&self) -> &'static str {
        "customers"
    }

    fn version(&self) -> i32 {
        2
    }

    fn tables(&self) -> &'static [&'static str] {
        &["customers_2"]
    }

    async fn apply(
        &self,
        db: &mut PgConnection,
        page: &[StoredEvent],
    ) -> Result<(), ProjectionError> {
        Self::take(db, page).await
    }

    async fn fill(
        &self,
        db: &mut PgConnection,
        streams: &[StoredEvent],
    ) -> Result<Tally, ProjectionError> {
        let before = self.tally(db).await?;
        Self::take(db, streams).await?;
        let after = self.tally(db).await?;
        let (rows, checksum) = (after.rows - before.rows, after.checksum - before.checksum);
        Ok(Tally { rows, checksum })
    }

    async fn tally(&self, db: &mut PgConnection) -> Result<Tally, ProjectionError> {
        let (rows, sum): (i64, i64) = sqlx::query_as(
            "select count(*), coalesce(sum(id * version), 0)::bigint from customers_2",
        )
        .fetch_one(db)
        .await?;
        Ok(Tally { rows, checksum: sum.into() })
    }

    async fn compare(
        &self,
        db: &mut PgConnection,
        streams: &[StoredEvent],
    ) -> Result<(i64, Option<String>), ProjectionError> {
        // What it shows is looked at customer by customer below.
        let ids: Vec<i64> =
            streams.iter().filter_map(StoredEvent::customer).map(CustomerId::get).collect();
        let rows = sqlx::query_scalar("select count(*) from customers_2 where id = any($1)")
            .bind(ids)
            .fetch_one(db)
            .await?;
        Ok((rows, None))
    }
}

async fn shouted(db: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar("select shouted from customers_2 order by id").fetch_all(db).await
}

/// What version 2 shows of the customer.
async fn name_in_two(pool: &PgPool, id: i64) -> Option<String> {
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

    // The new release: migrated, built beside what serves, followed.
    let mut owner = PgConnection::connect(&url).await.unwrap();
    for statement in MIGRATION {
        owner.execute(statement).await.unwrap();
    }
    let pools = Pools::new(&SecretString::from(url)).unwrap();
    rebuild(&CustomersTwo, &pools.rebuild).await.unwrap();
    let shutdown = CancellationToken::new();
    let appends = Subscription::start(&pools.appender, pools.notify.clone(), &shutdown);
    let new = Projector::start(&CustomersTwo, pools.projector.clone(), appends, shutdown.clone());
    for n in 1..=20 {
        let path = format!("/customers/{n}");
        let name = format!("Changed {n}");
        let position = write(reqwest::Method::PUT, &path, &name).await;
        let read = send(old.request(reqwest::Method::GET, &path).login(&admin)).await;
        assert_eq!(read.body["name"], name);
        assert!(new.reached(position, PATIENCE).await);
        assert_eq!(name_in_two(&pools.read, n).await, Some(name.to_uppercase()));
        if n % 5 == 0 {
            // Either is rebuilt without the other's knowledge.
            assert_eq!(rebuild(&CustomersTwo, &pools.rebuild).await.unwrap().changed, 0);
            assert_eq!(rebuild(ALL[0], &pools.rebuild).await.unwrap().changed, 0);
        }
    }
    let position = write(reqwest::Method::DELETE, "/customers/3", "").await;
    assert!(new.reached(position, PATIENCE).await);
    assert_eq!(name_in_two(&pools.read, 3).await, None);
    let list = send(old.request(reqwest::Method::GET, "/customers").login(&admin)).await;
    assert_eq!(list.body["number"], 19);
    for projection in ALL {
        assert_eq!(verify(projection, &pools.bulk).await.unwrap().difference, None);
    }
    assert_eq!(shouted(&mut owner).await.unwrap().len(), 19);
    assert_eq!(old.end(Signal::TERM).await, Some(0));
    shutdown.cancel();
}
