//! `Idempotency-Key`: a repeated request has the same response and no further effect.

use customers::events::values::Role;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::harness::{
    Answer, Login, Service, With as _, config_on, database, folder, send, until, variables,
};
use crate::process::{Process, command};

fn ask(service: &Service, login: &Login, key: &str, (method, path, body): Parts) -> RequestBuilder {
    let request = service.request(method, path).login(login).header("idempotency-key", key);
    if body.is_null() { request } else { request.json(&body) }
}

type Parts<'a> = (Method, &'a str, Value);

fn replayed(answer: &Answer) -> bool {
    answer.header("idempotent-replayed") == Some("true")
}

/// The parts of a response that a replay must repeat: all but the headers of the single request.
fn comparable(answer: &Answer) -> (u16, String, Vec<Option<&str>>) {
    let names = ["etag", "location", "event-position", "content-type"];
    (answer.status, answer.text.clone(), names.map(|name| answer.header(name)).to_vec())
}

async fn head(service: &Service) -> i64 {
    customers::events::log::read::head(&service.pools.short).await.unwrap()
}

#[tokio::test]
async fn a_repeat_has_the_same_answer_and_no_effect_on_every_route_that_changes_a_customer() {
    let service = Service::start().await;
    let login = service.log_in_as(Role::Editor).await;
    let ada = json!({"name": "Ada", "dob": "1990-12-10"});
    let bob = json!({"name": "Bob", "dob": "1990-12-10"});
    let created =
        send(ask(&service, &login, "k0", (Method::POST, "/customers", ada.clone()))).await;
    let id = created.body["id"].as_i64().unwrap();
    let one = format!("/customers/{id}");
    let spelled_out = json!({"id": id, "name": "Cy", "dob": "1990-12-10"});
    let other = send(ask(&service, &login, "k1", (Method::POST, "/customers", ada.clone()))).await;
    let deleted = format!("/customers/delete?id={}", other.body["id"]);
    let requests: Vec<Parts> = vec![
        (Method::POST, "/customers", ada.clone()),
        (Method::POST, "/customers/create", ada.clone()),
        (Method::PUT, &one, bob.clone()),
        // This update changes nothing; its key is stored too.
        (Method::PUT, &one, bob.clone()),
        (Method::POST, "/customers/update", spelled_out),
        (Method::DELETE, &one, Value::Null),
        (Method::DELETE, &deleted, Value::Null),
    ];
    for (number, request) in requests.into_iter().enumerate() {
        let key = format!("repeat-{number}");
        let first = send(ask(&service, &login, &key, request.clone())).await;
        assert!((200..300).contains(&first.status), "{number}: {first:?}");
        assert!(!replayed(&first), "{number}: {first:?}");
        let before = head(&service).await;
        let second = send(ask(&service, &login, &key, request)).await;
        assert_eq!(comparable(&second), comparable(&first), "{number}");
        assert!(replayed(&second), "{number}: {second:?}");
        assert_eq!(head(&service).await, before, "{number}");
    }
}

#[tokio::test]
async fn a_repeat_is_answered_as_then_whatever_happened_since() {
    let service = Service::start().await;
    let login = service.log_in_as(Role::Editor).await;
    let ada = json!({"name": "Ada", "dob": "1990-12-10"});
    let created = send(ask(&service, &login, "create", (Method::POST, "/customers", ada))).await;
    let one = format!("/customers/{}", created.body["id"]);
    let bob = json!({"name": "Bob", "dob": "1990-12-10"});
    let put = |key| {
        ask(&service, &login, key, (Method::PUT, &one, bob.clone())).header("if-match", "\"1\"")
    };
    let updated = send(put("update")).await;
    assert_eq!(updated.status, 200, "{updated:?}");
    assert_eq!(send(put("another-key")).await.status, 412);
    // With another key the request is refused, because its first execution has changed the version.
    assert_eq!(comparable(&send(put("update")).await), comparable(&updated));
    let gone = send(ask(&service, &login, "delete", (Method::DELETE, &one, Value::Null))).await;
    assert_eq!(gone.status, 200, "{gone:?}");
    let again = send(ask(&service, &login, "delete", (Method::DELETE, &one, Value::Null))).await;
    assert_eq!(comparable(&again), comparable(&gone));
    assert_eq!(comparable(&send(put("update")).await), comparable(&updated));
    let refused = send(ask(&service, &login, "none", (Method::DELETE, &one, Value::Null))).await;
    assert_eq!((refused.status, replayed(&refused)), (404, false), "{refused:?}");
}

