//! Which host of PostgreSQL is used: the URLs may name several, and a host may stop, stop answering, or no
//! longer be what it was.

use std::net::{SocketAddr, TcpListener};

use customers::dev::Servers;
use customers::events::values::Role;
use customers::schema;
use secrecy::SecretString;
use serde_json::json;
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::guards::role;
use crate::harness::{
    Login, Service, With as _, config_on, database, folder, postgres_alone, send, until, variables,
};
use crate::lost_connections::server_of;
use crate::process::command;
use crate::proxy::Proxy;
use crate::replica::standby_of;

/// The URL with these hosts in place of its own.
fn with_hosts(url: &str, hosts: &[&str]) -> String {
    url.replace(&server_of(url).to_string(), &hosts.join(","))
}

/// An address at which nothing listens.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

async fn create(service: &Service, admin: &Login) -> u16 {
    let ada = json!({"name": "Ada", "dob": "1990-12-10"});
    send(service.post("/customers").login(admin).json(&ada)).await.status
}

/// A primary and its standby, which has all events.
async fn pair() -> (Servers, Servers) {
    let (of_first, of_second) = (folder("first"), folder("second"));
    let first = Servers::start(postgres_alone(&of_first, [9; 32])).await.unwrap();
    let url = first.database_url().unwrap().to_owned();
    schema::migrate(&SecretString::from(url.clone()), None).await.unwrap();
    let second = standby_of(&of_first, &url, &of_second, "").await;
    (first, second)
}

async fn until_in_sync(first: &Servers, second: &Servers) {
    let mut connections = vec![];
    for servers in [first, second] {
        connections.push(PgConnection::connect(servers.database_url().unwrap()).await.unwrap());
    }
    until("the standby has the log and the read tables", async || {
        let mut shown = vec![];
        for connection in &mut connections {
            let counts = "select (select coalesce(max(position), 0) from events),
                                 (select count(*) from customers)";
            shown
                .push(sqlx::query_as::<_, (i64, i64)>(counts).fetch_one(connection).await.unwrap());
        }
        shown[0] == shown[1]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_host_that_answers_nothing_is_left_without_any_write() {
    let (first, second) = pair().await;
    let url = first.database_url().unwrap().to_owned();
    let proxy = Proxy::start(server_of(&url)).await;
    let to_second = server_of(second.database_url().unwrap()).to_string();
    let both = with_hosts(&url, &[&proxy.address.to_string(), &to_second]);
    let service = Service::with(config_on(&both)).await;
    let admin = service.log_in_as(Role::Admin).await;
    assert_eq!(create(&service, &admin).await, 201);
    service.caught_up().await;
    until_in_sync(&first, &second).await;
    proxy.become_black_hole();
    first.stop().await;
    let mut on_second = PgConnection::connect(second.database_url().unwrap()).await.unwrap();
    on_second.execute("select pg_promote()").await.unwrap();
    until("the customer is read at the second host", async || {
        send(service.get("/customers/1").login(&admin)).await.status == 200
    })
    .await;
    assert_eq!(create(&service, &admin).await, 201);
    service.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_refuses_writes_by_a_setting_is_passed_over() {
    let (first, second) = pair().await;
    let url = first.database_url().unwrap().to_owned();
    let second_url = second.database_url().unwrap().to_owned();
    until_in_sync(&first, &second).await;
    let mut on_first = PgConnection::connect(&url).await.unwrap();
    on_first.execute("alter system set default_transaction_read_only = on").await.unwrap();
    on_first.execute("select pg_reload_conf()").await.unwrap();
    let mut on_second = PgConnection::connect(&second_url).await.unwrap();
    on_second.execute("select pg_promote()").await.unwrap();
    let both =
        with_hosts(&url, &[&server_of(&url).to_string(), &server_of(&second_url).to_string()]);
    let service = Service::with(config_on(&both)).await;
    let admin = service.log_in_as(Role::Admin).await;
    assert_eq!(create(&service, &admin).await, 201);
    // The second one is fenced while the first one accepts writes again: they are the same to this test.
    on_second.execute("alter system set default_transaction_read_only = on").await.unwrap();
    on_second.execute("select pg_reload_conf()").await.unwrap();
    on_first.execute("alter system reset default_transaction_read_only").await.unwrap();
    on_first.execute("select pg_reload_conf()").await.unwrap();
    let events = "select count(*) from pg_stat_activity where application_name like 'customers%'";
    until("its connections lead to the first host", async || {
        sqlx::query_scalar::<_, i64>(events).fetch_one(&mut on_first).await.unwrap() > 0
    })
    .await;
    service.stop().await;
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_refuses_writes_by_a_setting_is_named_with_the_setting() {
    let owner = database().await;
    let (name, url) = role(&owner).await;
    let secret = SecretString::from(url.clone());
    schema::migrate(&SecretString::from(owner.clone()), Some(&secret)).await.unwrap();
    let mut admin = PgConnection::connect(&owner).await.unwrap();
    let set = format!("alter role {name} set default_transaction_read_only = on");
    admin.execute(set.as_str()).await.unwrap();
    for error in [
        schema::migrate(&secret, None).await.map(drop).unwrap_err(),
        schema::check(&secret).await.unwrap_err(),
    ] {
        let text = format!("{:#}", anyhow::Error::from(error));
        assert!(text.contains("default_transaction_read_only"), "{text}");
    }
    let mut doctor = command(&["doctor"], &folder("doctor"));
    let told = doctor.envs(variables(&url)).output().await.unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(told.contains("FAIL") && told.contains("default_transaction_read_only"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_poolers_one_that_answers_is_used() {
    let direct = database().await;
    // For the service a server is as good as a pooler.
    let (first, second) = (Proxy::start(nobody()).await, Proxy::start(server_of(&direct)).await);
    let hosts = [&first, &second].map(|proxy| proxy.address.to_string());
    let mut config = config_on(&direct);
    config.pool_database_url =
        Some(SecretString::from(with_hosts(&direct, &[&hosts[0], &hosts[1]])));
    let service = Service::with(config).await;
    let admin = service.log_in_as(Role::Admin).await;
    assert_eq!(create(&service, &admin).await, 201);
    let is_read = async || send(service.get("/customers/1").login(&admin)).await.status == 200;
    until("it is read at the second", is_read).await;
    first.move_to(server_of(&direct));
    second.move_to(nobody());
    second.cut_all();
    until("it is read at the first", is_read).await;
    second.move_to(server_of(&direct));
    first.become_black_hole();
    until("it is read at the second again", is_read).await;
    service.stop().await;
}
