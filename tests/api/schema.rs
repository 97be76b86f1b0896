//! The privileges of the service's role, and migrations: the role can do what the service does, and no
//! more.

use customers::events::values::Role;
use customers::projections::ALL;
use customers::projections::parked::retry;
use customers::projections::rebuild::{rebuild, rollback};
use customers::schema;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::harness::{Service, With as _, config_on, database, empty_database, send, unique_name};

/// The URL of the same database for another role.
fn url_for(database_url: &str, role: &str) -> String {
    let (_, host) = database_url.split_once('@').unwrap();
    format!("postgres://{role}:secret@{host}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_services_role_appends_through_the_function_and_in_no_other_way() {
    let owner = database().await;
    let role = unique_name("role");
    let mut admin = PgConnection::connect(&owner).await.unwrap();
    let create = format!("create role {role} login password 'secret'");
    admin.execute(create.as_str()).await.unwrap();
    let url = url_for(&owner, &role);
    let (as_owner, as_role) = (SecretString::from(owner), SecretString::from(url.clone()));
    schema::migrate(&as_owner, Some(&as_role)).await.unwrap();

    let service = Service::with(config_on(&url)).await;
    let login = service.log_in_as(Role::Admin).await;
    let ada = json!({"name": "Ada", "dob": "1990-12-10"});
    let created = send(service.post("/customers").login(&login).json(&ada)).await;
    assert_eq!((created.status, created.header("projection-pending")), (201, None));
    let path = created.header("location").unwrap();
    assert_eq!(send(service.get(&format!("{path}/history")).login(&login)).await.status, 200);
    assert_eq!(send(service.delete(path).login(&login)).await.status, 200);
    let keyed = service.post("/customers").header("idempotency-key", "k").login(&login);
    assert_eq!(send(keyed.json(&ada)).await.status, 201);
    let import = service.post("/customers/import").header("content-type", "text/csv");
    let imported = send(import.login(&login).body("name,dob\nAda,1990-12-10")).await;
    assert!(imported.text.contains("\"created\":1"), "{imported:?}");
    for projection in ALL {
        rebuild(projection, &service.pools.rebuild).await.unwrap();
        rollback(projection, &service.pools.rebuild).await.unwrap();
        rebuild(projection, &service.pools.rebuild).await.unwrap();
        retry(projection, &service.pools.long).await.unwrap();
    }
    let seen = send(service.get("/customers").login(&login)).await;
    assert_eq!((seen.status, &seen.body["number"]), (200, &json!(2)));
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let left: i64 = sqlx::query_scalar("select count(*) from imports")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(left, 0, "a finished import is not kept");
    assert_eq!(send(service.delete("/logout").login(&login)).await.status, 200);

    for statement in [
        "insert into events select * from events",
        "update events set event_type = 'x'",
        "delete from events",
        "truncate events",
        "alter table events disable trigger all",
        "drop trigger events_append_only on events",
        "delete from accounts",
        "delete from projections",
        "truncate customers",
        "alter table customers set schema shadow",
        "drop table previous.customers",
        "insert into projection_tables values ('events', 'customers', 1)",
        "create table shadow.mine (id int)",
        "update imports set lines_done = 0",
        "insert into idempotency_keys select * from idempotency_keys",
        "create table mine (id int)",
        "set session_replication_role = replica",
    ] {
        let error = connection.execute(statement).await.unwrap_err();
        let code = error.as_database_error().unwrap().code().unwrap().into_owned();
        assert_eq!(code, "42501", "{statement}: {error}");
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_that_is_missing_or_another_stops_the_start() {
    let url = SecretString::from(empty_database().await);
    let pool = sqlx::PgPool::connect(url.expose_secret()).await.unwrap();
    let error = schema::check(&url).await.unwrap_err().to_string();
    assert!(error.contains("customers migrate"), "{error}");
    // Two concurrent migrations run one after the other.
    let (first, second) =
        tokio::join!(schema::migrate(&url, None), schema::migrate(&url, Some(&url)));
    first.unwrap();
    second.unwrap();
    schema::check(&url).await.unwrap();
    pool.execute("update _sqlx_migrations set checksum = 'x' where version = 2").await.unwrap();
    assert!(schema::check(&url).await.is_err());
}