#[tokio::test]
async fn a_key_belongs_to_one_request_of_one_account() {
    let service = Service::start().await;
    let login = service.log_in_as(Role::Editor).await;
    let other = service.log_in_as(Role::Admin).await;
    let ada = json!({"name": "Ada", "dob": "1990-12-10"});
    let create = |login: &Login, key: &str| {
        ask(&service, login, key, (Method::POST, "/customers", ada.clone()))
    };
    let first = send(create(&login, "k")).await;
    let bob = json!({"name": "Bob", "dob": "1990-12-10"});
    let mismatch = send(ask(&service, &login, "k", (Method::POST, "/customers", bob))).await;
    assert_eq!(mismatch.status, 422);
    assert_eq!(mismatch.body["type"], "/problems/idempotency-mismatch");
    let of_other = send(create(&other, "k")).await;
    assert_eq!((of_other.status, replayed(&of_other)), (201, false));
    assert_ne!(of_other.body["id"], first.body["id"]);
    // Both spellings of a route are the same request.
    let spelled = (Method::POST, "/customers/create", ada.clone());
    let spelled = send(ask(&service, &login, "k", spelled)).await;
    assert_eq!((spelled.body["id"].clone(), replayed(&spelled)), (first.body["id"].clone(), true));
    for bad in ["", "a b", "é", &"x".repeat(256)] {
        let refused = send(create(&login, bad)).await;
        assert_eq!(refused.status, 400, "{bad:?}: {refused:?}");
        assert_eq!(refused.body["errors"][0]["field"], "idempotency-key");
    }
    assert_eq!(send(create(&login, &"x".repeat(255))).await.status, 201);
}

#[tokio::test]
async fn of_many_at_once_on_two_processes_one_is_done_and_all_have_its_answer() {
    let url = database().await;
    let mut config = config_on(&url);
    let one = Service::with(config.clone()).await;
    config.listen.set_port(0);
    let two = Service::with(config).await;
    let login = one.log_in_as(Role::Editor).await;
    let ada = json!({"name": "Ada", "dob": "1990-12-10"});
    let created = send(one.post("/customers").login(&login).json(&ada)).await;
    let before = head(&one).await;
    let path = format!("/customers/{}", created.body["id"]);
    let bob = json!({"name": "Bob", "dob": "1990-12-10"});
    let requests = (0..24).map(|n| {
        let service = if n % 2 == 0 { &one } else { &two };
        let key = format!("k{}", n % 3);
        let request = match n % 3 {
            0 => (Method::POST, "/customers", ada.clone()),
            // `If-Match` holds only for the first execution.
            1 => (Method::PUT, path.as_str(), bob.clone()),
            _ => (Method::POST, "/customers/create", bob.clone()),
        };
        let if_match = if n % 3 == 1 { "\"1\"" } else { "*" };
        send(ask(service, &login, &key, request).header("if-match", if_match))
    });
    let answers = futures_util::future::join_all(requests).await;
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!(comparable(answer), comparable(&answers[n % 3]), "{n}");
    }
    let done = answers.iter().filter(|answer| !replayed(answer)).count();
    assert_eq!((done, head(&one).await - before), (3, 3));
}

#[tokio::test]
async fn keys_are_forgotten_after_a_day_and_not_before() {
    let url = database().await;
    let mut connection = PgConnection::connect(&url).await.unwrap();
    sqlx::query(
        "insert into idempotency_keys (account, key, fingerprint, position, created_at)
         select 'a', n::text, '\\x00', 1,
                now() - case when n <= 1200 then interval '25 hours' else interval '23 hours' end
         from generate_series(1, 1300) n",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    let _service = Service::with(config_on(&url)).await;
    until("old keys are forgotten", async || {
        let left: i64 = sqlx::query_scalar("select count(*) from idempotency_keys")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert!(left >= 100);
        left == 100
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_outlives_a_process_that_was_killed_between_commit_and_answer() {
    let service = Service::start().await;
    let login = service.log_in_as(Role::Editor).await;
    // This request binds the session, which appends an event.
    assert_eq!(send(service.get("/customers").login(&login)).await.status, 200);
    let serve = async || {
        let mut serve = command(&["serve"], &folder("killed"));
        // The same Redis prefix and signing keys, so that the process accepts the session.
        let prefix = service.config.redis_prefix.clone();
        let keys = service.config.keys_dir.display().to_string();
        serve.envs(variables(service.database_url()));
        serve.env("CUSTOMERS_REDIS_PREFIX", prefix).env("CUSTOMERS_KEYS_DIR", keys);
        Process::start(serve).await
    };
    for number in 0..3 {
        let process = serve().await;
        let before = head(&service).await;
        // While the checkpoints are locked no projector applies the event, so the response waits although
        // the event is committed.
        let mut holding = PgConnection::connect(service.database_url()).await.unwrap();
        let mut held = holding.begin().await.unwrap();
        held.execute("select from projections for update").await.unwrap();
        let ada = json!({"name": format!("Ada {number}"), "dob": "1990-12-10"});
        let key = format!("killed-{number}");
        let request = process.request(Method::POST, "/customers").login(&login);
        let asked = tokio::spawn(request.header("idempotency-key", &key).json(&ada).send());
        until("the event is in the log", async || head(&service).await > before).await;
        process.kill().await;
        assert!(asked.await.unwrap().is_err(), "the response came before the kill");
        held.rollback().await.unwrap();

        let request = (Method::POST, "/customers", ada);
        let again = send(ask(&service, &login, &key, request)).await;
        assert_eq!((again.status, again.position()), (201, before + 1), "{again:?}");
        assert!(replayed(&again), "{again:?}");
        assert_eq!(head(&service).await, before + 1);
    }
    service.stop().await;
}
