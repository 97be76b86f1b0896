//! Fuzzing of the parsers of files: some seconds for each, longer with `script/test --long`.

use std::io::Cursor;
use std::time::{Duration, Instant};

use chrono::NaiveDate;
use customers::clock;
use customers::commands::import::line::{LINE_MAX, Line};
use customers::commands::import::lines::{Format, Lines};
use customers::events::customer::CustomerValues;
use customers::events::external_id::ExternalId;
use customers::events::values::{DateOfBirth, Name};
use customers::feed::log_copy::{Export, LogCopyError};
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};
use serde_json::json;

use crate::import_files::encoded;

/// Checks the property with one value after the other until the time is over.
pub fn fuzz<S: Strategy>(strategy: &S, property: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let is_long = std::env::var_os("CUSTOMERS_TEST_LONG").is_some();
    let until = Instant::now() + Duration::from_secs(if is_long { 60 } else { 2 });
    let config = ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() };
    let mut runner = TestRunner::new(config);
    loop {
        if let Err(failure) = runner.run(strategy, &property) {
            panic!("{failure}");
        }
        if Instant::now() > until {
            return;
        }
    }
}

fn today() -> NaiveDate {
    NaiveDate::from_ymd_opt(2026, 11, 1).unwrap()
}

/// All lines of a file. Checks what holds for every file.
fn read(file: Vec<u8>, format: Format) -> Result<Vec<Line>, TestCaseError> {
    let length = file.len() as u64;
    let Ok(mut lines) = Lines::open(Cursor::new(file), format, today()) else { return Ok(vec![]) };
    let mut all = vec![];
    loop {
        let page = lines.take(7).unwrap();
        if page.is_empty() {
            break;
        }
        all.extend(page);
    }
    prop_assert!(!all.is_empty(), "a file that is opened has a line");
    prop_assert!(lines.bytes_read() <= length);
    let mut before = 0;
    for Line { number, customer } in &all {
        prop_assert!(*number > before, "line {} after {}", number, before);
        before = *number;
        match customer {
            Ok(CustomerValues { name, dob, external_id }) => {
                prop_assert_eq!(Name::parse(name.as_str()), Ok(name.clone()));
                prop_assert_eq!(DateOfBirth::parse(&dob.to_string(), today()), Ok(*dob));
                if let Some(id) = external_id {
                    prop_assert_eq!(ExternalId::parse(id.as_str()), Ok(id.clone()));
                }
            }
            Err(errors) => prop_assert!(!errors.is_empty()),
        }
    }
    Ok(all)
}

/// Bytes that parsers of text trip over, and any others.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => prop::sample::select(vec![
            "\n", "\r", "\r\n", ",", ";", "\t", "\"", "\"\"", " ", "\u{feff}", "\0", "sep=;", "\u{85}",
            "name", "dob", "Name;DOB\n", "name,dob\n", "Ada", "1990-12-10", "Ada,1990-12-10\n", "😀",
            "{", "}", "[", ":", "\"name\":\"Ada\"", "\"dob\":\"1990-12-10\"", "\\u0000", "\\ud800",
            "{\"name\":\"Ada\",\"dob\":\"1990-12-10\"}\n",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..8),
        1 => prop::sample::select(vec![
            &b"\xff\xfe"[..], b"\xfe\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\x00\xd8", b"\n\0",
        ])
        .prop_map(<[u8]>::to_vec),
        1 => (LINE_MAX - 2..LINE_MAX + 3).prop_map(|length| vec![b'x'; length]),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

#[test]
fn no_bytes_confuse_the_reader_of_csv() {
    let file = (any::<bool>(), pieces()).prop_map(|(has_header, rest)| {
        if has_header { [b"name,dob\n", rest.as_slice()].concat() } else { rest }
    });
    fuzz(&file, |file| read(file, Format::Csv).map(drop));
}

#[test]
fn no_bytes_confuse_the_reader_of_ndjson() {
    fuzz(&pieces(), |file| read(file, Format::Ndjson).map(drop));
}

/// A customer, and whatever stands in the other columns.
fn customers() -> impl Strategy<Value = Vec<(Name, DateOfBirth, String)>> {
    let name = "\\PC{1,40}".prop_filter_map("a name", |text| Name::parse(&text).ok());
    let dob = (0..40_000_u64).prop_filter_map("a day until today", |days| {
        let date =
            NaiveDate::from_ymd_opt(1900, 1, 1)?.checked_add_days(chrono::Days::new(days))?;
        DateOfBirth::parse(&date.to_string(), today()).ok()
    });
    prop::collection::vec((name, dob, "[a-z ,;\"\t\n]{0,9}"), 1..8)
}

