//! The parser of session cookies, on bytes that others write: it takes only what this installation has made,
//! and nothing makes it panic.

use customers::auth::Cookie;
use customers::auth::cookie::{Sent, SessionCookies, Shared};
use proptest::prelude::*;

const SHARED: &str = "customers_session";

fn cookies(number: u8) -> SessionCookies {
    SessionCookies::new("secret", &format!("http://h.test:{number}"), "customers")
}

fn read<'a>(ours: &SessionCookies, lines: &'a [Vec<u8>]) -> Sent<'a> {
    ours.read(lines.iter().map(Vec::as_slice))
}

/// A value in a `Cookie` header, by the place that it comes from.
#[derive(Debug, Clone)]
enum Value {
    /// One of three that we have made.
    Own(usize),
    Neighbours,
    Other(Vec<u8>),
}

fn value() -> impl Strategy<Value = Value> {
    let other = prop_oneof![
        "[ -~]{0,60}".prop_map(|text| text.replace(';', "").into_bytes()),
        "[A-Za-z0-9_-]{43}".prop_map(String::into_bytes),
        "[A-Za-z0-9_-]{54}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>().prop_filter("ends the pair", |b| *b != b';'), 0..60),
    ];
    prop_oneof![
        3 => (0..3usize).prop_map(Value::Own),
        1 => Just(Value::Neighbours),
        2 => other.prop_map(Value::Other),
    ]
}

/// Pairs of a name (0 is ours, 1 is shared, others are foreign) and a value, each with spaces around it, and
/// whether a new header begins after it.
fn jar() -> impl Strategy<Value = Vec<(usize, Value, String, bool)>> {
    prop::collection::vec((0..6usize, value(), "[ \t]{0,2}", any::<bool>()), 0..6)
}

fn cases() -> ProptestConfig {
    let is_long = std::env::var_os("CUSTOMERS_TEST_LONG").is_some();
    ProptestConfig::with_cases(if is_long { 100_000 } else { 1000 })
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn the_cookie_of_a_request_is_what_the_rules_say(jar in jar()) {
        let ours = cookies(0);
        let made: Vec<String> = (0..3).map(|_| ours.value()).collect();
        let neighbours = cookies(1).value();
        let names = [ours.name(), SHARED, cookies(1).name(), "__Host-session", "theme", ""].map(str::to_owned);
        let mut lines = vec![vec![]];
        let (mut own, mut shared, mut earlier, mut foreign) = (vec![], vec![], None, false);
        for (name, value, space, ends) in jar {
            let bytes = match &value {
                Value::Own(number) => made[*number].clone().into_bytes(),
                Value::Neighbours => neighbours.clone().into_bytes(),
                Value::Other(bytes) => bytes.clone(),
            };
            let line = lines.last_mut().expect("there is one");
            if !line.is_empty() {
                line.push(b';');
            }
            line.extend([space.as_bytes(), names[name].as_bytes(), b"=", space.as_bytes(), &bytes].concat());
            line.extend(space.as_bytes());
            if ends {
                lines.push(vec![]);
            }
            match (name, value) {
                (0, Value::Own(number)) => own.push(made[number].clone()),
                (1, Value::Own(number)) => shared.push(made[number].clone()),
                (1, _) => if let Ok(text) = std::str::from_utf8(bytes.trim_ascii()) && !text.is_empty() {
                    earlier = Some(text.to_owned());
                    foreign = true;
                },
                _ => {}
            }
        }
        let expected = match (own.as_slice(), shared.as_slice(), &earlier) {
            ([one], _, _) | ([], [one], _) => Cookie::Own(one),
            ([], [], Some(text)) => Cookie::Earlier(text),
            ([], [], None) => Cookie::Absent,
            _ => Cookie::Several,
        };
        let holder = match (foreign, shared.is_empty()) {
            (true, _) => Shared::Foreign,
            (false, true) => Shared::Free,
            (false, false) => Shared::Ours,
        };
        prop_assert_eq!(read(&ours, &lines), Sent { cookie: expected, shared: holder, has_former: false });
    }

    #[test]
    fn no_bytes_of_others_are_ours(lines in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..4)) {
        let ours = cookies(0);
        let sent = read(&ours, &lines);
        prop_assert!(!matches!(sent.cookie, Cookie::Own(_) | Cookie::Several));
        for line in &lines {
            prop_assert!(!ours.has_made(line));
            let named = [ours.name().as_bytes(), b"=", line].concat();
            let sent = read(&ours, std::slice::from_ref(&named));
            prop_assert!(!matches!(sent.cookie, Cookie::Own(_) | Cookie::Several));
        }
    }

    #[test]
    fn a_value_that_is_changed_in_one_place_is_no_longer_ours(at in 0..54usize, to in "[A-Za-z0-9_=+/-]") {
        let ours = cookies(0);
        let mut value = ours.value();
        prop_assert_eq!(value.len(), 54);
        prop_assert!(ours.has_made(value.as_bytes()));
        prop_assert!(!cookies(1).has_made(value.as_bytes()));
        let is_same = value[at..=at] == *to;
        value.replace_range(at..=at, &to);
        prop_assert_eq!(ours.has_made(value.as_bytes()), is_same);
        prop_assert!(!ours.has_made(&value.as_bytes()[..at]));
        value.push_str(&to);
        prop_assert!(!ours.has_made(value.as_bytes()));
    }

    #[test]
    fn what_is_set_is_read_back(with_neighbour in any::<bool>(), seconds in 1..86_400u64) {
        let ours = cookies(0);
        let before = if with_neighbour { format!("{SHARED}={}", cookies(1).value()) } else { String::new() };
        let before = [before.into_bytes()];
        let value = ours.value();
        let sent = read(&ours, &before);
        let set = ours.set(&value, seconds, sent);
        prop_assert_eq!(set.len(), if with_neighbour { 1 } else { 2 });
        let pairs: Vec<_> = set.iter().map(|line| line.split(';').next().expect("a pair")).collect();
        let lines = [pairs.join("; ").into_bytes(), before[0].clone()];
        let sent = read(&ours, &lines);
        let holder = if with_neighbour { Shared::Foreign } else { Shared::Ours };
        prop_assert_eq!(sent, Sent { cookie: Cookie::Own(&value), shared: holder, has_former: false });
        prop_assert_eq!(ours.expire(sent).len(), set.len());
    }
}

#[test]
fn an_installation_is_its_secret_its_url_and_its_prefix() {
    let first = SessionCookies::new("secret", "http://h.test", "customers");
    let same = SessionCookies::new("secret", "http://h.test", "customers");
    assert_eq!(first.name(), same.name());
    assert!(same.has_made(first.value().as_bytes()));
    for [secret, url, prefix] in [
        ["another", "http://h.test", "customers"],
        ["secret", "http://h.test:81", "customers"],
        ["secret", "https://h.test", "customers"],
        ["secret", "http://h.test", "copy"],
        ["secret", "http://h.test\ncustomers", ""],
    ] {
        let other = SessionCookies::new(secret, url, prefix);
        assert_ne!(first.name(), other.name(), "{secret} {url} {prefix}");
        assert!(!other.has_made(first.value().as_bytes()));
    }
}
