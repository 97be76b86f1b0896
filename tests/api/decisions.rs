//! Given/when/then tests of the decisions on a customer, and properties of values and events.

use chrono::NaiveDate;
use cqrs_es::test::TestFramework;
use customers::commands::LastEventAggregate as _;
use customers::commands::customer::{Customer, State};
use customers::commands::{CustomerCommand, ExternalIdChange, IfMatch, Refusal};
use customers::events::customer::{CustomerEvent, CustomerValues};
use customers::events::external_id::ExternalId;
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

fn values(text: &str) -> CustomerValues {
    CustomerValues::new(name(text), dob("1990-12-10"))
}

/// Values with an external id.
fn known_as(text: &str, external_id: &str) -> CustomerValues {
    let external_id = Some(ExternalId::parse(external_id).expect("an external id"));
    CustomerValues { external_id, ..values(text) }
}

fn created(text: &str) -> CustomerEvent {
    CustomerEvent::created(values(text))
}

fn updated(text: &str) -> CustomerEvent {
    CustomerEvent::updated(values(text))
}

fn deleted() -> CustomerEvent {
    CustomerEvent::CustomerDeleted {}
}

fn create(text: &str) -> CustomerCommand {
    CustomerCommand::Create(values(text))
}

fn update(text: &str, if_match: IfMatch) -> CustomerCommand {
    let (name, dob, external_id) = (name(text), dob("1990-12-10"), ExternalIdChange::Keep);
    CustomerCommand::Update { name, dob, external_id, if_match }
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
        external_id: ExternalIdChange::Keep,
        if_match: IfMatch::Any,
    };
    let event = CustomerEvent::updated(CustomerValues::new(name("Ada"), dob("1990-12-11")));
    then(ada(), other_day).then_expect_events(vec![event]);
}

fn update_external(text: &str, external_id: &str, if_match: IfMatch) -> CustomerCommand {
    CustomerCommand::UpdateExternal { values: known_as(text, external_id), if_match }
}

#[test]
fn an_update_keeps_the_external_id_unless_it_names_one() {
    let given = || vec![CustomerEvent::created(known_as("Ada", "crm-1"))];
    let change = |external_id| CustomerCommand::Update {
        name: name("Ada"),
        dob: dob("1990-12-10"),
        external_id,
        if_match: IfMatch::Any,
    };
    let of = |id: &str| ExternalId::parse(id).expect("an external id");
    then(given(), change(ExternalIdChange::Keep)).then_expect_events(vec![]);
    then(given(), change(ExternalIdChange::Set(Some(of("crm-1"))))).then_expect_events(vec![]);
    then(given(), change(ExternalIdChange::Set(None))).then_expect_events(vec![updated("Ada")]);
    let moved = CustomerEvent::updated(known_as("Ada", "crm-2"));
    then(given(), change(ExternalIdChange::Set(Some(of("crm-2"))))).then_expect_events(vec![moved]);
    let renamed = CustomerEvent::updated(known_as("Grace", "crm-1"));
    then(given(), update("Grace", IfMatch::Any)).then_expect_events(vec![renamed]);
}

#[test]
fn an_update_by_external_id_is_of_the_customer_that_has_it() {
    let given = || vec![CustomerEvent::created(known_as("Ada", "crm-1"))];
    let renamed = CustomerEvent::updated(known_as("Grace", "crm-1"));
    then(given(), update_external("Grace", "crm-1", IfMatch::Any))
        .then_expect_events(vec![renamed]);
    then(given(), update_external("Ada", "crm-1", IfMatch::Any)).then_expect_events(vec![]);
    then(given(), update_external("Ada", "crm-2", IfMatch::Any))
        .then_expect_error(Refusal::ExternalIdMoved);
    then(given(), update_external("Grace", "crm-1", versions(&[2])))
        .then_expect_error(Refusal::VersionMismatch { current: 1 });
}

#[test]
fn a_restore_gives_the_values_of_a_version_also_after_a_deletion() {
    let restore = |text: &str, if_match| CustomerCommand::Restore {
        values: values(text),
        from_version: 1,
        if_match,
    };
    let restored = || vec![CustomerEvent::restored(values("Ada"), 1)];
    let changed = || vec![created("Ada"), updated("Grace")];
    let gone = || vec![created("Ada"), deleted()];
    then(changed(), restore("Ada", IfMatch::Any)).then_expect_events(restored());
    then(gone(), restore("Ada", versions(&[2]))).then_expect_events(restored());
    then(vec![created("Ada")], restore("Ada", IfMatch::Any)).then_expect_events(vec![]);
    then(vec![], restore("Ada", IfMatch::Any)).then_expect_error(Refusal::NotFound);
    then(gone(), restore("Ada", versions(&[1])))
        .then_expect_error(Refusal::VersionMismatch { current: 2 });
    let again = [gone(), restored()].concat();
    then(again, update("Grace", IfMatch::Any)).then_expect_events(vec![updated("Grace")]);
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
    let plain = created("Ada");
    let odd = CustomerEvent::CustomerUpdated {
        name: name("Zoe\u{308} \"O'Neil\" \\ </b> 💯"),
        dob: dob("1900-01-01"),
        external_id: None,
    };
    for (event, payload) in [
        (
            CustomerEvent::created(known_as("Ada", "crm-1")),
            r#"{"type":"CustomerCreated","name":"Ada","dob":"1990-12-10","external_id":"crm-1"}"#,
        ),
        (
            CustomerEvent::restored(values("Ada"), 3),
            r#"{"type":"CustomerRestored","name":"Ada","dob":"1990-12-10","from_version":3}"#,
        ),
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
    (0..4, values).prop_map(|(kind, (name, dob))| match kind {
        0 => CustomerEvent::created(CustomerValues::new(name, dob)),
        1 => CustomerEvent::updated(CustomerValues::new(name, dob)),
        2 => CustomerEvent::restored(CustomerValues::new(name, dob), 1),
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
        for command in [
            create("Ada"),
            update("Ada", if_match.clone()),
            update_external("Ada", "crm-1", if_match.clone()),
            delete(if_match),
        ] {
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
            let wanted = State::Present(values(&text));
            prop_assert_eq!(customer.state, wanted);
        }
    }
}
