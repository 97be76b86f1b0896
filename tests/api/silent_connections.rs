//! Connections to PostgreSQL that go silent: the other side has lost its power, or a firewall has forgotten
//! them. Nothing closes them, so only a limit of time ends what waits for their answers.

use std::time::Duration;

use customers::dev::Servers;
use customers::events::metadata::Metadata;
use customers::events::values::{Role, Username};
use customers::postgres::server::Demand;
use customers::postgres::transaction::begin;
use customers::postgres::{Pool, Server};
use customers::schema;
use futures_util::future::join_all;
use secrecy::SecretString;
use serde_json::json;
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::harness::{
    Answer, Login, PATIENCE, Service, With as _, config_on, database, folder, postgres_alone, send,
    until,
};
use crate::lost_connections::server_of;
use crate::proxy::Proxy;

/// Half as many requests at once as there are connections for short queries.
async fn read_at_once(service: &Service, admin: &Login) -> Vec<Answer> {
    let read = |_| send(service.get("/customers/1").login(admin));
    join_all((0..8).map(read)).await
}

async fn create(service: &Service, admin: &Login) -> Answer {
    let ada = json!({"name": "Ada", "dob": "1990-12-10"});
    send(service.post("/customers").login(admin).json(&ada)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_whose_connections_go_silent_are_answered_on_others() {
    let direct = database().await;
    let proxy = Proxy::start(server_of(&direct)).await;
    let service = Service::with(config_on(&proxy.url(&direct))).await;
    let admin = service.log_in_as(Role::Admin).await;
    service.add_account("other", Role::Viewer).await;
    assert_eq!(create(&service, &admin).await.status, 201);
    for _ in 0..2 {
        // All connections are open, and were used so lately that they are not asked first.
        assert!(read_at_once(&service, &admin).await.iter().all(|read| read.status == 200));
        proxy.silence();
        let other = Username::parse("other").unwrap();
        let (reads, created, changed) = tokio::join!(
            read_at_once(&service, &admin),
            create(&service, &admin),
            service.accounts().change_role(&other, Role::Editor, Metadata::of_program("test"))
        );
        for read in reads {
            assert_eq!(read.status, 200, "{read:?}");
        }
        assert_eq!(created.status, 201, "{created:?}");
        changed.unwrap();
        assert!(read_at_once(&service, &admin).await.iter().all(|read| read.status == 200));
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_server_has_vanished_everything_goes_on_at_its_successor() {
    let folder = folder("vanished");
    let start = async || Servers::start(postgres_alone(&folder, [5; 32])).await.unwrap();
    let servers = start().await;
    let url = servers.database_url().unwrap().to_owned();
    schema::migrate(&SecretString::from(url.clone()), None).await.unwrap();
    let proxy = Proxy::start(server_of(&url)).await;
    let service = Service::with(config_on(&proxy.url(&url))).await;
    let admin = service.log_in_as(Role::Admin).await;
    assert_eq!(create(&service, &admin).await.status, 201);
    service.caught_up().await;

    // A page of the projector, a long list and a short query wait for the table when the server vanishes.
    let mut owner = PgConnection::connect(&url).await.unwrap();
    owner.execute("begin; lock table customers in access exclusive mode").await.unwrap();
    let waiting = async {
        tokio::join!(
            create(&service, &admin),
            send(service.get("/customers").login(&admin)),
            send(service.get("/customers/1").login(&admin))
        )
    };
    let vanish = async {
        let mut watching = PgConnection::connect(&url).await.unwrap();
        until("they wait", async || {
            let waiting = "select count(*) from pg_locks
                where not granted and relation = 'customers'::regclass";
            sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut watching).await.unwrap() >= 3
        })
        .await;
        proxy.silence();
        servers.stop().await;
        let servers = start().await;
        proxy.move_to(server_of(servers.database_url().unwrap()));
        servers
    };
    let ((created, listed, read), servers) = tokio::join!(waiting, vanish);
    assert_eq!(created.status, 201, "{created:?}");
    assert_eq!(listed.status, 200, "{listed:?}");
    assert_eq!(read.status, 200, "{read:?}");
    let created = create(&service, &admin).await;
    assert_eq!((created.status, created.header("projection-pending")), (201, None));
    service.caught_up().await;
    service.stop().await;
    servers.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_synchronous_standby_is_not_acknowledged_by_the_limit() {
    let servers = Servers::start(postgres_alone(&folder("synchronous"), [6; 32])).await.unwrap();
    let url = servers.database_url().unwrap().to_owned();
    schema::migrate(&SecretString::from(url.clone()), None).await.unwrap();
    let service = Service::with(config_on(&url)).await;
    let admin = service.log_in_as(Role::Admin).await;
    assert_eq!(create(&service, &admin).await.status, 201);
    let mut owner = PgConnection::connect(&url).await.unwrap();
    owner.execute("alter system set synchronous_standby_names = 'nobody'").await.unwrap();
    owner.execute("select pg_reload_conf()").await.unwrap();
    let name = Username::parse("admin").unwrap();
    let (created, changed) = tokio::join!(
        create(&service, &admin),
        service.accounts().change_role(&name, Role::Admin, Metadata::of_program("test"))
    );
    assert_eq!(created.status, 503, "{created:?}");
    changed.unwrap_err();
    owner.execute("alter system reset synchronous_standby_names").await.unwrap();
    owner.execute("select pg_reload_conf()").await.unwrap();
    until("writes are accepted", async || create(&service, &admin).await.status == 201).await;
    service.stop().await;
    servers.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_connection_gives_its_place_in_the_pool_back() {
    let direct = database().await;
    let proxy = Proxy::start(server_of(&direct)).await;
    let server = Server::new(&proxy.url(&direct), Demand::Primary).unwrap();
    let pool = Pool::new(&server, "test", 1, PATIENCE, &[("statement_timeout", "1s")]);
    // Dropped while it waits for its answer.
    pool.execute("select 1").await.unwrap();
    let dropped =
        tokio::time::timeout(Duration::from_millis(100), pool.execute("select pg_sleep(60)"));
    assert!(dropped.await.is_err());
    proxy.silence();
    pool.execute("select 2").await.unwrap();
    // Returned to the pool after its answer.
    let returned = pool.acquire().await.unwrap();
    proxy.silence();
    drop(returned);
    pool.execute("select 3").await.unwrap();
    // Within a transaction, at its end, and when it is dropped.
    for step in ["statement", "commit", "drop"] {
        let mut transaction = begin(&pool).await.unwrap();
        proxy.silence();
        match step {
            "statement" => drop(transaction.execute("select 4").await.unwrap_err()),
            "commit" => {
                transaction.commit().await.unwrap_err();
                pool.execute("select 5").await.unwrap();
                continue;
            }
            _ => {}
        }
        drop(transaction);
        pool.execute("select 5").await.unwrap();
    }
}
