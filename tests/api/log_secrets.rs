//! Logs never hold a token, a cookie, a key, a password, a name or a date of birth, at any level and whatever goes
//! wrong.

use std::collections::BTreeSet;

use customers::events::values::Role;
use reqwest::Method;
use serde_json::json;

use crate::harness::{Login, PASSWORD, Service, With as _, send, until, urls, variables};
use crate::log_told::Logged;
use crate::lost_connections::server_of;
use crate::own_redis::Redis;
use crate::process::Process;
use crate::proxy::Proxy;

/// Names, as clients write them, in bodies, queries, paths and headers. No other text of the test has them.
const NAMES: [&str; 4] = ["Quillfeather", "Ömerbaşı", "Zwiebelkuchen", "Vogelsang"];

/// Dates of birth of those customers.
const DATES: [&str; 3] = ["1911-11-17", "1922-02-23", "1933-03-29"];

/// A password that is wrong.
const WRONG: &str = "wrong-password-4711";

/// The name of a request that is executed once: who knows it can ask for its answer.
const KEY: &str = "idempotency-key-4711";

/// Creates, updates and imports customers, in right requests and in wrong ones.
async fn write_customers(process: &Process, login: &Login, role: Role) {
    let ask = |method: Method, path: &str| process.request(method, path);
    for (index, name) in NAMES.iter().enumerate() {
        let body = json!({"name": name, "dob": DATES[index % DATES.len()]});
        let create = ask(Method::POST, "/customers").login(login).json(&body);
        send(create.header("idempotency-key", format!("{KEY}-{index}-{role}"))).await;
        send(ask(Method::PUT, "/customers/1").login(login).json(&body)).await;
        let at_no_version = ask(Method::PUT, "/customers/1").login(login).json(&body);
        send(at_no_version.header("if-match", "\"99\"")).await;
        // What cannot be read.
        let text = body.to_string();
        for bad in [text.trim_end_matches('}'), &text.replace("19", "29"), &format!("[{text}]")] {
            let create = ask(Method::POST, "/customers").login(login);
            let create = create.header("content-type", "application/json");
            send(create.body(bad.to_owned())).await;
        }
        send(ask(Method::GET, &format!("/customers?name={name}")).login(login)).await;
        send(ask(Method::GET, &format!("/customers/{name}")).login(login)).await;
        send(ask(Method::GET, &format!("/{name}")).login(login)).await;
        let import = |kind: &'static str, body: String| {
            let import = ask(Method::POST, "/customers/import").login(login);
            send(import.header("content-type", kind).body(body))
        };
        import("application/x-ndjson", format!("{text}\n{{\"name\":\"{name}\"}}\n{name}\n")).await;
        import("text/csv", format!("name,dob\n{name},1911-11-17\n{name},x\n")).await;
    }
}

