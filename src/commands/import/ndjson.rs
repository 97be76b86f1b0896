//! NDJSON: one JSON object per line.

use std::io::{self, Read};

use chrono::NaiveDate;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::line::{Customer, LINE_MAX, Line, LineError, customer};
use crate::events::external_id::ExternalId;
use crate::events::values::{DateOfBirth, Name, ValueError};
use crate::text_file::{TextFile, TooLong};

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
            let Some(line) = self.file.next_line(LINE_MAX)? else { return Ok(None) };
            self.number += 1;
            let line = line.as_deref().map(<[u8]>::trim_ascii);
            let customer = match line {
                Ok([]) => continue,
                Ok(text) => self
                    .file
                    .encoding()
                    .check(text)
                    .map_err(|problem| vec![LineError::new("line", problem)])
                    .and_then(|text| object(text, today)),
                Err(TooLong) => Err(vec![LineError::too_long()]),
            };
            return Ok(Some(Line { number: self.number, customer }));
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
    external_id: Option<Value>,
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
    let external_id =
        object.external_id.map(|id| text(Some(id)).and_then(|id| ExternalId::parse(&id)));
    customer(
        text(object.name).and_then(|name| Name::parse(&name)),
        text(object.dob).and_then(|dob| DateOfBirth::parse(&dob, today)),
        external_id.transpose(),
    )
}
