//! The versions of events. An event is in the log for ever, so every later program must read it.
//!
//! `tests/golden` has the payload of every event in every version, byte by byte. An existing file is
//! never changed: a new version gets a new file.

use std::collections::BTreeSet;

use customers::events::account::{AccountEvent, CloseCause, ThrottledBy};
use customers::events::account_key::{ClientId, KeyExpiry, KeyName};
use customers::events::customer::{CustomerEvent, CustomerValues};
use customers::events::external_id::ExternalId;
use customers::events::installation::InstallationEvent;
use customers::events::log::payload::{NewEvent, current, decode};
use customers::events::upcast::{current_version, upcasters};
use customers::events::values::{DateOfBirth, Name, Role, Username};
use customers::projections::customers::Customers;
use customers::projections::verify::verify;
use serde_json::json;

use crate::harness::{Service, With as _, send};

fn golden(name: &str) -> String {
    let path = format!("{}/tests/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.trim_end_matches('\n').to_owned()
}

fn person() -> (Name, DateOfBirth) {
    let dob = "1990-12-10".parse().unwrap();
    (Name::parse("Ada Lovelace").unwrap(), DateOfBirth::stored(dob))
}

pub fn customer_events() -> Vec<CustomerEvent> {
    let (name, dob) = person();
    let external_id = Some(ExternalId::parse("crm-4711").unwrap());
    let known = CustomerValues { name: name.clone(), dob, external_id };
    vec![
        CustomerEvent::created(CustomerValues::new(name.clone(), dob)),
        CustomerEvent::updated(CustomerValues::new(name, dob)),
        CustomerEvent::CustomerDeleted {},
        CustomerEvent::restored(known, 1),
    ]
}

pub fn account_events() -> Vec<AccountEvent> {
    let (session, jti) = ("a-session".to_owned(), "a-token".to_owned());
    let client_id = ClientId::parse("019ac4f2-6d8e-7c51-9a0b-3f1d2e4c5b6a").unwrap();
    vec![
        AccountEvent::AccountAdded {
            username: Username::parse("ada").unwrap(),
            role: Role::Editor,
        },
        AccountEvent::AccountDisabled {},
        AccountEvent::AccountEnabled {},
        AccountEvent::RoleChanged { role: Role::Auditor },
        AccountEvent::PasswordChanged {},
        AccountEvent::PasswordRehashed {},
        AccountEvent::SessionOpened { session: session.clone(), client_id: None },
        AccountEvent::SessionBound { session: session.clone() },
        AccountEvent::SessionClosed {
            session: session.clone(),
            jti: jti.clone(),
            cause: CloseCause::LogOut,
        },
        AccountEvent::TokenReplayDetected {
            session,
            jti,
            opened_ip: "192.0.2.1".to_owned(),
            opened_user_agent: "curl/8".to_owned(),
        },
        AccountEvent::LoginThrottled { by: ThrottledBy::Address },
        AccountEvent::ServiceKeyAdded {
            client_id,
            name: KeyName::parse("nightly sync").unwrap(),
            expires_at: KeyExpiry::stored("2027-01-31T12:00:00Z".parse().unwrap()),
        },
        AccountEvent::ServiceKeyRevoked { client_id },
    ]
}

fn installation_events() -> Vec<InstallationEvent> {
    let kid = "0198c1a2-3b4c-7d5e-8f60-718293a4b5c6".parse().unwrap();
    let verifies_until = "2026-11-28T08:00:00.000000Z".to_owned();
    vec![
        InstallationEvent::TokenKeyCreated { kid },
        InstallationEvent::TokenKeyRetired { kid, verifies_until },
    ]
}

#[test]
fn every_event_is_written_as_its_golden_file_and_read_back() {
    for event in installation_events() {
        let new = NewEvent::from(&event);
        let file = golden(&format!("{}.v{}", new.event_type, new.event_version));
        assert_eq!(new.payload, file);
        let read: InstallationEvent = decode(&new.event_type, &new.event_version, &file).unwrap();
        assert_eq!(read, event);
    }
    for event in customer_events() {
        let new = NewEvent::from(&event);
        let file = golden(&format!("{}.v{}", new.event_type, new.event_version));
        assert_eq!(new.payload, file);
        let read: CustomerEvent = decode(&new.event_type, &new.event_version, &file).unwrap();
        assert_eq!(read, event);
    }
    for event in account_events() {
        let new = NewEvent::from(&event);
        let file = golden(&format!("{}.v{}", new.event_type, new.event_version));
        assert_eq!(new.payload, file);
        let read: AccountEvent = decode(&new.event_type, &new.event_version, &file).unwrap();
        assert_eq!(read, event);
    }
}

#[test]
fn every_kind_of_event_has_a_golden_file_and_one_version_of_today() {
    let customers = customer_events();
    let accounts = account_events();
    let written: BTreeSet<(String, String)> = (customers.iter().map(NewEvent::from))
        .chain(accounts.iter().map(NewEvent::from))
        .chain(installation_events().iter().map(NewEvent::from))
        .map(|new| (new.event_type.into(), new.event_version.into()))
        .collect();
    let names = CustomerEvent::TYPES.iter().chain(AccountEvent::TYPES);
    let names: BTreeSet<&str> = names.chain(InstallationEvent::TYPES).copied().collect();
    assert_eq!(written.iter().map(|(name, _)| name.as_str()).collect::<BTreeSet<_>>(), names);
    for (name, version) in written {
        assert_eq!(
            current_version(&name),
            version,
            "{name}: the last upcaster ends at another version"
        );
    }
}

#[test]
fn every_golden_file_of_an_older_version_is_read_as_todays() {
    let (name, dob) = person();
    let old = golden("CustomerCreated.v0");
    let read: CustomerEvent = decode("CustomerCreated", "0", &old).unwrap();
    assert_eq!(read, CustomerEvent::created(CustomerValues::new(name, dob)));
    assert_eq!(current("CustomerCreated", "0", &old).unwrap(), golden("CustomerCreated.v1"));
    // A payload of the current version is returned unchanged, not encoded again.
    let spaced = r#"{"type": "CustomerCreated", "name": "A", "dob": "1990-12-10"}"#;
    assert_eq!(current("CustomerCreated", "1", spaced).unwrap(), spaced);
    let folder = format!("{}/tests/golden", env!("CARGO_MANIFEST_DIR"));
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 19 + upcasters().len());
}