/// All that clients and operators can do, right and wrong.
async fn run_everything(logged: &Logged, roles: &[Role]) -> BTreeSet<String> {
    let process = &logged.process;
    let ask = |method: Method, path: &str| process.request(method, path);
    let mut secrets = BTreeSet::new();
    for role in roles {
        let login = process.log_in(role.as_str()).await;
        let (_, cookie) = login.cookie.split_once('=').unwrap();
        secrets.extend([login.token.clone(), cookie.to_owned()]);
        let signature = login.token.rsplit('.').next().unwrap();
        secrets.insert(signature.to_owned());
        for (method, path) in [
            (Method::GET, "/customers"),
            (Method::GET, "/customers?numbers=3"),
            (Method::GET, "/customers/1"),
            (Method::GET, "/customers/1/history"),
            (Method::GET, "/customers/1?version=1"),
            (Method::GET, "/events"),
            (Method::GET, "/sessions"),
            (Method::GET, "/projections"),
            (Method::POST, "/projections/customers/rebuild"),
            (Method::GET, "/session_cookie_experiment"),
            (Method::GET, "/metrics"),
            (Method::GET, "/readyz"),
            (Method::GET, "/openapi.json"),
        ] {
            send(ask(method, path).login(&login)).await;
        }
        write_customers(process, &login, *role).await;
        send(ask(Method::DELETE, "/customers/2").login(&login)).await;
        let passwords = json!({"old": WRONG, "new": format!("{WRONG}-new")});
        send(ask(Method::POST, "/password").login(&login).json(&passwords)).await;
        // Without its cookie, which ends the session, and then again.
        for _ in 0..2 {
            send(ask(Method::GET, "/customers/1").token(&login)).await;
        }
        let logout = process.log_in(role.as_str()).await;
        secrets.insert(logout.token.clone());
        send(ask(Method::DELETE, "/logout").login(&logout)).await;
    }
    for body in [
        json!({"username": "editor", "password": WRONG}),
        json!({"username": NAMES[0], "password": WRONG}),
        json!({"username": "editor", "password": [WRONG]}),
    ] {
        send(ask(Method::POST, "/login").json(&body)).await;
    }
    for header in [format!("Bearer {WRONG}"), format!("Basic {WRONG}"), WRONG.to_owned()] {
        send(ask(Method::GET, "/customers").header("authorization", header)).await;
    }
    secrets
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_and_nothing_personal_is_in_the_log_of_a_run_of_everything() {
    let service = Service::start().await;
    let roles = [Role::Viewer, Role::Editor, Role::Auditor, Role::Admin];
    for role in roles {
        service.add_account(role.as_str(), role).await;
    }
    let url = service.database_url().to_owned();
    let mut redis = Redis::start(&["--requirepass", "redis-secret-4711"]).await;
    let redis_url = format!("redis://:redis-secret-4711@{}/0", redis.address());
    let proxy = Proxy::start(server_of(&url)).await;
    let keys = variables(&url);
    let (_, keys) = keys.iter().find(|(name, _)| *name == "CUSTOMERS_KEYS_DIR").unwrap();
    let more = [("REDIS_URL", &*redis_url), ("CUSTOMERS_KEYS_DIR", keys)];
    let filter = "debug,customers=trace";
    let logged = Logged::start(&proxy.url(&url), filter, &more).await;
    let mut secrets = run_everything(&logged, &roles).await;

    // The same while a server is away.
    let login = logged.process.log_in("editor").await;
    secrets.insert(login.token.clone());
    let create = async || {
        let body = json!({"name": NAMES[0], "dob": DATES[0]});
        let create = logged.process.request(Method::POST, "/customers").login(&login);
        send(create.json(&body)).await.status
    };
    assert_eq!(create().await, 201);
    redis.kill().await;
    until("Redis is missed", async || create().await == 503).await;
    redis.start_again().await;
    let ready = async || send(logged.process.request(Method::GET, "/readyz")).await.status == 200;
    until("Redis is back", ready).await;
    let login = logged.process.log_in("editor").await;
    secrets.insert(login.token.clone());
    let create = async || {
        let body = json!({"name": NAMES[1], "dob": DATES[1]});
        let create = logged.process.request(Method::POST, "/customers").login(&login);
        send(create.json(&body)).await.status
    };
    proxy.move_to("127.0.0.1:1".parse().unwrap());
    proxy.cut_all();
    until("PostgreSQL is missed", async || create().await == 503).await;
    proxy.move_to(server_of(&url));
    until("PostgreSQL is back", ready).await;

    for file in std::fs::read_dir(keys).unwrap() {
        let key = std::fs::read_to_string(file.unwrap().path()).unwrap();
        secrets.extend(key.lines().filter(|line| !line.starts_with('-')).map(str::to_owned));
    }
    let (user, _) = urls().database.split_once("://").unwrap().1.split_once('@').unwrap();
    // Of a server that the tests share, the password may be the name.
    let password = user.split_once(':').filter(|(name, password)| name != password);
    secrets.extend(password.map(|(_, password)| password.to_owned()));
    let texts = [PASSWORD, WRONG, KEY, "redis-secret-4711"];
    secrets.extend(texts.iter().chain(&NAMES).chain(&DATES).map(|text| (*text).to_owned()));
    // As the log escapes them, and as a query does.
    secrets.extend(["\\u00d6merba", "%C3%96merba", "Quillfeather"].map(str::to_owned));
    let log = logged.end().await;
    assert!(log.lines().count() > 1000, "the log has {} lines", log.lines().count());
    assert!(log.contains("token refused") && log.contains("request failed"), "nothing went wrong");
    for secret in secrets {
        assert!(secret.len() >= 8, "{secret} is too short to be looked for");
        let found = log.lines().find(|line| line.contains(&secret));
        assert_eq!(found, None, "the log holds {secret}");
    }
    service.stop().await;
}
