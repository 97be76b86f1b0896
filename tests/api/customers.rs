//! Create, read, update and delete: the responses of both spellings of each route.

use customers::events::values::Role;
use serde_json::{Value, json};

use crate::harness::{Answer, Login, Service, With as _, send};

/// The two spellings of the routes: the id in the path, or the operation in the path.
const SPELLINGS: [Spelling; 2] = [Spelling::Path, Spelling::SpelledOut];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Spelling {
    Path,
    SpelledOut,
}

impl Spelling {
    async fn create(self, service: &Service, login: &Login, body: &Value) -> Answer {
        let path = if self == Self::Path { "/customers" } else { "/customers/create" };
        send(service.post(path).token(login).json(body)).await
    }

    async fn update(self, service: &Service, login: &Login, id: i64, body: &Value) -> Answer {
        let request = match self {
            Self::Path => service.put(&format!("/customers/{id}")).json(body),
            Self::SpelledOut => {
                let mut body = body.clone();
                body["id"] = id.into();
                service.post("/customers/update").json(&body)
            }
        };
        send(request.token(login)).await
    }

    async fn delete(self, service: &Service, login: &Login, id: i64) -> Answer {
        let path = match self {
            Self::Path => format!("/customers/{id}"),
            Self::SpelledOut => format!("/customers/delete?id={id}"),
        };
        send(service.delete(&path).token(login)).await
    }
}

fn ada() -> Value {
    json!({"name": "Ada", "dob": "1990-12-10"})
}

async fn show(service: &Service, login: &Login, id: i64) -> Answer {
    send(service.get(&format!("/customers/{id}")).token(login)).await
}

