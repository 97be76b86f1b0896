//! Holds every answer that a test gets against the OpenAPI document: the status, the media type, the headers, and the
//! members of the JSON are those of the document, and it has no others.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use jsonschema::Validator;
use reqwest::{Method, header};
use serde_json::{Value, json};

use crate::examples;
use crate::harness::Answer;

/// The document of a service at the root of its host.
pub static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(&customers::api::openapi_json("", "customers_session")).unwrap()
});

/// Headers of HTTP itself, of https, and of pages of other origins.
const UNDOCUMENTED_HEADERS: [&str; 13] = [
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
    "strict-transport-security",
    "transfer-encoding",
    "vary",
];

/// Checks an answer of the service.
pub fn check(method: &Method, path: &str, answer: &Answer) {
    let method = match *method {
        Method::HEAD => "get".to_owned(),
        Method::OPTIONS => return,
        ref method => method.as_str().to_ascii_lowercase(),
    };
    let what = format!("{method} {path}: {}", answer.status);
    let whole = operation(path, &method);
    // The service of some tests stands below the path of its public URL.
    let ends = path.match_indices('/').skip(1).map(|(start, _)| &path[start..]);
    let below: Vec<Operation> = ends.filter_map(|end| operation(end, &method)).collect();
    let is_below = answer.body["type"].as_str().is_some_and(|kind| !kind.starts_with("/problems/"));
    if (is_below || whole.is_none()) && [400, 404, 405, 503].contains(&answer.status) {
        return;
    }
    let all = whole.iter().chain(&below);
    let problems: Vec<Vec<String>> = all.map(|known| differences(known.value, answer)).collect();
    assert!(!problems.is_empty(), "{what} is not in the document");
    let is_right = problems.iter().any(Vec::is_empty);
    assert!(is_right, "{what}: {}\n{answer:?}", problems.concat().join("; "));
    if let Some(Operation { path, .. }) = whole.filter(|_| problems[0].is_empty()) {
        examples::record(&format!("{} {path}", method.to_ascii_uppercase()), answer);
    }
}

/// An operation of the document, and its path.
struct Operation {
    path: &'static str,
    value: &'static Value,
}

/// The operation of the documented path that this one fits.
fn operation(path: &str, method: &str) -> Option<Operation> {
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
    let (path, item) = find(true).or_else(|| find(false))?;
    Some(Operation { path, value: item.get(method)? })
}

/// How an answer differs from the documentation of its operation.
fn differences(operation: &Value, answer: &Answer) -> Vec<String> {
    let Some(documented) = operation["responses"].get(answer.status.to_string()) else {
        return vec!["the status is not in the document".to_owned()];
    };
    let names = answer.headers.keys().map(header::HeaderName::as_str);
    let is_known = |name: &&str| {
        documented["headers"].get(name).is_some() || UNDOCUMENTED_HEADERS.contains(name)
    };
    let unknown = names.filter(|name| !is_known(name));
    let mut found: Vec<String> = unknown.map(|name| format!("the header {name}")).collect();
    if answer.text.is_empty() {
        return found;
    }
    let media_type = answer.header("content-type").unwrap_or_default();
    let essence = essence(answer);
    let Some(content) = documented["content"].get(essence) else {
        found.push(format!("{media_type} is not in the document"));
        return found;
    };
    let texts: Vec<&str> = match essence {
        "application/x-ndjson" => answer.text.lines().collect(),
        essence if essence.ends_with("json") => vec![&answer.text],
        _ => vec![],
    };
    for text in texts {
        found.extend(check_json(&content["schema"], &serde_json::from_str(text).unwrap()));
    }
    found
}

/// The media type of an answer, without its parameters.
pub fn essence(answer: &Answer) -> &str {
    let media_type = answer.header("content-type").unwrap_or_default();
    media_type.split(';').next().unwrap_or_default().trim()
}

/// How a value differs from a schema.
pub fn check_json(schema: &Value, value: &Value) -> Vec<String> {
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
    let errors = validator.iter_errors(value);
    errors.map(|error| format!("{error} at {}", error.instance_path())).collect()
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
