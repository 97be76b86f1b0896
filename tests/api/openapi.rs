//! The OpenAPI document: whole, fresh, and without changes that break clients. That the answers are as it says is
//! checked with every answer that a test gets (`contract`).

use std::collections::HashSet;
use std::path::Path;
use std::sync::LazyLock;

use customers::api;
use customers::api::problem_types;
use serde_json::{Map, Value};

use crate::contract::DOCUMENT;
use crate::harness::{Service, send};

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn object(value: &Value) -> &Map<String, Value> {
    static EMPTY: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
    value.as_object().unwrap_or(&EMPTY)
}

/// The operations of a document: method and path, and what it says of them.
fn operations(document: &Value) -> impl Iterator<Item = (String, &Value)> {
    object(&document["paths"]).iter().flat_map(|(path, item)| {
        let named = object(item).iter();
        named.map(move |(method, operation)| {
            (format!("{} {path}", method.to_ascii_uppercase()), operation)
        })
    })
}

#[test]
fn the_document_in_the_repository_is_that_of_the_program() {
    let expected = format!("{}\n", api::openapi_json("", "customers_session"));
    let is_fresh = read("openapi.json") == expected;
    assert!(is_fresh, "openapi.json is stale: run `customers openapi >openapi.json`");
}

#[test]
fn every_route_is_in_the_document_and_described() {
    let documented: HashSet<String> = operations(&DOCUMENT).map(|(name, _)| name).collect();
    let routes = api::routes();
    let rows = routes.iter().map(|route| format!("{} {}", route.method, route.path));
    assert_eq!(documented, rows.collect());
    let mut ids = HashSet::new();
    for (name, operation) in operations(&DOCUMENT) {
        assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{name}: operationId");
        for member in ["summary", "description"] {
            assert!(operation[member].as_str().is_some_and(|text| !text.is_empty()), "{name}");
        }
        // utoipa leaves an empty description out, which makes the document invalid.
        for (status, answer) in object(&operation["responses"]) {
            assert!(answer["description"].is_string(), "{name}: {status} has no description");
        }
    }
}

/// What is in the released document and not in this one, or is asked for by this one alone.
fn breaks(released: &Value, now: &Value) -> Vec<String> {
    let mut found = vec![];
    for (name, old) in operations(released) {
        let Some((_, new)) = operations(now).find(|(other, _)| *other == name) else {
            found.push(format!("{name} is gone"));
            continue;
        };
        for (status, old) in object(&old["responses"]) {
            let Some(new) = new["responses"].get(status) else {
                found.push(format!("{name}: {status} is gone"));
                continue;
            };
            for (media_type, old) in object(&old["content"]) {
                match new["content"].get(media_type) {
                    None => found.push(format!("{name}: {status} {media_type} is gone")),
                    // Another shape may be added, for those who ask for it.
                    Some(new)
                        if new["schema"] != old["schema"]
                            && !new["schema"]["oneOf"]
                                .as_array()
                                .is_some_and(|shapes| shapes.contains(&old["schema"])) =>
                    {
                        found.push(format!("{name}: {status} {media_type} has another schema"));
                    }
                    Some(_) => {}
                }
            }
        }
        let old_parameters = old["parameters"].as_array().into_iter().flatten();
        let new_parameters = || new["parameters"].as_array().into_iter().flatten();
        for old in old_parameters.clone() {
            if !new_parameters().any(|new| (&new["name"], &new["in"]) == (&old["name"], &old["in"]))
            {
                found.push(format!("{name}: the parameter {} is gone", old["name"]));
            }
        }
        for new in new_parameters().filter(|new| new["required"] == true) {
            let was_required = |old: &Value| old["name"] == new["name"] && old["required"] == true;
            if !old_parameters.clone().any(was_required) {
                found.push(format!("{name}: the parameter {} is required", new["name"]));
            }
        }
        if old["requestBody"]["content"] != new["requestBody"]["content"] {
            for media_type in object(&old["requestBody"]["content"]).keys() {
                if new["requestBody"]["content"].get(media_type).is_none() {
                    found.push(format!("{name}: bodies of {media_type} are not taken"));
                }
            }
        }
    }
    found.extend(broken_schemas(released, now));
    found
}

/// The same of the shapes.
fn broken_schemas(released: &Value, now: &Value) -> Vec<String> {
    let mut found = vec![];
    let schemas = |document: &Value| document["components"]["schemas"].clone();
    let (old, new) = (schemas(released), schemas(now));
    for (name, old) in object(&old) {
        let Some(new) = new.get(name) else {
            found.push(format!("the schema {name} is gone"));
            continue;
        };
        for (member, old) in object(&old["properties"]) {
            match new["properties"].get(member) {
                None => found.push(format!("{name}.{member} is gone")),
                Some(new) if new["type"] != old["type"] => {
                    found.push(format!("{name}.{member} has another type"));
                }
                Some(_) => {}
            }
        }
        let required = |schema: &Value| -> HashSet<String> {
            let names = schema["required"].as_array().into_iter().flatten();
            names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
        };
        let (was, is) = (required(old), required(new));
        // Of an answer: a member that was always there may be missing. Of a body: a member must be sent.
        for member in was.symmetric_difference(&is) {
            let is_new = old["properties"].get(member).is_none();
            let of_bodies = ["CustomerValues", "CustomerUpdate", "LogIn", "PasswordChange"];
            if !is_new || of_bodies.contains(&name.as_str()) {
                found.push(format!("{name}.{member}: whether it is required"));
            }
        }
        for value in old["enum"].as_array().into_iter().flatten() {
            if !new["enum"].as_array().is_some_and(|values| values.contains(value)) {
                found.push(format!("{name}: the value {value} is gone"));
            }
        }
    }
    found
}

