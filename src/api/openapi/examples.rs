//! The examples of answers: those that tests have got (tests/api/examples.rs), by route, status and media type.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;
use utoipa::openapi::{RefOr, Response};

use crate::api::route::Route;

static ALL: LazyLock<HashMap<String, Value>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("examples.json")).expect("the file of examples is JSON")
});

/// Adds the examples of an answer.
pub(super) fn add(route: &Route, status: u16, answer: &mut Response) {
    for (media_type, content) in &mut answer.content {
        let key = format!("{} {} {status} {media_type}", route.method, route.path);
        if let RefOr::T(content) = content {
            content.example = ALL.get(&key).cloned();
        }
    }
}
