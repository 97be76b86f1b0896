//! External ids: unique among the customers that are there, decided by the log, and a way to sync without other ids.

use std::sync::Arc;

use customers::events::values::Role;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::harness::{Answer, Login, Service, With as _, send};

/// A customer with an external id.
fn known_as(external_id: &str, name: &str) -> Value {
    json!({"name": name, "dob": "1990-12-10", "external_id": external_id})
}

async fn create(service: &Service, login: &Login, body: &Value) -> Answer {
    send(service.post("/customers").login(login).json(body)).await
}

async fn put(service: &Service, login: &Login, external_id: &str, name: &str) -> Answer {
    let path = format!("/customers/external/{external_id}");
    let body = json!({"name": name, "dob": "1990-12-10"});
    send(service.put(&path).login(login).json(&body)).await
}

async fn update(service: &Service, login: &Login, id: i64, body: &Value) -> Answer {
    send(service.put(&format!("/customers/{id}")).login(login).json(body)).await
}

/// The ids of the customers that the list shows for an external id.
async fn found(service: &Service, login: &Login, external_id: &str) -> Vec<i64> {
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("external_id", external_id)
        .finish();
    let page = send(service.get(&format!("/customers?{query}")).login(login)).await;
    assert_eq!(page.status, 200, "{page:?}");
    let customers = page.body["customers"].as_array().unwrap();
    customers.iter().map(|customer| customer["id"].as_i64().unwrap()).collect()
}

