//! NDJSON: one JSON object per line.

use std::io::{self, BufRead as _, Read};

use chrono::NaiveDate;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::line::{Customer, LINE_MAX, Line, LineError, customer};
use crate::events::values::{DateOfBirth, Name, ValueError};
use crate::text_file::TextFile;

/// The lines of a file of JSON objects.
pub(super) struct Ndjson<R> {
    file: TextFile<R>,
    number: i64,
}

impl<R: Read> Ndjson<R> {
    pub(super) fn new(file: TextFile<R>) -> Self {
        Self { file, number: 0 }
    }

    pub(super) fn bytes_read(&self) -> u64 {
        self.file.bytes_read()
    }

    /// The next line that is not empty.
    pub(super) fn next(&mut self, today: NaiveDate) -> io::Result<Option<Line>> {
        loop {
            let mut bytes = vec![];
            // One byte more than allowed, and the line feed.
            let most = LINE_MAX as u64 + 2;
            let taken = self.file.by_ref().take(most).read_until(b'\n', &mut bytes)?;
            if taken == 0 {
                return Ok(None);
            }
            self.number += 1;
            let number = self.number;
            let ended = bytes.ends_with(b"\n");
            let text = bytes.trim_ascii();
            if text.len() > LINE_MAX || (!ended && taken > LINE_MAX) {
                if !ended {
                    self.file.skip_until(b'\n')?;
                }
                return Ok(Some(Line { number, customer: Err(vec![LineError::too_long()]) }));
            }
            if !text.is_empty() {
                let text = self.file.encoding().check(text);
                let customer = text
                    .map_err(|problem| vec![LineError::new("line", problem)])
                    .and_then(|text| object(text, today));
                return Ok(Some(Line { number, customer }));
            }
        }
    }
}

/// Unknown members are ignored, as in a request.
#[derive(Deserialize)]
struct Object {
    #[serde(default, deserialize_with = "present")]
    name: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    dob: Option<Value>,
}

/// A member that is present, null included.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

fn object(text: &str, today: NaiveDate) -> Customer {
    // An array of two would deserialize as the struct, too.
    if !text.starts_with('{') {
        return Err(vec![LineError::new("line", "must be a JSON object")]);
    }
    let object: Object = serde_json::from_str(text).map_err(|error| {
        vec![LineError::new("line", {
            // serde_json counts lines of this text, not of the file.
            let problem = error.to_string().replace(" at line 1 column", " at column");
            format!("cannot be read: {problem}")
        })]
    })?;
    let text = |value: Option<Value>| match value {
        None => Err(ValueError("is required")),
        Some(Value::String(text)) => Ok(text),
        Some(
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_),
        ) => Err(ValueError("must be a string")),
    };
    customer(
        text(object.name).and_then(|name| Name::parse(&name)),
        text(object.dob).and_then(|dob| DateOfBirth::parse(&dob, today)),
    )
}
