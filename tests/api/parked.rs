//! Parked customers: when a projection cannot apply an event, the events of that customer wait and the
//! events of other customers are applied.

use customers::events::values::Role;
use customers::projections::customer_history::CustomerHistory;
use customers::projections::customers::Customers;
use customers::projections::parked::{Retried, retry};
use customers::projections::rebuild::rebuild;
use customers::projections::verify::{Verified, verify};
use customers::projections::{ALL, Projection};
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::harness::{Answer, Login, Service, With as _, send};

/// Constraints by which the read tables refuse a name.
const POISON: [&str; 3] = [
    "alter table customers add constraint poison check (name <> 'Poison')",
    "alter table customer_history add constraint poison check (name <> 'Poison')",
    "alter table customer_search add constraint poison check (name <> 'Poison')",
];

const ANTIDOTE: [&str; 3] = [
    "alter table customers drop constraint poison",
    "alter table customer_history drop constraint poison",
    "alter table customer_search drop constraint poison",
];

/// A service with five customers, an admin, and a connection of the owner.
async fn with_five_customers() -> (Service, Login, PgConnection) {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    for n in 1..=5 {
        let body = json!({"name": format!("Person {n}"), "dob": "1990-12-10"});
        let created = send(service.post("/customers").login(&admin).json(&body)).await;
        assert_eq!((created.status, created.header("projection-pending")), (201, None));
    }
    service.caught_up().await;
    let owner = PgConnection::connect(service.database_url()).await.unwrap();
    (service, admin, owner)
}

async fn put(service: &Service, login: &Login, id: i64, name: &str) -> Answer {
    let body = json!({"name": name, "dob": "1990-12-10"});
    send(service.put(&format!("/customers/{id}")).login(login).json(&body)).await
}

async fn get(service: &Service, login: &Login, path: &str) -> Answer {
    send(service.get(path).login(login)).await
}

/// The name of the customer in the list.
async fn listed(service: &Service, login: &Login, id: i64) -> Value {
    let list = get(service, login, "/customers").await;
    let all = list.body["customers"].as_array().unwrap();
    all.iter().find(|customer| customer["id"] == id).unwrap()["name"].clone()
}

async fn verified(service: &Service, projection: &dyn Projection) -> Verified {
    verify(projection, &service.pools.long).await.unwrap()
}