fn taken_by(answer: &Answer) -> (u16, &Value, &Value) {
    (answer.status, &answer.body["type"], &answer.body["errors"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_external_id_is_kept_until_an_update_names_another_or_the_customer_is_deleted() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    let created = create(&service, &editor, &known_as("crm-1", "Ada")).await;
    assert_eq!((created.status, &created.body["external_id"]), (201, &json!("crm-1")));
    let plain = json!({"name": "Grace", "dob": "1990-12-10"});
    let other = create(&service, &editor, &plain).await;
    assert_eq!(other.body["external_id"], Value::Null);

    // An update that does not name it keeps it, and null takes it away.
    let updated = update(&service, &editor, 1, &plain).await;
    assert_eq!(
        (&updated.body["external_id"], &updated.body["version"]),
        (&json!("crm-1"), &json!(2))
    );
    assert_eq!(found(&service, &editor, "crm-1").await, [1]);
    let without = json!({"name": "Grace", "dob": "1990-12-10", "external_id": null});
    assert_eq!(update(&service, &editor, 1, &without).await.body["external_id"], Value::Null);
    assert_eq!(found(&service, &editor, "crm-1").await, Vec::<i64>::new());
    let legacy = json!({"id": 2, "name": "Grace", "dob": "1990-12-10", "external_id": "crm-1"});
    let legacy = send(service.post("/customers/update").login(&editor).json(&legacy)).await;
    assert_eq!((legacy.status, &legacy.body["external_id"]), (200, &json!("crm-1")));

    // Another customer cannot have it before the first has gone.
    let refused = update(&service, &editor, 1, &known_as("crm-1", "Grace")).await;
    let errors = json!([{"field": "external_id", "detail": "is that of customer 2"}]);
    assert_eq!(taken_by(&refused), (409, &json!("/problems/exists"), &errors));
    assert_eq!(taken_by(&create(&service, &editor, &known_as("crm-1", "Eve")).await).0, 409);
    let mut spelled_out = known_as("crm-1", "Eve");
    let created = send(service.post("/customers/create").login(&editor).json(&spelled_out)).await;
    spelled_out["id"] = json!(1);
    let updated = send(service.post("/customers/update").login(&editor).json(&spelled_out)).await;
    assert_eq!((taken_by(&created).0, taken_by(&updated).0), (409, 409));
    assert_eq!(send(service.delete("/customers/2").login(&editor)).await.status, 200);
    assert_eq!(update(&service, &editor, 1, &known_as("crm-1", "Grace")).await.status, 200);
    assert_eq!(found(&service, &editor, "crm-1").await, [1]);

    let auditor = service.log_in_as(Role::Auditor).await;
    let history = send(service.get("/customers/1/history").login(&auditor)).await;
    let changes: Vec<&Value> = history.body["history"].as_array().unwrap().iter().collect();
    let last = &changes.last().unwrap()["changes"];
    assert_eq!(*last, json!([{"field": "external_id", "from": null, "to": "crm-1"}]));
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_external_id_has_1_to_128_visible_characters() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    let long = "é".repeat(128);
    for good in ["x", "A/B?c=d&e#f%20", "客户-1", &long] {
        assert_eq!(create(&service, &editor, &known_as(good, "Ada")).await.status, 201, "{good}");
        assert_eq!(found(&service, &editor, good).await.len(), 1, "{good}");
    }
    for (bad, detail) in [
        ("", "must not be empty"),
        ("a b", "must not contain white space or control characters"),
        ("a\u{7}", "must not contain white space or control characters"),
        (&"x".repeat(129), "must have at most 128 characters"),
        ("a\u{200b}b", "must not contain U+200B ZERO WIDTH SPACE"),
    ] {
        let refused = create(&service, &editor, &known_as(bad, "Ada")).await;
        let error = &refused.body["errors"][0];
        assert_eq!((refused.status, &error["field"]), (422, &json!("external_id")), "{refused:?}");
        let told = error["detail"].as_str().unwrap();
        assert!(told == detail || bad.contains('\u{200b}'), "{told}");
    }
    let number = json!({"name": "Ada", "dob": "1990-12-10", "external_id": 7});
    assert_eq!(create(&service, &editor, &number).await.status, 422);
    let query = send(service.get("/customers?external_id=a%20b").login(&editor)).await;
    assert_eq!((query.status, &query.body["errors"][0]["field"]), (400, &json!("external_id")));
    // Composed and decomposed are one id.
    let decomposed = found(&service, &editor, &"e\u{301}".repeat(128)).await;
    assert_eq!(decomposed.len(), 1);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_by_external_id_creates_once_and_then_overwrites() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    let created = put(&service, &editor, "erp%2F7", "Ada").await;
    assert_eq!((created.status, created.header("location")), (201, Some("/customers/1")));
    assert_eq!(created.body["external_id"], json!("erp/7"));
    let same = put(&service, &editor, "erp%2F7", "Ada").await;
    assert_eq!((same.status, same.header("etag")), (200, Some("\"1\"")));
    let updated = put(&service, &editor, "erp%2F7", "Grace").await;
    assert_eq!((updated.status, &updated.body["version"]), (200, &json!(2)));
    assert_eq!(updated.body["id"], json!(1));

    // Conditions: only a create, only an update.
    let conditional = async |external_id: &str, name: &'static str, value: &'static str| {
        let path = format!("/customers/external/{external_id}");
        let body = json!({"name": "Eve", "dob": "1990-12-10"});
        send(service.put(&path).header(name, value).login(&editor).json(&body)).await.status
    };
    assert_eq!(conditional("erp%2F7", "if-none-match", "*").await, 412);
    assert_eq!(conditional("erp%2F7", "if-match", "\"1\"").await, 412);
    assert_eq!(conditional("new", "if-match", "\"1\"").await, 404);
    assert_eq!(conditional("new", "if-match", "*").await, 404);
    assert_eq!(conditional("erp%2F7", "if-match", "\"2\"").await, 200);
    assert_eq!(conditional("new", "if-none-match", "*").await, 201);

    // The body may repeat the id, and no other.
    let path = "/customers/external/new";
    let other = send(service.put(path).login(&editor).json(&known_as("old", "Eve"))).await;
    assert_eq!((other.status, &other.body["errors"][0]["field"]), (422, &json!("external_id")));
    let same = send(service.put(path).login(&editor).json(&known_as("new", "Eve"))).await;
    assert_eq!(same.status, 200);
    let unreadable = put(&service, &editor, "a%20b", "Ada").await;
    assert_eq!(unreadable.status, 422);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_with_a_key_is_made_once_and_answered_as_the_first_time() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    let request = |name: &str| {
        let body = json!({"name": name, "dob": "1990-12-10"});
        let request = service.put("/customers/external/a").header("idempotency-key", "k");
        request.login(&editor).json(&body)
    };
    let first = send(request("Ada")).await;
    assert_eq!(first.status, 201);
    assert_eq!(put(&service, &editor, "a", "Grace").await.body["version"], 2);
    let again = send(request("Ada")).await;
    assert_eq!((again.status, &again.text), (201, &first.text));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    let other = send(request("Eve")).await;
    assert_eq!(other.body["type"], json!("/problems/idempotency-mismatch"));
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_at_once_on_two_processes_one_has_the_external_id() {
    const CROWD: usize = 24;
    let here = Arc::new(Service::start().await);
    let there = Arc::new(Service::with(here.config.clone()).await);
    let editor = here.log_in_as(Role::Editor).await;
    for round in 0..5 {
        let external_id = format!("round-{round}");
        let crowd = (0..CROWD).map(|number| {
            let service = Arc::clone([&here, &there][number % 2]);
            let (editor, external_id) = (editor.clone(), external_id.clone());
            tokio::spawn(async move {
                let name = format!("Number {number}");
                if number % 4 < 2 {
                    create(&service, &editor, &known_as(&external_id, &name)).await.status
                } else {
                    put(&service, &editor, &external_id, &name).await.status
                }
            })
        });
        let mut statuses = vec![];
        for one in crowd.collect::<Vec<_>>() {
            statuses.push(one.await.unwrap());
        }
        let created = statuses.iter().filter(|status| **status == 201).count();
        assert_eq!(created, 1, "{statuses:?}");
        assert!(statuses.iter().all(|status| [200, 201, 409].contains(status)), "{statuses:?}");
        assert_eq!(found(&here, &editor, &external_id).await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn external_ids_that_move_between_customers_are_never_shared() {
    const MOVES: usize = 60;
    let here = Arc::new(Service::start().await);
    let there = Arc::new(Service::with(here.config.clone()).await);
    let editor = here.log_in_as(Role::Editor).await;
    for name in ["Ada", "Grace", "Eve"] {
        let body = json!({"name": name, "dob": "1990-12-10"});
        assert_eq!(create(&here, &editor, &body).await.status, 201);
    }
    let movers = (0..4).map(|mover: usize| {
        let service = Arc::clone([&here, &there][mover % 2]);
        let editor = editor.clone();
        tokio::spawn(async move {
            for number in 0..MOVES {
                let id = i64::try_from((mover + number) % 3 + 1).unwrap();
                let external_id = ["x", "y"][(mover + number / 2) % 2];
                let given = if number % 3 == 0 { Value::Null } else { json!(external_id) };
                let body = json!({"name": "Ada", "dob": "1990-12-10", "external_id": given});
                let status = update(&service, &editor, id, &body).await.status;
                assert!([200, 409].contains(&status), "{status}");
            }
        })
    });
    for mover in movers.collect::<Vec<_>>() {
        mover.await.unwrap();
    }
    // The table that decides is what the log says, at each position of the log.
    let pool = PgPool::connect(here.database_url()).await.unwrap();
    let kept: Vec<(i64, String)> =
        sqlx::query_as("select aggregate_id::bigint, external_id from external_ids order by 1")
            .fetch_all(&pool)
            .await
            .unwrap();
    let said: Vec<(i64, String)> = sqlx::query_as(
        "select aggregate_id::bigint, payload ->> 'external_id' from events e
         where aggregate_type = 'customer' and payload ->> 'external_id' is not null
           and not exists (select from events n where n.aggregate_type = 'customer'
                           and n.aggregate_id = e.aggregate_id and n.sequence > e.sequence)
         order by 1",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert_eq!(kept, said);
    let shared: i64 = sqlx::query_scalar(
        "select count(*) from events a join events b
           on b.aggregate_type = 'customer' and b.aggregate_id <> a.aggregate_id
          and b.payload ->> 'external_id' = a.payload ->> 'external_id'
         where a.aggregate_type = 'customer' and b.position < a.position
           and not exists (select from events n where n.aggregate_type = 'customer'
                           and n.aggregate_id = b.aggregate_id and n.sequence > b.sequence
                           and n.position < a.position)",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(shared, 0);
    for external_id in ["x", "y"] {
        assert!(found(&here, &editor, external_id).await.len() <= 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_takes_external_ids_and_names_the_lines_whose_ids_are_taken() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    create(&service, &editor, &known_as("a", "Ada")).await;
    let csv = "external_id,name,dob\na,Bob,1990-12-10\nb,Carl,1990-12-10\n,Dora,1990-12-10\nb,Emil,1990-12-10\n\
               x y,Fritz,1990-12-10\nc,Gerd,soon\nd,Hans,1990-12-10\n";
    let ask = async || {
        let request = service.post("/customers/import").header("import-id", "one");
        send(request.header("content-type", "text/csv").login(&editor).body(csv)).await.text
    };
    let first = ask().await;
    let lines: Vec<Value> = first.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let refused = |line: &Value| {
        let error = &line["errors"][0];
        (line["line"].as_i64().unwrap(), error["field"].as_str().unwrap().to_owned())
    };
    let told: Vec<(i64, String)> = lines[..lines.len() - 1].iter().map(refused).collect();
    let expected = [(2, "external_id"), (5, "external_id"), (6, "external_id"), (7, "dob")];
    let expected = expected.map(|(line, field)| (line, field.to_owned()));
    assert_eq!(told, expected);
    assert_eq!(lines[0]["errors"][0]["detail"], json!("is that of customer 1"));
    let summary = &lines.last().unwrap()["summary"];
    assert_eq!((&summary["created"], &summary["refused"]), (&json!(3), &json!(4)));
    // A repeat tells the same, also after the id is free.
    assert_eq!(send(service.delete("/customers/1").login(&editor)).await.status, 200);
    assert_eq!(ask().await, first);
    let pool = PgPool::connect(service.database_url()).await.unwrap();
    let names: Vec<String> = sqlx::query_scalar("select name from customers order by name")
        .fetch_all(&pool)
        .await
        .unwrap();
    assert_eq!(names, ["Carl", "Dora", "Hans"]);
    let ndjson = "{\"name\":\"Ida\",\"dob\":\"1990-12-10\",\"external_id\":\"d\"}\n\
                  {\"name\":\"Jan\",\"dob\":\"1990-12-10\",\"external_id\":null}\n";
    let request = service.post("/customers/import").header("content-type", "application/x-ndjson");
    let answer = send(request.login(&editor).body(ndjson)).await.text;
    assert!(answer.starts_with("{\"line\":1,\"errors\":[{\"field\":\"external_id\""), "{answer}");
    assert!(answer.contains("\"created\":1,\"refused\":1"), "{answer}");
    service.stop().await;
}
