//! Holds every answer that a test gets against the OpenAPI document: the status, the media type, the headers, and the
//! members of the JSON are those of the document, and it has no others.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use jsonschema::Validator;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::Answer;

/// The document of a service at the root of its host.
pub static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(&customers::api::openapi_json("", "customers_session")).unwrap()
});

/// Headers of HTTP itself, of every answer, and of pages of other origins.
const UNDOCUMENTED_HEADERS: [&str; 11] = [
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
    "access-control-expose-headers",
    "access-control-max-age",
    "connection",
    "content-length",
    "content-type",
    "date",
    "transfer-encoding",
];

/// Checks an answer of the service.
pub fn check(method: &Method, path: &str, answer: &Answer) {
    let method = match *method {
        Method::HEAD => "get".to_owned(),
        Method::OPTIONS => return,
        ref method => method.as_str().to_ascii_lowercase(),
    };
    let Some(operation) = operation(path).and_then(|item| item.get(&method)) else {
        assert!(
            [400, 404, 405, 503].contains(&answer.status),
            "{method} {path} is not in the document"
        );
        return;
    };
    let what = format!("{method} {path}: {}", answer.status);
    let documented = operation["responses"].get(answer.status.to_string());
    let documented =
        documented.unwrap_or_else(|| panic!("{what} is not in the document: {answer:?}"));
    check_headers(documented, answer, &what);
    if answer.text.is_empty() {
        return;
    }
    let media_type = answer.header("content-type").unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    let content = documented["content"].get(essence);
    let content = content.unwrap_or_else(|| panic!("{what}: {media_type} is not in the document"));
    match essence {
        "application/x-ndjson" => {
            for line in answer.text.lines() {
                check_json(&content["schema"], &serde_json::from_str(line).unwrap(), &what);
            }
        }
        essence if essence.ends_with("json") => {
            check_json(&content["schema"], &serde_json::from_str(&answer.text).unwrap(), &what);
        }
        _ => {}
    }
}

/// The paths of the public URLs of some tests.
const BASES: [&str; 2] = ["/registry/", "/customers/customers"];

/// The documented path that this one fits.
fn operation(path: &str) -> Option<&'static Value> {
    let base = BASES.iter().find(|base| path.starts_with(**base));
    let path = base.map_or(path, |_| &path[path[1..].find('/').map_or(0, |end| end + 1)..]);
    let segments: Vec<&str> = path.split('/').collect();
    let paths = DOCUMENT["paths"].as_object().unwrap();
    let fits = |template: &str, exactly: bool| {
        let template: Vec<&str> = template.split('/').collect();
        let equal = |(documented, given): (&&str, &&str)| {
            documented == given || !exactly && documented.starts_with('{') && !given.is_empty()
        };
        template.len() == segments.len() && template.iter().zip(&segments).all(equal)
    };
    let find = |exactly| paths.iter().find(|(template, _)| fits(template, exactly));
    find(true).or_else(|| find(false)).map(|(_, item)| item)
}

fn check_headers(documented: &Value, answer: &Answer, what: &str) {
    for name in answer.headers.keys() {
        let is_documented = documented["headers"].get(name.as_str()).is_some();
        let is_general = UNDOCUMENTED_HEADERS.contains(&name.as_str());
        let is_of_https = name == "strict-transport-security" || name == "vary";
        assert!(is_documented || is_general || is_of_https, "{what}: the header {name}");
    }
}

fn check_json(schema: &Value, value: &Value, what: &str) {
    static VALIDATORS: LazyLock<Mutex<HashMap<String, Arc<Validator>>>> =
        LazyLock::new(Mutex::default);
    let validator = {
        let mut validators = VALIDATORS.lock().unwrap();
        let validator = validators.entry(schema.to_string()).or_insert_with(|| {
            let mut whole = json!({"components": DOCUMENT["components"]});
            whole.as_object_mut().unwrap().extend(schema.as_object().unwrap().clone());
            close(&mut whole);
            Arc::new(jsonschema::draft202012::new(&whole).unwrap())
        });
        Arc::clone(validator)
    };
    let errors: Vec<String> = validator
        .iter_errors(value)
        .map(|error| format!("{} at {}", error, error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{what}: {}\n{value:#}", errors.join("; "));
}

/// Forbids the members that a schema does not name: clients have to ignore them, but the document should name them.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            members.values_mut().for_each(close);
            if members.contains_key("properties") && members.get("type") == Some(&json!("object")) {
                members.entry("additionalProperties").or_insert(json!(false));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}