/// The last position of the log, which is the number of its events: positions have no gaps.
async fn head(service: &Service) -> i64 {
    let head = "select coalesce(max(position), 0) from events";
    sqlx::query_scalar(head).fetch_one(&service.pools.short).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_created_customer_is_answered_whole_and_read_back_the_same() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    for (spelling, status, id) in [(Spelling::Path, 201, 1), (Spelling::SpelledOut, 200, 2)] {
        let created = spelling.create(&service, &editor, &ada()).await;
        let whole = format!(
            r#"{status} {{"created_at":"[time]","dob":"1990-12-10","external_id":null,"id":{id},"name":"Ada","updated_at":"[time]","version":1}}"#
        );
        assert_eq!(created.shape(), whole);
        assert_eq!(created.header("content-type"), Some("application/json"));
        assert_eq!(created.header("location"), Some(format!("/customers/{id}").as_str()));
        assert_eq!(created.header("etag"), Some("\"1\""));
        assert_eq!(created.header("projection-pending"), None);
        assert_eq!(created.position(), head(&service).await);

        let time = created.body["created_at"].as_str().unwrap();
        assert_eq!(created.body["updated_at"], time);
        assert!(chrono::DateTime::parse_from_rfc3339(time).is_ok(), "{time}");
        assert!(time.len() == "2026-01-02T03:04:05.678901Z".len() && time.ends_with('Z'), "{time}");

        let read = show(&service, &editor, id).await;
        assert_eq!((read.status, &read.text), (200, &created.text));
        assert_eq!(read.header("etag"), Some("\"1\""));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_overwrites_and_keeps_when_the_customer_was_created() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    let created = Spelling::Path.create(&service, &editor, &ada()).await;
    for (spelling, name, version) in
        [(Spelling::Path, "Grace", 2), (Spelling::SpelledOut, "Hedy", 3)]
    {
        let before = head(&service).await;
        let body = json!({"name": name, "dob": "1914-11-09"});
        let updated = spelling.update(&service, &editor, 1, &body).await;
        let whole = format!(
            r#"200 {{"created_at":"[time]","dob":"1914-11-09","external_id":null,"id":1,"name":"{name}","updated_at":"[time]","version":{version}}}"#
        );
        assert_eq!(updated.shape(), whole);
        assert_eq!(updated.header("etag"), Some(format!("\"{version}\"").as_str()));
        assert_eq!(updated.header("location"), None);
        assert_eq!(updated.position(), before + 1);
        assert_eq!(updated.body["created_at"], created.body["created_at"]);
        assert!(updated.body["updated_at"].as_str() > created.body["updated_at"].as_str());
        let read = show(&service, &editor, 1).await;
        assert_eq!((read.status, &read.text), (200, &updated.text));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_customer_is_gone_and_its_id_is_not_used_again() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    for (spelling, id) in [(Spelling::Path, 1), (Spelling::SpelledOut, 2)] {
        let created = spelling.create(&service, &editor, &ada()).await;
        assert_eq!(created.body["id"], id);
        let deleted = spelling.delete(&service, &editor, id).await;
        let whole = format!(r#"200 {{"id":{id},"msg":"customer {id} deleted"}}"#);
        assert_eq!(deleted.shape(), whole);
        assert_eq!(deleted.position(), created.position() + 1);

        let gone = show(&service, &editor, id).await;
        insta::allow_duplicates! {
            insta::assert_snapshot!(gone.shape(), @r#"404 {"detail":"no such customer","request_id":"[id]","status":404,"title":"Not found","type":"/problems/not-found"}"#);
        }
        for again in SPELLINGS {
            let update = again.update(&service, &editor, id, &ada()).await;
            assert_eq!(update.shape(), gone.shape());
            assert_eq!(again.delete(&service, &editor, id).await.shape(), gone.shape());
        }
        assert_eq!(head(&service).await, deleted.position());
    }
    assert_eq!(Spelling::Path.create(&service, &editor, &ada()).await.body["id"], 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_customer_that_never_was_is_not_found() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    let before = head(&service).await;
    for id in [1, 9_007_199_254_740_991] {
        let read = show(&service, &editor, id).await;
        assert_eq!((read.status, read.body["type"].as_str()), (404, Some("/problems/not-found")));
        for spelling in SPELLINGS {
            let update = spelling.update(&service, &editor, id, &ada()).await;
            assert_eq!(update.shape(), read.shape());
            assert_eq!(spelling.delete(&service, &editor, id).await.shape(), read.shape());
        }
    }
    assert_eq!(head(&service).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_that_changes_nothing_is_no_event() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    let zoe = json!({"name": "Zoë", "dob": "1990-12-10"});
    let created = Spelling::Path.create(&service, &editor, &zoe).await;
    Spelling::Path.create(&service, &editor, &ada()).await;
    let before = head(&service).await;
    // The name is compared after trimming and composition (NFC).
    let same = json!({"name": " Zoe\u{308}\t", "dob": "1990-12-10"});
    for spelling in SPELLINGS {
        for body in [&zoe, &same] {
            let unchanged = spelling.update(&service, &editor, 1, body).await;
            assert_eq!((unchanged.status, &unchanged.text), (200, &created.text));
            assert_eq!(unchanged.header("etag"), Some("\"1\""));
            assert_eq!(unchanged.position(), created.position());
        }
    }
    assert_eq!(head(&service).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_trimmed_and_composed_and_may_be_shared() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    // Several kinds of spaces, e + diaeresis, decomposed Hangul. JSON escapes (below) give the same name
    // as the plain characters.
    for (sent, stored) in [
        ("\u{2003} Zoe\u{308} \u{a0}", "Zoë"),
        ("Zoë", "Zoë"),
        ("\u{1112}\u{1161}\u{11ab}", "한"),
        ("O'Neil \"the\" <b>\\ 💯", "O'Neil \"the\" <b>\\ 💯"),
        ("a  b", "a  b"),
    ] {
        let body = json!({"name": sent, "dob": "1990-12-10", "nickname": [1, {"any": null}]});
        let created = Spelling::Path.create(&service, &editor, &body).await;
        assert_eq!((created.status, created.body["name"].as_str()), (201, Some(stored)));
        let id = created.body["id"].as_i64().unwrap();
        assert_eq!(show(&service, &editor, id).await.body["name"], stored);
        assert_eq!(created.body.as_object().unwrap().len(), 7, "{created:?}");
    }
    let escaped = r#"{"name":"Zoe\u0308 \ud83d\udcaf","dob":"1900-01-01"}"#;
    let request = service.post("/customers").header("content-type", "application/json");
    let created = send(request.token(&editor).body(escaped)).await;
    assert_eq!((created.status, created.body["name"].as_str()), (201, Some("Zoë 💯")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_born_today_can_be_a_customer_and_tomorrow_on_the_day_after() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    let today = service.hands.clock().today();
    let tomorrow = today.succ_opt().unwrap();
    let born = |day: chrono::NaiveDate| json!({"name": "Ada", "dob": day.to_string()});
    let create = async |day| Spelling::Path.create(&service, &editor, &born(day)).await.status;
    assert_eq!([create(today).await, create(tomorrow).await], [201, 422]);
    // The date is in the future until the last second of the day before it, in UTC.
    let midnight = tomorrow.and_hms_opt(0, 0, 0).unwrap().and_utc();
    service.hands.forward((midnight - service.hands.clock().now()).num_seconds() - 1);
    let editor = service.log_in("editor").await;
    let create = async |day| Spelling::Path.create(&service, &editor, &born(day)).await.status;
    assert_eq!(create(tomorrow).await, 422);
    service.hands.forward(1);
    assert_eq!(create(tomorrow).await, 201);
}
