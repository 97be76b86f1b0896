//! Operations: liveness, readiness, metrics, and responses while Redis or PostgreSQL is unavailable.

use std::time::{Duration, Instant};

use customers::events::values::Role;
use reqwest::RequestBuilder;
use rustix::process::Signal;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::harness::{
    Login, PASSWORD, Service, With as _, config_on, database, send, unique_name, until, urls,
};
use crate::own_redis::Redis;
use crate::redis_trouble::service_on;
use crate::sessions::verdict;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_is_alive_and_ready_without_a_log_in() {
    let service = Service::start().await;
    insta::assert_snapshot!(send(service.get("/livez")).await.shape(), @r#"200 {"checks":{},"status":"ok"}"#);
    insta::assert_snapshot!(
        send(service.get("/readyz")).await.shape(),
        @r#"200 {"checks":{"built":"ok","log":"ok","postgres":"ok","projections":[{"checkpoint":0,"head":0,"lag_events":0,"lag_seconds":0.0,"name":"customers","parked":0,"rebuild":null,"state":"following","version":1},{"checkpoint":0,"head":0,"lag_events":0,"lag_seconds":0.0,"name":"customer_history","parked":0,"rebuild":null,"state":"following","version":1},{"checkpoint":0,"head":0,"lag_events":0,"lag_seconds":0.0,"name":"customer_search","parked":0,"rebuild":null,"state":"following","version":1}],"redis":"ok","tasks":{"down":[],"running":["reconciler","signing keys","postgres watch","purge","metrics upkeep","appender","notify forward","notify publish","notify listen","projector customers","projector customer_history","projector customer_search","log tail"]}},"status":"ok"}"#
    );
    for path in ["/livez", "/readyz", "/metrics", "/.well-known/jwks.json"] {
        let query = format!("{path}?verbose=1");
        assert_eq!(verdict(service.get(&query)).await, "400 malformed", "{path}");
        assert_eq!(verdict(service.post(path)).await, "405 method-not-allowed", "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_far_the_projections_lag_is_told_but_takes_nothing_out() {
    let service = Service::start().await;
    let login = service.log_in_as(Role::Editor).await;
    let body = json!({"name": "Ada", "dob": "1990-12-10"});
    let answer = send(service.post("/customers").json(&body).token(&login)).await;
    let head = answer.position();
    service.caught_up().await;
    let ready = send(service.get("/readyz")).await;
    let status = |name| {
        let (events, seconds) = (0, 0.0);
        json!({"name": name, "checkpoint": head, "head": head, "lag_events": events, "lag_seconds": seconds,
            "version": 1, "state": "following", "parked": 0, "rebuild": null})
    };
    let expected =
        json!([status("customers"), status("customer_history"), status("customer_search")]);
    assert_eq!(ready.body["checks"]["projections"], expected);
    // While the checkpoints are locked no projector applies events, as if it had a backlog.
    let mut projector = PgConnection::connect(service.database_url()).await.unwrap();
    let mut holding = projector.begin().await.unwrap();
    holding.execute("select from projections for update").await.unwrap();
    let prefer = service.post("/customers").header("prefer", "respond-async");
    assert_eq!(verdict(prefer.json(&body).token(&login)).await, "201");
    let ready = send(service.get("/readyz")).await;
    assert_eq!((ready.status, &ready.body["status"]), (200, &json!("ok")));
    assert_eq!(ready.body["checks"]["projections"][0]["lag_events"], 1);
    let lag = async |name: &str| {
        let metrics = send(service.get("/metrics")).await.text;
        let start = format!("customers_projection_{name}{{projection=\"customers\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(start.as_str()));
        line.unwrap().parse::<f64>().unwrap()
    };
    // `/metrics` measures the lag itself, because the projector may be blocked.
    assert!((lag("lag_events").await - 1.0).abs() < f64::EPSILON);
    let first = lag("lag_seconds").await;
    assert!(first > 0.0);
    assert!(lag("lag_seconds").await > first);
    holding.rollback().await.unwrap();
}

/// The state after an upgrade to a version of a projection that is not built yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_whose_projection_was_never_built_is_ready_once_it_is() {
    let service = Service::start().await;
    let login = service.log_in_as(Role::Editor).await;
    let body = json!({"name": "Ada", "dob": "1990-12-10"});
    assert_eq!(verdict(service.post("/customers").json(&body).token(&login)).await, "201");
    service.caught_up().await;
    let config = service.config.clone();
    service.stop().await;
    let mut owner =
        PgConnection::connect(config.database_url.as_ref().unwrap().expose_secret()).await.unwrap();
    owner.execute("truncate customers").await.unwrap();
    owner.execute("update projections set checkpoint = 0 where name = 'customers'").await.unwrap();
    let mut holding = owner.begin().await.unwrap();
    holding.execute("select from projections for update").await.unwrap();
    let service = Service::with(config).await;
    let answer = send(service.get("/readyz")).await;
    let checks = &answer.body["checks"];
    assert_eq!((answer.status, &checks["built"]), (503, &json!("unavailable")));
    assert_eq!((&checks["postgres"], &checks["redis"]), (&json!("ok"), &json!("ok")));
    holding.rollback().await.unwrap();
    until("it is built", async || send(service.get("/readyz")).await.status == 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_count_requests_hashes_and_what_is_projected() {
    let service = Service::start().await;
    let login = service.log_in_as(Role::Editor).await;
    let body = json!({"name": "Ada", "dob": "1990-12-10"});
    assert_eq!(verdict(service.post("/customers").json(&body).token(&login)).await, "201");
    assert_eq!(verdict(service.get("/customers")).await, "401 unauthenticated");
    let answer = send(service.get("/metrics")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4"));
    // The metrics recorder is one per process, so it also counts the requests of other tests.
    let value = |series: &str| -> f64 {
        let line =
            answer.text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap().parse().unwrap()
    };
    for series in [
        r#"customers_http_requests_total{method="POST",route="/login",status="200"}"#,
        r#"customers_http_requests_total{method="POST",route="/customers",status="201"}"#,
        r#"customers_http_requests_total{method="GET",route="/customers",status="401"}"#,
        "customers_password_hashes_total",
    ] {
        assert!(value(series) >= 1.0, "{series}");
    }
    // The last service of the process that has set it may have an empty log.
    assert!(value(r#"customers_projection_checkpoint{projection="customers"}"#) >= 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_published_keys_are_public() {
    let service = Service::start().await;
    let answer = send(service.get("/.well-known/jwks.json")).await;
    let keys = answer.body["keys"].as_array().unwrap();
    assert_eq!((answer.status, keys.len()), (200, 1));
    let mut key = keys[0].clone();
    for (name, length) in [("kid", 36), ("x", 43)] {
        assert_eq!(key[name].as_str().unwrap().len(), length);
        key[name] = Value::from(format!("[{name}]"));
    }
    let expected = json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA",
                          "kid": "[kid]", "x": "[x]"});
    assert_eq!(key, expected);
}

/// Checks that the response is a 503 within the limit that reveals no cause, and not a 401.
async fn assert_unavailable(request: RequestBuilder, limit: Duration) {
    let began = Instant::now();
    let answer = send(request).await;
    let took = began.elapsed();
    let expected = r#"503 {"detail":"a dependency is unavailable; retry later","request_id":"[id]","status":503,"title":"Service unavailable","type":"/problems/unavailable"}"#;
    assert_eq!(answer.shape(), expected);
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(answer.header("www-authenticate"), None);
    assert!(took < limit, "{took:?}");
}

async fn ready(service: &Service) -> (u16, Value, Value) {
    let answer = send(service.get("/readyz")).await;
    let checks = &answer.body["checks"];
    (answer.status, checks["postgres"].clone(), checks["redis"].clone())
}

/// Checks that every request that needs Redis gets a 503, and no other request does. All requests have
/// the cookie: Redis may execute a command after it resumes, and a token alone would be a token replay.
async fn assert_redis_unavailable(service: &Service, login: &Login) {
    // The service promises 500 ms; the rest of the limit is for a busy machine.
    let limit = Duration::from_secs(2);
    let attempt = |password: &str| {
        service.post("/login").json(&json!({"username": "editor", "password": password}))
    };
    assert_unavailable(service.get("/customers?numbers=1").login(login), limit).await;
    assert_unavailable(service.get("/session_cookie_experiment").login(login), limit).await;
    assert_unavailable(service.delete("/logout").login(login), limit).await;
    assert_unavailable(attempt(PASSWORD), limit).await;
    assert_unavailable(attempt("wrong password"), limit).await;
    assert_eq!(verdict(service.get("/customers")).await, "401 unauthenticated");
    assert_eq!(verdict(service.get("/livez")).await, "200");
    assert_eq!(ready(service).await, (503, json!("ok"), json!("unavailable")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_nobody_gets_in_and_everybody_is_told_so_at_once() {
    let mut redis = Redis::start(&[]).await;
    let service = service_on(redis.url()).await;
    let login = service.log_in_as(Role::Editor).await;

    // A frozen Redis accepts bytes and never answers. After it resumes, service and sessions recover.
    redis.signal(Signal::STOP);
    assert_redis_unavailable(&service, &login).await;
    redis.signal(Signal::CONT);
    until("redis is back", async || ready(&service).await.0 == 200).await;
    assert_eq!(verdict(service.get("/customers?numbers=1").login(&login)).await, "200");
    assert_eq!(ready(&service).await, (200, json!("ok"), json!("ok")));

    // A killed Redis refuses connections.
    redis.kill().await;
    assert_redis_unavailable(&service, &login).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_takes_no_writes_lets_nobody_in() {
    let redis = Redis::start(&[]).await;
    let service = service_on(redis.url()).await;
    let login = service.log_in_as(Role::Editor).await;
    let attempt = |password: &str| {
        service.post("/login").json(&json!({"username": "editor", "password": password}))
    };
    for (what, broken, mended) in [
        ("full", "config set maxmemory 1", "config set maxmemory 0"),
        ("read-only", "replicaof 127.0.0.1 1", "replicaof no one"),
    ] {
        redis.ask(broken).await;
        for password in [PASSWORD, "wrong password"] {
            assert_unavailable(attempt(password), Duration::from_secs(2)).await;
        }
        let verdict_now = verdict(service.get("/customers?numbers=0").token(&login)).await;
        assert!(["200", "503 unavailable"].contains(&verdict_now.as_str()), "{what} {verdict_now}");
        redis.ask(mended).await;
        until("redis takes writes", async || verdict(attempt(PASSWORD)).await == "200").await;
        assert_eq!(verdict(service.get("/customers?numbers=0").token(&login)).await, "200");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_takes_nobody_is_unavailable_until_it_is_back() {
    let url = database().await;
    let name = url.rsplit('/').next().unwrap().split('?').next().unwrap().to_owned();
    let mut admin = PgConnection::connect(&urls().database).await.unwrap();
    let service = Service::with(config_on(&for_plain_role(&url, &mut admin).await)).await;
    let login = service.log_in_as(Role::Editor).await;
    let read = || service.get("/customers?numbers=1").token(&login);
    let create = || {
        service.post("/customers").json(&json!({"name": "Ada", "dob": "1990-12-10"})).token(&login)
    };
    assert_eq!(verdict(create()).await, "201");

    admin.execute(format!("alter database {name} connection limit 0").as_str()).await.unwrap();
    sqlx::query("select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = $1")
        .bind(&name)
        .execute(&mut admin)
        .await
        .unwrap();
    // A request waits up to 2 s for a connection. The first append finds its connection lost and tries
    // append recovery for 5 s.
    let limit = Duration::from_secs(12);
    let credentials = json!({"username": "editor", "password": PASSWORD});
    assert_unavailable(read(), limit).await;
    assert_unavailable(create(), limit).await;
    assert_unavailable(service.post("/login").json(&credentials), limit).await;
    assert_eq!(ready(&service).await, (503, json!("unavailable"), json!("ok")));
    assert_eq!(verdict(service.get("/livez")).await, "200");
    assert_eq!(verdict(service.get("/customers")).await, "401 unauthenticated");

    admin.execute(format!("alter database {name} connection limit -1").as_str()).await.unwrap();
    until("the database is back", async || ready(&service).await.0 == 200).await;
    assert_eq!(verdict(read()).await, "200");
    let answer = send(create()).await;
    assert_eq!((answer.status, answer.header("projection-pending")), (201, None), "{answer:?}");
    assert_eq!(verdict(service.post("/login").json(&credentials)).await, "200");
}

/// The URL of the database for a new role that is no superuser: a connection limit does not apply to
/// superusers.
async fn for_plain_role(url: &str, admin: &mut PgConnection) -> String {
    let role = unique_name("role");
    admin.execute(format!("create role {role} login password '{role}'").as_str()).await.unwrap();
    let mut owner = PgConnection::connect(url).await.unwrap();
    owner.execute(format!("grant usage on schema public to {role}").as_str()).await.unwrap();
    for what in ["tables", "sequences", "functions"] {
        let grant = format!("grant all on all {what} in schema public to {role}");
        owner.execute(grant.as_str()).await.unwrap();
    }
    owner.close().await.unwrap();
    let (scheme, rest) = url.split_once("://").unwrap();
    let (_, server) = rest.split_once('@').unwrap();
    format!("{scheme}://{role}:{role}@{server}")
}
