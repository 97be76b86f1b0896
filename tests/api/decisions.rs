//! Given/when/then tests of the decisions on a customer, and properties of values and events.

use chrono::NaiveDate;
use cqrs_es::test::TestFramework;
use customers::commands::LastEventAggregate as _;
use customers::commands::customer::{Customer, State};
use customers::commands::{CustomerCommand, IfMatch, Refusal};
use customers::events::customer::CustomerEvent;
use customers::events::log::NewEvent;
use customers::events::values::{CustomerId, DateOfBirth, Name, Username};
use proptest::prelude::*;

const TODAY: NaiveDate = NaiveDate::from_ymd_opt(2026, 2, 28).expect("a real day");

fn name(text: &str) -> Name {
    Name::parse(text).expect("a name")
}

fn dob(text: &str) -> DateOfBirth {
    DateOfBirth::parse(text, TODAY).expect("a date of birth")
}

fn created(text: &str) -> CustomerEvent {
    CustomerEvent::CustomerCreated { name: name(text), dob: dob("1990-12-10") }
}

fn updated(text: &str) -> CustomerEvent {
    CustomerEvent::CustomerUpdated { name: name(text), dob: dob("1990-12-10") }
}

fn deleted() -> CustomerEvent {
    CustomerEvent::CustomerDeleted {}
}

fn create(text: &str) -> CustomerCommand {
    CustomerCommand::Create { name: name(text), dob: dob("1990-12-10") }
}

fn update(text: &str, if_match: IfMatch) -> CustomerCommand {
    CustomerCommand::Update { name: name(text), dob: dob("1990-12-10"), if_match }
}

fn delete(if_match: IfMatch) -> CustomerCommand {
    CustomerCommand::Delete { if_match }
}

fn versions(versions: &[i64]) -> IfMatch {
    IfMatch::OneOf(versions.to_vec())
}

/// The result of the command after these events.
fn then(
    given: Vec<CustomerEvent>,
    when: CustomerCommand,
) -> cqrs_es::test::AggregateResultValidator<Customer> {
    TestFramework::<Customer>::with(()).given(given).when(when)
}

#[test]
fn a_customer_is_created_once() {
    then(vec![], create("Ada")).then_expect_events(vec![created("Ada")]);
    then(vec![created("Ada")], create("Ada")).then_expect_error(Refusal::Exists);
    then(vec![created("Ada"), deleted()], create("Ada")).then_expect_error(Refusal::Exists);
}

#[test]
fn an_update_overwrites_and_one_that_changes_nothing_is_no_event() {
    let ada = || vec![created("Ada")];
    then(ada(), update("Grace", IfMatch::Any)).then_expect_events(vec![updated("Grace")]);
    then(ada(), update(" Ada ", IfMatch::Any)).then_expect_events(vec![]);
    let back = vec![created("Ada"), updated("Grace")];
    then(back, update("Ada", IfMatch::Any)).then_expect_events(vec![updated("Ada")]);
    let other_day = CustomerCommand::Update {
        name: name("Ada"),
        dob: dob("1990-12-11"),
        if_match: IfMatch::Any,
    };
    let event = CustomerEvent::CustomerUpdated { name: name("Ada"), dob: dob("1990-12-11") };
    then(ada(), other_day).then_expect_events(vec![event]);
}

#[test]
fn a_deletion_is_the_end() {
    then(vec![created("Ada")], delete(IfMatch::Any)).then_expect_events(vec![deleted()]);
    let gone = || vec![created("Ada"), updated("Grace"), deleted()];
    for if_match in [IfMatch::Any, versions(&[3]), versions(&[])] {
        for given in [gone(), vec![]] {
            let refused = || Refusal::NotFound;
            then(given.clone(), update("Ada", if_match.clone())).then_expect_error(refused());
            then(given, delete(if_match.clone())).then_expect_error(refused());
        }
    }
}