#[test]
fn a_version_that_a_newer_program_wrote_is_refused_by_name() {
    let error = decode::<CustomerEvent>("CustomerUpdated", "2", "{}").unwrap_err().to_string();
    let expected = "version 2 of CustomerUpdated is unknown: a newer program wrote it";
    assert_eq!(error, expected);
}

#[tokio::test]
async fn an_event_of_version_0_loads_projects_and_is_shown_as_todays() {
    let service = Service::start().await;
    sqlx::query(
        "insert into events values (1, 'customer', '900', 1, 'CustomerCreated', '0', $1::json,
                                    '{\"actor\":\"old\"}', gen_random_uuid(), now())",
    )
    .bind(golden("CustomerCreated.v0"))
    .execute(&service.pools.accounts)
    .await
    .unwrap();
    let login = service.log_in_as(Role::Admin).await;
    service.caught_up().await;

    let shown = send(service.get("/customers/900").login(&login)).await;
    assert_eq!(
        (&shown.body["name"], &shown.body["dob"]),
        (&json!("Ada Lovelace"), &json!("1990-12-10"))
    );
    let feed = send(service.get("/events?customer=900").login(&login)).await;
    let event = &feed.body["events"][0];
    assert_eq!((&event["type"], &event["version"]), (&json!("CustomerCreated"), &json!("1")));
    assert_eq!(event["data"], json!({"name": "Ada Lovelace", "dob": "1990-12-10"}));
    // The bus decides on the upcast state: the same values change nothing, other values do.
    let same = json!({"name": "Ada Lovelace", "dob": "1990-12-10"});
    let same = send(service.put("/customers/900").login(&login).json(&same)).await;
    assert_eq!((same.status, same.header("etag")), (200, Some("\"1\"")));
    let body = json!({"name": "Ada King", "dob": "1990-12-10"});
    let changed = send(service.put("/customers/900").login(&login).json(&body)).await;
    assert_eq!((changed.status, changed.header("etag")), (200, Some("\"2\"")));
    let history = send(service.get("/customers/900/history").login(&login)).await;
    assert_eq!(history.body["history"][0]["changes"][0]["to"], "Ada Lovelace");
    assert_eq!(history.body["history"][1]["changes"][0]["from"], "Ada Lovelace");
    assert_eq!(verify(&Customers, &service.pools.long).await.unwrap().difference, None);
    service.stop().await;
}

/// The event types in each `event_type in (...)` of a text.
fn lists_of_kinds(text: &str) -> Vec<BTreeSet<String>> {
    let lists = text.split("event_type in (").skip(1);
    let names = |list: &str| -> BTreeSet<String> {
        let list = list.split(')').next().unwrap();
        list.split(',').map(|name| name.trim().trim_matches('\'').to_owned()).collect()
    };
    lists.map(names).collect()
}

#[test]
fn every_list_of_kinds_in_sql_is_one_that_the_enum_tells() {
    let kinds = |is_one: fn(&AccountEvent) -> bool| -> BTreeSet<String> {
        let events = account_events().into_iter().filter(is_one);
        events.map(|event| event.event_type().to_owned()).collect()
    };
    let session_kinds = kinds(AccountEvent::changes_sessions);
    let account_kinds = kinds(|event| event.ends_all_sessions().is_some());
    let root = env!("CARGO_MANIFEST_DIR");
    let lists =
        |file: &str| lists_of_kinds(&std::fs::read_to_string(format!("{root}/{file}")).unwrap());
    // PostgreSQL uses a partial index only if the condition of the query matches that of the index.
    let indexes = lists("migrations/0018_accounts_and_service_keys.sql");
    assert_eq!(indexes, std::slice::from_ref(&session_kinds));
    // The first one there is of the index that migration 18 has replaced.
    assert_eq!(lists("migrations/0009_sessions.sql")[1], account_kinds);
    assert_eq!(lists("src/events/log/read.rs"), [session_kinds]);
    for list in lists("src/auth/account.rs") {
        assert_eq!(list, account_kinds);
    }
    // The others there are about the members of payloads, which `guards` checks.
    assert_eq!(lists("migrations/0010_append_lock_and_rights.sql").last(), Some(&account_kinds));
    // No other file has such a list.
    let mut files = vec![];
    for folder in ["migrations", "src"] {
        collect(std::path::Path::new(root).join(folder), &mut files);
    }
    let with_lists: usize = files.iter().filter(|text| !lists_of_kinds(text).is_empty()).count();
    assert_eq!(with_lists, 6);
}

fn collect(folder: std::path::PathBuf, files: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(path, files);
        } else if let Ok(text) = std::fs::read_to_string(path) {
            files.push(text);
        }
    }
}
