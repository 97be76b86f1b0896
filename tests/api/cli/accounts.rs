//! `customers account`: adds and changes accounts, and ends the sessions of a changed account.

use customers::config::Config;
use customers::events::values::Role;
use serde_json::json;

use super::{Shell, json_lines};
use crate::harness::{Login, PASSWORD, Service, send, until};
use crate::sessions::{
    Recorded, account_events, events_of_type, login_of, sid, token_alone, verdict,
};

/// A service, and a shell with the same configuration.
async fn service_and_shell() -> (Service, Shell) {
    let shell = Shell::migrated().await;
    let config = Config::from_lookup(|name| {
        shell.variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
    });
    (Service::with(config.unwrap()).await, shell)
}

async fn log_in(service: &Service, name: &str, password: &str) -> String {
    let body = json!({"username": name, "password": password});
    verdict(service.post("/login").json(&body)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_added_account_may_log_in() {
    let (service, shell) = service_and_shell().await;
    for (name, input, password) in [
        ("newline", "a good password\n", "a good password"),
        ("crlf", "a good password\r\n", "a good password"),
        ("plain", "a good password", "a good password"),
        ("spaces", " a good password \n", " a good password "),
        ("short", "8 bytes.\n", "8 bytes."),
    ] {
        let add = format!("account add {name} --role editor --password-stdin");
        let ended = shell.run_with(&add, input).await;
        assert_eq!(ended.code, 0, "{ended:?}");
        assert_eq!(ended.stdout, format!("added {name} (editor)\n"));
        assert_eq!(log_in(&service, name, password).await, "200", "{name}");
    }
    let events = account_events(&service, "plain").await;
    assert_eq!(
        events[0].data,
        json!({"type": "AccountAdded", "username": "plain", "role": "editor"})
    );
    assert_eq!(events[0].metadata["actor"], "customers account");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_account_is_not_added() {
    let shell = Shell::migrated().await;
    let add = "account add ada --role viewer --password-stdin";
    assert_eq!(shell.run_with(add, "a good password\n").await.code, 0);
    let long = "x".repeat(1025);
    for (what, arguments, input, code) in [
        ("existing name", add, "another password\n", 1),
        ("existing name, folded", "account add ADA --role admin --password-stdin", PASSWORD, 1),
        ("short", "account add bob --role viewer --password-stdin", "7 bytes\n", 1),
        ("empty", "account add bob --role viewer --password-stdin", "", 1),
        // One line end is cut off, and a password has none (RFC 8265).
        ("two line ends", "account add bob --role viewer --password-stdin", "a password\n\n", 1),
        ("long", "account add bob --role viewer --password-stdin", &long, 1),
        ("no such role", "account add bob --role root --password-stdin", PASSWORD, 2),
        ("no role", "account add bob --password-stdin", PASSWORD, 2),
        ("no password", "account add bob --role viewer", PASSWORD, 2),
        ("no name", "account add --role viewer --password-stdin", PASSWORD, 2),
        ("passwd of nobody", "account passwd bob --password-stdin", PASSWORD, 1),
        ("short passwd", "account passwd ada --password-stdin", "7 bytes\n", 1),
        ("role of nobody", "account role bob viewer", "", 1),
        ("no such role", "account role ada root", "", 2),
        ("disable nobody", "account disable bob", "", 1),
    ] {
        let ended = shell.run_with(arguments, input).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (code, ""), "{what}: {ended:?}");
        assert!(!ended.stderr.is_empty(), "{what}");
    }
    let accounts = json_lines(&shell.run("account list --json").await.stdout);
    assert_eq!(accounts.len(), 1);
    assert_eq!((&accounts[0]["username"], &accounts[0]["role"]), (&json!("ada"), &json!("viewer")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_are_listed_by_name_without_their_secrets() {
    let (service, shell) = service_and_shell().await;
    for role in [Role::Viewer, Role::Admin, Role::Editor] {
        service.add_account(role.as_str(), role).await;
    }
    assert_eq!(shell.run("account disable editor").await.code, 0);
    let ended = shell.run("account list --json").await;
    assert_eq!(ended.code, 0);
    assert!(!ended.stdout.contains("argon2"));
    let mut accounts = json_lines(&ended.stdout);
    for account in &mut accounts {
        let time = account.as_object_mut().unwrap().remove("created_at").unwrap();
        let time = time.as_str().unwrap();
        assert!(time.len() == 27 && time.ends_with('Z'), "{time}");
    }
    assert_eq!(
        accounts,
        [
            json!({"username": "admin", "role": "admin", "disabled": false}),
            json!({"username": "editor", "role": "editor", "disabled": true}),
            json!({"username": "viewer", "role": "viewer", "disabled": false}),
        ]
    );
    let ended = shell.run("account list").await;
    let names: Vec<_> =
        ended.stdout.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names, ["admin", "editor", "viewer"]);
}

/// Checks that the sessions have ended and that the log has the cause of each.
async fn assert_ended(service: &Service, logins: &[Login], cause: &str) {
    for login in logins {
        assert_eq!(token_alone(service, login).await, "401 unauthenticated", "{cause}");
    }
    for login in logins {
        // The command or the service appends the event: whichever applies the change first.
        until("the log has SessionClosed", async || {
            let closed = events_of_type(service, "viewer", "SessionClosed").await;
            let of_login = |event: &&Recorded| event.data["session"] == sid(login);
            let Some(event) = closed.iter().find(of_login) else { return false };
            assert_eq!(event.data["cause"], cause);
            assert_eq!(event.metadata["actor"], "customers account");
            true
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_account_has_to_log_in_again() {
    const NEW: &str = "a longer and better one";
    let (service, shell) = service_and_shell().await;
    let first = service.log_in_as(Role::Viewer).await;
    let bystander = service.log_in_as(Role::Admin).await;
    let logins = [first, service.log_in("viewer").await];
    let body = json!({"name": "Ada", "dob": "1990-12-10"});
    assert_eq!(
        send(service.post("/customers").bearer_auth(&logins[0].token).json(&body)).await.status,
        403
    );

    let ended = shell.run("account role viewer editor").await;
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "viewer is editor now\n"), "{ended:?}");
    assert_ended(&service, &logins, "role-changed").await;
    let logins = [service.log_in("viewer").await, service.log_in("viewer").await];
    assert_eq!(
        verdict(service.post("/customers").bearer_auth(&logins[0].token).json(&body)).await,
        "201"
    );

    let ended = shell.run_with("account passwd viewer --password-stdin", &format!("{NEW}\n")).await;
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_ended(&service, &logins, "password-changed").await;
    assert_eq!(log_in(&service, "viewer", PASSWORD).await, "401 unauthenticated");
    let body = json!({"username": "viewer", "password": NEW});
    let login = login_of(&send(service.post("/login").json(&body)).await);

    assert_eq!(shell.run("account disable viewer").await.code, 0);
    assert_ended(&service, &[login], "account-disabled").await;
    assert_eq!(events_of_type(&service, "viewer", "AccountDisabled").await.len(), 1);
    assert_eq!(log_in(&service, "viewer", NEW).await, "401 unauthenticated");
    assert_eq!(token_alone(&service, &bystander).await, "200");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_that_is_changed_without_redis_is_out_all_the_same() {
    let (service, shell) = service_and_shell().await;
    let login = service.log_in_as(Role::Viewer).await;
    assert_eq!(token_alone(&service, &login).await, "200");
    // Only the service can connect to Redis, the command cannot.
    let ended =
        shell.with("REDIS_URL", "redis://127.0.0.1:1").run("account role viewer admin").await;
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "viewer is admin now\n"), "{ended:?}");
    assert!(ended.stderr.contains("the service ends them when it reaches Redis"));
    until("the service has ended the session", async || {
        token_alone(&service, &login).await == "401 unauthenticated"
    })
    .await;
    assert_ended(&service, &[login], "role-changed").await;
    assert_eq!(events_of_type(&service, "viewer", "SessionClosed").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disabled_account_is_enabled_again() {
    let (service, shell) = service_and_shell().await;
    service.add_account("ada", Role::Viewer).await;
    assert_eq!(shell.run("account disable ada").await.code, 0);
    assert_eq!(log_in(&service, "ada", PASSWORD).await, "401 unauthenticated");
    for told in ["ada may log in again\n", "ada is enabled already\n"] {
        let ended = shell.run("account enable ada").await;
        assert_eq!((ended.code, ended.stdout.as_str()), (0, told), "{ended:?}");
    }
    assert_eq!(log_in(&service, "ada", PASSWORD).await, "200");
    let enabled = events_of_type(&service, "ada", "AccountEnabled").await;
    assert_eq!(enabled.len(), 1);
    assert_eq!(enabled[0].metadata["actor"], json!("customers account"));
    let ended = shell.run("account enable bob").await;
    assert_eq!((ended.code, ended.stdout.as_str()), (1, ""), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_adds_lists_and_revokes_service_keys() {
    let (service, shell) = service_and_shell().await;
    service.add_account("robot", Role::Editor).await;
    let added = shell.run("account key add robot --name sync --expires-in 90days --json").await;
    assert_eq!(added.code, 0, "{added:?}");
    let key = json_lines(&added.stdout).swap_remove(0);
    let (id, secret) = (key["client_id"].as_str().unwrap(), key["client_secret"].as_str().unwrap());
    let token = async || {
        let body = format!("grant_type=client_credentials&client_id={id}&client_secret={secret}");
        let request = service.post("/oauth/token");
        send(request.header("content-type", "application/x-www-form-urlencoded").body(body)).await
    };
    let answer = token().await;
    assert_eq!((answer.status, &answer.body["scope"]), (200, &json!("editor")));
    let token_of = answer.body["access_token"].as_str().unwrap().to_owned();
    let login = Login { token: token_of, cookie: String::new() };
    assert_eq!(token_alone(&service, &login).await, "200");

    let plain = shell.run("account key add robot --name other --expires-in 1day").await;
    let lines: Vec<&str> = plain.stdout.lines().collect();
    let [other, shown] = lines[..] else { panic!("{plain:?}") };
    let other = other.strip_prefix("client_id ").unwrap();
    assert!(shown.starts_with("client_secret customers_sk_"), "{plain:?}");
    let list = shell.run("account key list robot --json").await;
    let ids: Vec<_> = json_lines(&list.stdout).iter().map(|key| key["client_id"].clone()).collect();
    assert_eq!(ids, [json!(id), json!(other)]);
    let list = shell.run("account key list robot").await;
    assert_eq!(list.stdout.lines().count(), 2);
    assert!(list.stdout.contains("last used never  other"), "{list:?}");
    assert!(!list.stdout.contains("customers_sk_"), "{list:?}");

    let revoke = format!("account key revoke robot {id}");
    let ended = shell.run(&revoke).await;
    assert_eq!((ended.code, ended.stdout), (0, format!("revoked {id}\n")));
    assert_eq!(token_alone(&service, &login).await, "401 unauthenticated");
    assert_eq!(token().await.body["error"], "invalid_client");
    let ended = shell.run(&revoke).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (1, ""), "{ended:?}");

    // What cannot connect to Redis is done by the service.
    let without_redis = shell.with("REDIS_URL", "redis://127.0.0.1:1");
    let ended = without_redis.run(&format!("account key revoke robot {other}")).await;
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stderr.contains("the service ends them when it reaches Redis"), "{ended:?}");

    for (what, arguments, code) in [
        ("of nobody", "account key add bob --name a --expires-in 1day", 1),
        ("too long", "account key add robot --name a --expires-in 732days", 1),
        ("no time", "account key add robot --name a --expires-in soon", 2),
        ("no end", "account key add robot --name a", 2),
        ("no name", "account key add robot --expires-in 1day", 2),
        ("list of nobody", "account key list bob", 1),
        ("no id", "account key revoke robot x", 2),
    ] {
        let ended = without_redis.run(arguments).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (code, ""), "{what}: {ended:?}");
        assert!(!ended.stderr.is_empty(), "{what}");
    }
}