#[test]
fn only_a_version_that_was_named_is_changed() {
    let at_2 = || vec![created("Ada"), updated("Grace")];
    let mismatch = || Refusal::VersionMismatch { current: 2 };
    for if_match in [versions(&[]), versions(&[1]), versions(&[1, 3])] {
        then(at_2(), update("Ada", if_match.clone())).then_expect_error(mismatch());
        // Also for an update with the current values.
        then(at_2(), update("Grace", if_match.clone())).then_expect_error(mismatch());
        then(at_2(), delete(if_match)).then_expect_error(mismatch());
    }
    for if_match in [versions(&[2]), versions(&[1, 2])] {
        then(at_2(), update("Ada", if_match.clone())).then_expect_events(vec![updated("Ada")]);
        then(at_2(), delete(if_match)).then_expect_events(vec![deleted()]);
    }
}

#[test]
fn payloads_are_written_byte_by_byte_as_they_stand_in_the_log_for_ever() {
    let plain = CustomerEvent::CustomerCreated { name: name("Ada"), dob: dob("1990-12-10") };
    let odd = CustomerEvent::CustomerUpdated {
        name: name("Zoe\u{308} \"O'Neil\" \\ </b> 💯"),
        dob: dob("1900-01-01"),
    };
    for (event, payload) in [
        (plain, r#"{"type":"CustomerCreated","name":"Ada","dob":"1990-12-10"}"#),
        (
            odd,
            r#"{"type":"CustomerUpdated","name":"Zoë \"O'Neil\" \\ </b> 💯","dob":"1900-01-01"}"#,
        ),
        (deleted(), r#"{"type":"CustomerDeleted"}"#),
    ] {
        let new = NewEvent::from(&event);
        assert_eq!(new.payload, payload);
        assert_eq!((&*new.event_type, &*new.event_version), (event.event_type(), "1"));
        assert_eq!(serde_json::from_str::<CustomerEvent>(payload).unwrap(), event);
    }
}

#[test]
fn user_names_that_look_alike_are_one_account() {
    let folded = |text| Username::parse(text).map(|name| name.to_string());
    for text in ["ada", "Ada", " ADA\t", "\u{ff21}\u{ff24}\u{ff21}", "ａda"] {
        assert_eq!(folded(text).unwrap(), "ada", "{text:?}");
    }
    assert_eq!(folded("Ω").unwrap(), folded("\u{2126}").unwrap());
    assert_eq!(folded("ﬁona").unwrap(), "fiona");
    assert_eq!(folded("E\u{301}va").unwrap(), "éva");
    assert_eq!(folded(&"x".repeat(64)).unwrap().len(), 64);
    for refused in ["", " ", "a b", "a\u{a0}b", "a\u{0}", "{a", "a}", "\u{a8}", &"x".repeat(65)] {
        assert!(Username::parse(refused).is_err(), "{refused:?}");
    }
}

#[test]
fn every_character_alone_is_parsed_the_same_twice() {
    // After the first two planes, only these characters change under normalization or case folding.
    for c in ('\0'..='\u{1ffff}').chain('\u{2f800}'..='\u{2fa1f}') {
        if let Ok(name) = Name::parse(&c.to_string()) {
            assert_eq!(Name::parse(name.as_str()), Ok(name), "{c:?}");
        }
        if let Ok(name) = Username::parse(&c.to_string()) {
            assert_eq!(Username::parse(name.as_str()), Ok(name), "{c:?}");
        }
    }
}

/// Texts with many difficult characters: spaces, combining marks, Hangul jamo, control characters.
fn text() -> impl Strategy<Value = String> {
    let odd = prop::sample::select(vec![
        ' ', '\t', '\u{a0}', '\u{2003}', '\u{301}', '\u{308}', '\u{327}', '\u{345}', '\u{1100}',
        '\u{1161}', '\u{11a8}', '\u{212b}', '\u{2126}', '\u{fb1d}', '\u{ff21}', 'İ', 'Σ', 'ẞ',
        '\0',
    ]);
    let one = prop_oneof![3 => prop::char::range('A', 'z'), 3 => odd, 1 => any::<char>()];
    prop::collection::vec(one, 0..140).prop_map(String::from_iter)
}

fn day() -> impl Strategy<Value = NaiveDate> {
    let first = NaiveDate::from_ymd_opt(1890, 1, 1).expect("a real day");
    (0..51_000u64).prop_map(move |days| first + chrono::Days::new(days))
}

fn event() -> impl Strategy<Value = CustomerEvent> {
    let values = ("[A-C]", 0..3u64).prop_map(|(text, days)| {
        let date = dob("1990-12-10").date() + chrono::Days::new(days);
        (name(&text), DateOfBirth::stored(date))
    });
    (0..3, values).prop_map(|(kind, (name, dob))| match kind {
        0 => CustomerEvent::CustomerCreated { name, dob },
        1 => CustomerEvent::CustomerUpdated { name, dob },
        _ => CustomerEvent::CustomerDeleted {},
    })
}

proptest! {
    #[test]
    fn a_name_parsed_again_is_the_same_name(text in text()) {
        if let Ok(name) = Name::parse(&text) {
            prop_assert_eq!(Name::parse(&name.to_string()), Ok(name.clone()));
            prop_assert!((1..=128).contains(&name.as_str().chars().count()));
            prop_assert!(!name.as_str().chars().any(char::is_control));
            prop_assert_eq!(name.as_str().trim(), name.as_str());
        }
    }

    #[test]
    fn a_user_name_parsed_again_is_the_same_user_name(text in text()) {
        if let Ok(name) = Username::parse(&text) {
            prop_assert_eq!(Username::parse(name.as_str()), Ok(name));
        }
    }

    #[test]
    fn a_date_of_birth_shown_is_the_one_that_was_read(day in day()) {
        let text = day.to_string();
        let real = ("1900-01-01"..="2026-02-28").contains(&text.as_str());
        let parsed = DateOfBirth::parse(&text, TODAY);
        prop_assert_eq!(parsed.is_ok(), real);
        if let Ok(parsed) = parsed {
            prop_assert_eq!(parsed.to_string(), text);
        }
    }

    #[test]
    fn no_other_spelling_is_a_date_or_an_id(text in "[-+ 0-9T:]{1,12}") {
        if let Ok(dob) = DateOfBirth::parse(&text, TODAY) {
            prop_assert_eq!(dob.to_string(), text.clone());
        }
        if let Ok(id) = CustomerId::parse(&text) {
            prop_assert_eq!(id.to_string(), text);
        }
    }

    #[test]
    fn the_last_event_is_enough_to_decide(events in prop::collection::vec(event(), 1..12)) {
        let mut folded = Customer::default();
        for event in &events {
            folded.apply(event.clone());
        }
        let (version, last) = (1..).zip(events).last().expect("there is one");
        prop_assert_eq!(folded, Customer::after(version, last));
    }

    #[test]
    fn nothing_is_accepted_of_a_deleted_customer(
        version in 1..100i64, named in prop::collection::vec(0..100i64, 0..3), any in any::<bool>(),
    ) {
        let customer = Customer { version, state: State::Deleted };
        let if_match = if any { IfMatch::Any } else { IfMatch::OneOf(named) };
        for command in [create("Ada"), update("Ada", if_match.clone()), delete(if_match)] {
            prop_assert!(customer.decide(&command).is_err());
        }
    }

    #[test]
    fn every_accepted_command_leads_to_at_most_one_event_and_to_what_it_asked_for(
        events in prop::collection::vec(event(), 0..4), text in "[A-C]",
    ) {
        let mut customer = Customer::default();
        for event in events {
            customer.apply(event);
        }
        if let Ok(led_to) = customer.decide(&update(&text, IfMatch::Any)) {
            prop_assert!(led_to.len() <= 1);
            for event in led_to {
                customer.apply(event);
            }
            let wanted = State::Present { name: name(&text), dob: dob("1990-12-10") };
            prop_assert_eq!(customer.state, wanted);
        }
    }
}