#[test]
fn customers_are_read_as_they_were_written_in_each_form() {
    let form = (0..4_usize, 0..3_usize, 0..3_usize, any::<bool>(), 0..3_usize);
    fuzz(&(customers(), form), |(customers, (encoding, end, delimiter, is_json, place))| {
        let end = ["\n", "\r\n", "\r"][end];
        let file = if is_json {
            let lines = customers.iter().map(|(name, dob, other)| {
                json!({"other": other, "name": name, "dob": dob}).to_string() + end
            });
            lines.collect::<String>()
        } else {
            csv(&customers, ",;\t".as_bytes()[delimiter], end, place)
        };
        let format = if is_json { Format::Ndjson } else { Format::Csv };
        let read = read(encoded(&file)[encoding].clone(), format)?;
        let read: Vec<_> = read.into_iter().map(|line| line.customer).collect();
        let expected: Vec<_> = customers
            .into_iter()
            .map(|(name, dob, _)| Ok(CustomerValues::new(name, dob)))
            .collect();
        prop_assert_eq!(read, expected, "{:?}", file);
        Ok(())
    });
}

/// A CSV file as the csv crate writes it, with the two columns around another one.
fn csv(
    customers: &[(Name, DateOfBirth, String)],
    delimiter: u8,
    end: &str,
    place: usize,
) -> String {
    // The crate ends records with one byte or with CRLF.
    let terminator = match end {
        "\r\n" => csv::Terminator::CRLF,
        end => csv::Terminator::Any(end.as_bytes()[0]),
    };
    let mut writer =
        csv::WriterBuilder::new().delimiter(delimiter).terminator(terminator).from_writer(vec![]);
    let mut record = |name: &str, dob: &str, other: &str| {
        let mut cells = vec![name, dob];
        cells.insert(place, other);
        writer.write_record(cells).unwrap();
    };
    record("Name", "DOB", "other");
    for (name, dob, other) in customers {
        record(name.as_str(), &dob.to_string(), other);
    }
    String::from_utf8(writer.into_inner().unwrap()).unwrap()
}

/// A small export with each kind of line.
fn export() -> Vec<String> {
    let metadata = json!({"actor": "admin", "role": "admin", "reason": "why"});
    let event = |position: i64, id: &str, sequence: i64, kind: &str, data: serde_json::Value| {
        let aggregate = if kind.starts_with("Customer") { "customer" } else { "account" };
        json!({"position": position, "aggregate_type": aggregate, "aggregate_id": id,
            "sequence": sequence, "type": kind, "version": "1", "data": data, "metadata": metadata,
            "recorded_at": format!("2026-10-01T00:00:00.{position:06}Z")})
        .to_string()
    };
    let ada = json!({"name": "Ada", "dob": "1990-12-10"});
    vec![
        event(1, "ada", 1, "AccountAdded", json!({"username": "ada", "role": "editor"})),
        event(2, "1", 1, "CustomerCreated", ada.clone()),
        event(3, "1", 2, "CustomerUpdated", ada),
        event(4, "1", 3, "CustomerDeleted", json!({})),
        json!({"summary": {"events": 4, "last_position": 4}}).to_string(),
    ]
}

fn restored(file: &[u8]) -> Result<usize, LogCopyError> {
    let latest = clock::from_unix(1_800_000_000).unwrap();
    let mut number = 0;
    for event in Export::open(file, latest)? {
        event?;
        number += 1;
    }
    Ok(number)
}

#[test]
fn no_change_of_an_export_lets_in_what_no_door_lets_in() {
    let whole = export().join("\n");
    assert!(matches!(restored(whole.as_bytes()), Ok(4)), "{:?}", restored(whole.as_bytes()));
    let change = (any::<prop::sample::Index>(), 0..12_usize, pieces());
    fuzz(&prop::collection::vec(change, 1..4), |changes| {
        let mut file = export().join("\n").into_bytes();
        for (at, cut, new) in changes {
            let at = at.index(file.len() + 1);
            let end = (at + cut).min(file.len());
            file.splice(at..end, new);
        }
        let latest = clock::from_unix(1_800_000_000).unwrap();
        let Ok(events) = Export::open(file.as_slice(), latest) else { return Ok(()) };
        for (number, event) in events.enumerate() {
            let Ok(event) = event else { return Ok(()) };
            prop_assert_eq!(event.position, i64::try_from(number).unwrap() + 1);
            prop_assert!(event.recorded_at <= latest);
            let payload: serde_json::Value = serde_json::from_str(&event.payload).unwrap();
            prop_assert_eq!(payload["type"].as_str(), Some(event.event_type.as_str()));
            for text in [&event.payload, &event.metadata] {
                prop_assert!(!text.contains('\0'), "{}", text);
                let value: serde_json::Value = serde_json::from_str(text).unwrap();
                let members = value.as_object().unwrap();
                let is_text = |value: &serde_json::Value| {
                    value.as_str().is_some_and(|text| !text.contains('\0'))
                };
                prop_assert!(members.values().all(is_text), "{}", text);
            }
            if let Some(name) = payload["name"].as_str() {
                prop_assert_eq!(
                    Name::parse(name).map(|name| name.to_string()),
                    Ok(name.to_owned())
                );
                let dob = payload["dob"].as_str().unwrap();
                // Two clocks were asked.
                let day = event.recorded_at.date_naive().succ_opt().unwrap();
                prop_assert!(DateOfBirth::parse(dob, day).is_ok(), "{} on {}", dob, day);
            }
        }
        Ok(())
    });
}
