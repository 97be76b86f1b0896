//! A change of an account is made once and reported as it is, even if the connection is lost while it is made.

use customers::auth::account::{AccountError, Accounts, Change};
use customers::auth::account_changes::{AccountChange, Part};
use customers::events::account_key::{KeyExpiry, KeyName};
use customers::events::metadata::Metadata;
use customers::events::values::{Role, Username};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::harness::{PATIENCE, Service, config_on, database, until};
use crate::lost_connections::server_of;
use crate::proxy::{Cut, Proxy};

/// The backends that wait for a lock while they change an account.
async fn waiting(owner: &mut PgConnection) -> Vec<i32> {
    sqlx::query_scalar(
        "select pid from pg_stat_activity
         where application_name = 'customers accounts' and datname = current_database()
           and state = 'active' and wait_event_type = 'Lock'",
    )
    .fetch_all(owner)
    .await
    .unwrap()
}

async fn events(owner: &mut PgConnection, name: &Username, event: &str) -> i64 {
    sqlx::query_scalar("select count(*) from events where aggregate_id = $1 and event_type = $2")
        .bind(name.as_str())
        .bind(event)
        .fetch_one(owner)
        .await
        .unwrap()
}

/// A change that is made in a test: of which account, its event, and how many of them there are then.
type Changing<'a> =
    (&'a Username, &'static str, i64, BoxFuture<'a, Result<Option<Change>, AccountError>>);

fn by() -> Metadata {
    Metadata::of_program("test")
}

async fn enable(accounts: &Accounts, name: &Username) -> Result<Option<Change>, AccountError> {
    let change = AccountChange { disabled: Some(false), ..AccountChange::default() };
    let made = accounts.change(name, &change, by()).await?;
    assert_eq!(made.iter().map(|made| made.part).collect::<Vec<_>>(), [Part::Disabled]);
    Ok(None)
}

async fn add_key(accounts: &Accounts, name: &Username) -> Result<Option<Change>, AccountError> {
    let end = KeyExpiry::stored("2999-01-01T00:00:00Z".parse().unwrap());
    accounts.add_key(name, &KeyName::parse("a key").unwrap(), end, by()).await?;
    Ok(None)
}

/// Every change of an account, and an account that is added.
fn changes<'a>(accounts: &'a Accounts, name: &'a Username, new: &'a Username) -> [Changing<'a>; 7] {
    let some = |changed: Result<Change, AccountError>| changed.map(Some);
    let (password, old) = ("PasswordChanged", Some("$hash-1"));
    let added = accounts.add(new, "$hash", Role::Viewer, by());
    [
        (
            name,
            password,
            1,
            accounts.change_password(name, None, "$hash-1", by()).map(some).boxed(),
        ),
        (name, password, 2, accounts.change_password(name, old, "$hash-2", by()).map(some).boxed()),
        (name, "RoleChanged", 1, accounts.change_role(name, Role::Editor, by()).map(some).boxed()),
        (name, "AccountDisabled", 1, accounts.disable(name, by()).map(some).boxed()),
        (name, "AccountEnabled", 1, enable(accounts, name).boxed()),
        (name, "ServiceKeyAdded", 1, add_key(accounts, name).boxed()),
        (new, "AccountAdded", 1, added.map(|added| added.map(|()| None)).boxed()),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_whose_connection_is_lost_is_made_once_and_reported() {
    let direct = database().await;
    let proxy = Proxy::start(server_of(&direct)).await;
    let service = Service::with(config_on(&proxy.url(&direct))).await;
    let mut owner = PgConnection::connect(&direct).await.unwrap();
    let mut holding = PgConnection::connect(&direct).await.unwrap();
    for own in [&mut owner, &mut holding] {
        own.execute("set idle_session_timeout = 0").await.unwrap();
    }
    for is_silent in [false, true] {
        let name = Username::parse(&format!("ada-{is_silent}")).unwrap();
        let new = Username::parse(&format!("new-{is_silent}")).unwrap();
        service.accounts().add(&name, "$hash-0", Role::Viewer, by()).await.unwrap();
        for (name, event, count, change) in changes(service.accounts(), &name, &new) {
            holding.execute("begin; lock table locks.append in exclusive mode").await.unwrap();
            let meanwhile = async {
                until("the change waits", async || !waiting(&mut owner).await.is_empty()).await;
                let first = waiting(&mut owner).await;
                if is_silent {
                    proxy.silence();
                } else {
                    proxy.cut_all();
                    until("it is tried again, and waits", async || {
                        waiting(&mut owner).await.iter().any(|pid| !first.contains(pid))
                    })
                    .await;
                }
                holding.execute("rollback").await.unwrap();
            };
            let (changed, ()) = tokio::join!(tokio::time::timeout(PATIENCE, change), meanwhile);
            let changed = changed.unwrap_or_else(|_| panic!("{name} {event}: it waits"));
            let changed = changed.unwrap_or_else(|error| panic!("{name} {event}: {error}"));
            assert_eq!(events(&mut owner, name, event).await, count, "{name} {event}");
            let last = "select max(position) from events where aggregate_id = $1";
            let last = sqlx::query_scalar(last).bind(name.as_str()).fetch_one(&mut owner);
            let last: i64 = last.await.unwrap();
            assert_eq!(changed.map_or(last, |change| change.position), last, "{name} {event}");
        }
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_whose_request_or_answer_is_lost_is_made_once() {
    let direct = database().await;
    let proxy = Proxy::start(server_of(&direct)).await;
    let service = Service::with(config_on(&proxy.url(&direct))).await;
    let mut owner = PgConnection::connect(&direct).await.unwrap();
    let name = Username::parse("ada").unwrap();
    service.accounts().add(&name, "$hash-0", Role::Viewer, by()).await.unwrap();
    for round in 0..20_i64 {
        proxy.arm(if round % 2 == 0 { Cut::NextAnswer } else { Cut::NextRequest });
        let old = format!("$hash-{round}");
        let new = format!("$hash-{}", round + 1);
        let old = (round % 4 < 2).then_some(old.as_str());
        service.accounts().change_password(&name, old, &new, by()).await.unwrap();
        assert_eq!(events(&mut owner, &name, "PasswordChanged").await, round + 1);
    }
    service.stop().await;
}