/// The document of the first release of this major version. A change that breaks clients raises the major version
/// and replaces the file.
fn released() -> Value {
    serde_json::from_str(&read("tests/contract/openapi-1.json")).unwrap()
}

#[test]
fn a_change_that_breaks_clients_needs_another_major_version() {
    let major = |document: &Value| {
        let version = document["info"]["version"].as_str().unwrap();
        version.split('.').next().unwrap().to_owned()
    };
    let released = released();
    assert_eq!(major(&released), major(&DOCUMENT), "replace the released document");
    assert_eq!(breaks(&released, &DOCUMENT), Vec::<String>::new());
}

#[test]
fn each_kind_of_change_that_breaks_clients_is_found() {
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 9] = [
        ("is gone", |d| drop(d["paths"].as_object_mut().unwrap().remove("/customers/{id}"))),
        ("DELETE /customers/{id} is gone", |d| {
            d["paths"]["/customers/{id}"].as_object_mut().unwrap().remove("delete");
        }),
        ("304 is gone", |d| {
            let responses = &mut d["paths"]["/customers/{id}"]["get"]["responses"];
            responses.as_object_mut().unwrap().remove("304");
        }),
        ("Customer.dob is gone", |d| {
            let customer = &mut d["components"]["schemas"]["Customer"]["properties"];
            customer.as_object_mut().unwrap().remove("dob");
        }),
        ("Customer.id has another type", |d| {
            d["components"]["schemas"]["Customer"]["properties"]["id"]["type"] = "string".into();
        }),
        ("Customer.version: whether", |d| {
            let required = &mut d["components"]["schemas"]["Customer"]["required"];
            required.as_array_mut().unwrap().retain(|name| name != "version");
        }),
        ("CustomerValues.email: whether", |d| {
            let required = &mut d["components"]["schemas"]["CustomerValues"]["required"];
            required.as_array_mut().unwrap().push("email".into());
        }),
        ("the parameter \"limit\" is gone", |d| {
            let parameters = &mut d["paths"]["/customers"]["get"]["parameters"];
            parameters.as_array_mut().unwrap().retain(|parameter| parameter["name"] != "limit");
        }),
        ("the parameter \"limit\" is required", |d| {
            let parameters = &mut d["paths"]["/customers"]["get"]["parameters"];
            for parameter in parameters.as_array_mut().unwrap() {
                if parameter["name"] == "limit" {
                    parameter["required"] = true.into();
                }
            }
        }),
    ];
    let released = released();
    for (expected, change) in changes {
        let mut changed = released.clone();
        change(&mut changed);
        let found = breaks(&released, &changed);
        assert!(found.iter().any(|found| found.contains(expected)), "{expected}: {found:?}");
    }
    // An addition breaks nothing.
    let mut added = released.clone();
    added["components"]["schemas"]["Customer"]["properties"]["email"] =
        serde_json::json!({"type": "string"});
    added["paths"]["/new"]["get"] = serde_json::json!({});
    assert_eq!(breaks(&released, &added), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_of_the_document_comes_from_the_service_alone() {
    let service = Service::start().await;
    let document = send(service.get("/openapi.json")).await;
    assert_eq!((document.status, &document.body), (200, &*DOCUMENT));
    let page = send(service.get("/docs")).await;
    assert_eq!(page.status, 200);
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
    assert!(!page.text.contains("//"), "an address of another host: {}", page.text);
    let addresses = page.text.split('"').filter(|text| text.starts_with("/docs/"));
    let mut files = 0;
    for address in addresses {
        let file = send(service.get(address)).await;
        assert_eq!((file.status, file.text.is_empty()), (200, false), "{address}");
        files += 1;
    }
    assert_eq!(files, 3);
    let start = send(service.get("/docs/start.js")).await;
    assert!(start.text.contains("validatorUrl: null"));
    let other = send(service.get("/livez")).await;
    let policy = other.header("content-security-policy").unwrap();
    assert_eq!(policy, "default-src 'none'; frame-ancestors 'none'");
    assert_eq!(send(service.get("/docs/..%2Fopenapi.json")).await.status, 404);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_type_of_every_problem_resolves_to_its_explanation() {
    let service = Service::start().await;
    let missing = send(service.get("/nowhere")).await;
    let known = problem_types::ALL.map(|kind| format!("/problems/{}", kind.slug));
    assert!(known.contains(&missing.body["type"].as_str().unwrap().to_owned()));
    for address in known {
        let json = send(service.get(&address)).await;
        assert_eq!((json.status, json.body["type"].as_str()), (200, Some(address.as_str())));
        assert!(!json.body["remedy"].as_str().unwrap().is_empty());
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        let page = send(service.get(&address).header("accept", browser)).await;
        assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
        assert!(page.text.contains(json.body["remedy"].as_str().unwrap()), "{}", page.text);
    }
    assert_eq!(send(service.get("/problems/none")).await.status, 404);
    service.stop().await;
}
