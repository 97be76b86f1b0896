//! Random headers and cursors: each is read or refused, and none is the service's fault.

use customers::events::values::Role;
use proptest::prelude::*;
use reqwest::header::HeaderValue;

use crate::harness::{With as _, send};
use crate::if_match::{ada, at_version_2};

/// A second of requests, or many with `script/test --long`.
fn cases() -> ProptestConfig {
    let is_long = std::env::var_os("CUSTOMERS_TEST_LONG").is_some();
    let cases = if is_long { 10_000 } else { 300 };
    ProptestConfig { cases, failure_persistence: None, ..Default::default() }
}

/// The value of a header with conditions, or something like it.
fn condition() -> impl Strategy<Value = HeaderValue> {
    let like_tags = "(\\*|W?/?\"?[0-3a*, é]{0,3}\"?)(,?[ \t]?(\\*|W?/?\"[0-3\u{80}]{0,2}\"?)){0,3}";
    let bytes = prop::collection::vec(
        any::<u8>().prop_filter("no control", |byte| *byte >= b' ' && *byte != 0x7f),
        0..16,
    );
    prop_oneof![like_tags.prop_map(String::into_bytes), bytes]
        .prop_filter_map("not a value", |bytes| HeaderValue::from_bytes(&bytes).ok())
}

#[test]
fn any_condition_is_compared_or_refused() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (service, editor) = runtime.block_on(at_version_2());
    proptest!(cases(), |(
        name in prop_oneof![Just("if-match"), Just("if-none-match"), Just("if-unmodified-since")],
        values in prop::collection::vec(condition(), 1..3),
        is_read in any::<bool>(),
    )| {
        let request = if is_read {
            service.get("/customers/1")
        } else {
            service.put("/customers/1").json(&ada())
        };
        let request = values.iter().fold(request.token(&editor), |request, value| {
            request.header(name, value)
        });
        let answer = runtime.block_on(send(request));
        let expected: &[u16] = if is_read { &[200, 304, 400, 412] } else { &[200, 400, 412] };
        prop_assert!(expected.contains(&answer.status), "{:?}", answer);
        if answer.status == 400 {
            prop_assert_eq!(&answer.body["errors"][0]["field"], name);
        }
    });
    runtime.block_on(service.stop());
}

#[test]
fn any_cursor_is_ours_or_refused() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (service, editor) = runtime.block_on(at_version_2());
    let viewer = runtime.block_on(service.log_in_as(Role::Viewer));
    let page = |login, after: &str| {
        let query =
            form_urlencoded::Serializer::new(String::new()).append_pair("after", after).finish();
        let request = service.get(&format!("/customers?limit=1&{query}")).token(login);
        runtime.block_on(send(request))
    };
    let another = service.post("/customers").token(&editor).json(&ada());
    assert_eq!(runtime.block_on(send(another)).status, 201);
    let first = runtime.block_on(send(service.get("/customers?limit=1").token(&viewer)));
    let ours = first.body["next"].as_str().unwrap().to_owned();
    assert_eq!(page(&viewer, &ours).status, 200);
    let changed = (any::<prop::sample::Index>(), any::<char>()).prop_map({
        let ours = ours.clone();
        move |(at, by)| {
            let mut changed: Vec<char> = ours.chars().collect();
            let at = at.index(changed.len());
            changed[at] = by;
            changed.into_iter().collect::<String>()
        }
    });
    proptest!(cases(), |(after in prop_oneof![changed, any::<String>(), "[A-Za-z0-9_-]{0,90}"])| {
        let answer = page(&viewer, &after);
        if after == ours {
            prop_assert_eq!(answer.status, 200);
        } else {
            prop_assert_eq!((answer.status, &answer.body["errors"][0]["field"]), (400, &"after".into()));
        }
    });
    runtime.block_on(service.stop());
}