async fn parked(service: &Service, login: &Login) -> Vec<i64> {
    let told = get(service, login, "/projections").await;
    let all = told.body["projections"].as_array().unwrap();
    all.iter().map(|status| status["parked"].as_i64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_stored_waits_in_order_and_everybody_else_goes_on() {
    let (service, admin, mut owner) = with_five_customers().await;
    for poison in POISON {
        owner.execute(poison).await.unwrap();
    }
    let poisoned = put(&service, &admin, 2, "Poison").await;
    assert_eq!((poisoned.status, poisoned.header("projection-pending")), (200, Some("true")));
    for id in [1, 3, 4, 5] {
        let changed = put(&service, &admin, id, "Changed").await;
        assert_eq!((changed.status, changed.header("projection-pending")), (200, None), "{id}");
        assert_eq!(listed(&service, &admin, id).await, "Changed");
    }
    // Reads and writes of the parked customer show its current state.
    assert_eq!(get(&service, &admin, "/customers/2").await.text, poisoned.text);
    service.caught_up().await;
    let after = put(&service, &admin, 2, "Good").await;
    assert_eq!((after.status, after.header("projection-pending")), (200, Some("true")));
    assert_eq!(after.header("etag"), Some("\"3\""));
    service.caught_up().await;
    let position = after.position().to_string();
    let read = service.get("/customers/2").login(&admin).header("min-event-position", position);
    assert_eq!(send(read).await.text, after.text);
    let history = get(&service, &admin, "/customers/2/history").await;
    let names: Vec<_> = history.body["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| &entry["changes"][0]["to"])
        .collect();
    assert_eq!(names, ["Person 2", "Poison", "Good"]);
    assert_eq!(get(&service, &admin, "/customers/2?version=2").await.text, poisoned.text);
    let then = poisoned.body["updated_at"].as_str().unwrap();
    let path = format!("/customers/2?as_of={then}");
    assert_eq!(get(&service, &admin, &path).await.text, poisoned.text);
    // The list shows the parked customer as before.
    assert_eq!(listed(&service, &admin, 2).await, "Person 2");

    assert_eq!(parked(&service, &admin).await, [1, 1, 1]);
    let metrics = send(service.get("/metrics")).await.text;
    let line = "customers_projection_parked{projection=\"customer_history\"} 1\n";
    assert!(metrics.contains(line), "{metrics}");
    for projection in ALL {
        let Verified { difference, parked, .. } = verified(&service, projection).await;
        assert_eq!(difference, None);
        assert_eq!((parked.len(), parked[0].customer_id), (1, 2));
        assert_eq!(parked[0].position, poisoned.position());
        assert!(parked[0].problem.contains("poison"), "{parked:?}");
    }

    // `customers` can store the current state; `customer_history` still cannot store the refused one.
    let retried = retry(&Customers, &service.pools.long).await.unwrap();
    assert_eq!(retried, Retried { repaired: 1, still_parked: 0 });
    assert_eq!(listed(&service, &admin, 2).await, "Good");
    let retried = retry(&CustomerHistory, &service.pools.long).await.unwrap();
    assert_eq!(retried, Retried { repaired: 0, still_parked: 1 });
    assert_eq!(parked(&service, &admin).await, [0, 1, 1]);
    for antidote in ANTIDOTE {
        owner.execute(antidote).await.unwrap();
    }
    for projection in &ALL[1..] {
        let retried = retry(*projection, &service.pools.long).await.unwrap();
        assert_eq!(retried, Retried { repaired: 1, still_parked: 0 });
    }
    let clean = get(&service, &admin, "/customers/2/history").await;
    assert_eq!(clean.text, history.text);
    let changed = put(&service, &admin, 2, "Changed").await;
    assert_eq!((changed.status, changed.header("projection-pending")), (200, None));
    service.caught_up().await;
    for projection in ALL {
        let Verified { difference, parked, .. } = verified(&service, projection).await;
        assert_eq!((difference, parked), (None, vec![]));
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_is_passed_on_as_it_stands_and_repaired_when_it_can() {
    let (service, admin, mut owner) = with_five_customers().await;
    // An event as a newer program or a broken disk would leave it.
    owner
        .execute(
            "insert into events
             select (select max(position) + 1 from events), aggregate_type, aggregate_id, 2,
                    'CustomerUpdated', '9', '{\"type\":\"CustomerUpdated\",\"who\":\"Ada\"}', metadata,
                    gen_random_uuid(), clock_timestamp()
             from events where aggregate_type = 'customer' and aggregate_id = '3'",
        )
        .await
        .unwrap();
    for id in [1, 2, 4, 5] {
        let changed = put(&service, &admin, id, "Changed").await;
        assert_eq!((changed.status, changed.header("projection-pending")), (200, None), "{id}");
    }
    service.caught_up().await;
    assert_eq!(parked(&service, &admin).await, [1, 1, 1]);
    // The current state cannot be decoded; earlier states can.
    for path in ["/customers/3", "/customers/3?version=2", "/customers/3/history"] {
        assert_eq!(get(&service, &admin, path).await.status, 500, "{path}");
    }
    assert_eq!(put(&service, &admin, 3, "Changed").await.status, 500);
    let first = get(&service, &admin, "/customers/3?version=1").await;
    assert_eq!((first.status, &first.body["name"]), (200, &json!("Person 3")));
    assert_eq!(listed(&service, &admin, 3).await, "Person 3");
    // The feed returns the event as the log stores it.
    let feed = get(&service, &admin, "/events?customer=3").await;
    let last = feed.body["events"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["version"], &last["data"]), (&json!("9"), &json!({"who": "Ada"})));

    // A rebuild parks the customer in the same way.
    for projection in ALL {
        let before = verified(&service, projection).await;
        let rebuilt = rebuild(projection, &service.pools.rebuild).await.unwrap();
        assert_eq!(rebuilt.changed, 0);
        let after = verified(&service, projection).await;
        assert_eq!((&after.difference, &after.parked), (&None, &before.parked));
        assert_eq!(after.parked[0].customer_id, 3);
    }

    for statement in [
        "alter table events disable trigger events_append_only",
        "update events set event_version = '1',
                payload = '{\"type\":\"CustomerUpdated\",\"name\":\"Ada\",\"dob\":\"1990-12-10\"}'
         where event_version = '9'",
        "alter table events enable always trigger events_append_only",
    ] {
        owner.execute(statement).await.unwrap();
    }
    for projection in ALL {
        let retried = retry(projection, &service.pools.long).await.unwrap();
        assert_eq!(retried, Retried { repaired: 1, still_parked: 0 });
        let Verified { difference, parked, .. } = verified(&service, projection).await;
        assert_eq!((difference, parked), (None, vec![]));
    }
    assert_eq!(listed(&service, &admin, 3).await, "Ada");
    assert_eq!(get(&service, &admin, "/customers/3").await.body["version"], 2);
    assert_eq!(put(&service, &admin, 3, "Changed").await.status, 200);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_finds_those_it_cannot_store_among_many() {
    let (service, admin, mut owner) = with_five_customers().await;
    for (id, name) in [(2, "Poison"), (2, "Good"), (4, "Good"), (4, "Poison"), (4, "Later")] {
        assert_eq!(put(&service, &admin, id, name).await.status, 200);
    }
    service.caught_up().await;
    let clean = get(&service, &admin, "/customers/4/history").await;
    for poison in POISON {
        // `not valid` accepts the existing rows.
        owner.execute(format!("{poison} not valid").as_str()).await.unwrap();
    }
    let rebuilt = rebuild(&CustomerHistory, &service.pools.rebuild).await.unwrap();
    // Customers 2 and 4 each lack two states, and the state before those lacks its end.
    assert_eq!(rebuilt.changed, 6);
    let Verified { difference, parked, .. } = verified(&service, &CustomerHistory).await;
    assert_eq!(difference, None);
    let parked: Vec<_> = parked.into_iter().map(|parked| parked.customer_id).collect();
    assert_eq!(parked, [2, 4]);
    assert_eq!(get(&service, &admin, "/customers/4/history").await.text, clean.text);
    assert_eq!(rebuild(&Customers, &service.pools.rebuild).await.unwrap().changed, 0);
    for antidote in ANTIDOTE {
        owner.execute(antidote).await.unwrap();
    }
    let retried = retry(&CustomerHistory, &service.pools.long).await.unwrap();
    assert_eq!(retried, Retried { repaired: 2, still_parked: 0 });
    assert_eq!(get(&service, &admin, "/customers/4/history").await.text, clean.text);
    assert_eq!(verified(&service, &CustomerHistory).await.difference, None);
    service.stop().await;
}
