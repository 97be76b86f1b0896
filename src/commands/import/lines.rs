//! Reads the customers of a file line by line, in constant memory.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use chrono::NaiveDate;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::events::values::{DateOfBirth, Name, ValueError};

/// The longest line in bytes: far more than a customer needs.
pub const LINE_MAX: usize = 64 * 1024;

/// How the file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line: `{"name":"Ada","dob":"1990-12-10"}`.
    Ndjson,
    /// RFC 4180, with a header that names the columns `name` and `dob`.
    Csv,
}

/// What is wrong with one field of a line; the field `line` is the line as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LineError {
    pub field: &'static str,
    pub detail: String,
}

impl LineError {
    fn new(field: &'static str, detail: impl Into<String>) -> Self {
        Self { field, detail: detail.into() }
    }
}

/// One line that is not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// From 1; for a CSV record the line on which it begins.
    pub number: i64,
    pub customer: Result<(Name, DateOfBirth), Vec<LineError>>,
}

/// Why a file cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("the header lacks a column or has it twice")]
    Header(Vec<LineError>),
    #[error(transparent)]
    Read(#[from] io::Error),
}

/// The lines of one file.
pub struct Lines {
    source: Source,
    today: NaiveDate,
}

enum Source {
    Ndjson { reader: BufReader<Box<dyn Read + Send>>, number: i64 },
    Csv(Box<Csv>),
}

impl Lines {
    /// Reads the header of a CSV file, after a byte order mark if there is one. Dates of birth after
    /// `today` are rejected.
    pub fn open(
        file: impl Read + Send + 'static,
        format: Format,
        today: NaiveDate,
    ) -> Result<Self, FileError> {
        let mut reader = BufReader::new(Box::new(file) as Box<dyn Read + Send>);
        if reader.fill_buf()?.starts_with(b"\xef\xbb\xbf") {
            reader.consume(3);
        }
        let source = match format {
            Format::Ndjson => Source::Ndjson { reader, number: 0 },
            Format::Csv => Source::Csv(Box::new(Csv::open(reader)?)),
        };
        Ok(Self { source, today })
    }

    /// The next `number` lines; fewer at the end of the file.
    pub fn take(&mut self, number: usize) -> io::Result<Vec<Line>> {
        let mut lines = vec![];
        while lines.len() < number {
            let line = match &mut self.source {
                Source::Ndjson { reader, number } => ndjson(reader, number, self.today)?,
                Source::Csv(csv) => csv.next(self.today)?,
            };
            let Some(line) = line else { break };
            lines.push(line);
        }
        Ok(lines)
    }
}

fn ndjson(
    reader: &mut BufReader<Box<dyn Read + Send>>,
    number: &mut i64,
    today: NaiveDate,
) -> io::Result<Option<Line>> {
    loop {
        let mut bytes = vec![];
        // One byte more than allowed, and the line feed.
        let taken = reader.by_ref().take(LINE_MAX as u64 + 2).read_until(b'\n', &mut bytes)?;
        if taken == 0 {
            return Ok(None);
        }
        *number += 1;
        let ended = bytes.ends_with(b"\n");
        let text = bytes.trim_ascii();
        if text.len() > LINE_MAX || (!ended && taken > LINE_MAX) {
            if !ended {
                reader.skip_until(b'\n')?;
            }
            return Ok(Some(Line { number: *number, customer: Err(vec![too_long()]) }));
        }
        if !text.is_empty() {
            return Ok(Some(Line { number: *number, customer: object(text, today) }));
        }
    }
}

fn too_long() -> LineError {
    LineError::new("line", format!("is longer than {LINE_MAX} bytes"))
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

fn object(text: &[u8], today: NaiveDate) -> Result<(Name, DateOfBirth), Vec<LineError>> {
    // An array of two would deserialize as the struct, too.
    if !text.starts_with(b"{") {
        return Err(vec![LineError::new("line", "must be a JSON object")]);
    }
    let object: Object = serde_json::from_slice(text).map_err(|error| {
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
    validated(
        text(object.name).and_then(|name| Name::parse(&name)),
        text(object.dob).and_then(|dob| DateOfBirth::parse(&dob, today)),
    )
}

fn validated(
    name: Result<Name, ValueError>,
    dob: Result<DateOfBirth, ValueError>,
) -> Result<(Name, DateOfBirth), Vec<LineError>> {
    match (name, dob) {
        (Ok(name), Ok(dob)) => Ok((name, dob)),
        (name, dob) => {
            let name = name.err().map(|error| LineError::new("name", error.0));
            let dob = dob.err().map(|error| LineError::new("dob", error.0));
            Err(name.into_iter().chain(dob).collect())
        }
    }
}

/// CSV, by the csv crate. Without a closing quote the crate would read to the end of the file, so the
/// bytes of one record are limited.
struct Csv {
    reader: csv::Reader<LimitedReader>,
    left: Arc<AtomicUsize>,
    record: csv::ByteRecord,
    columns: usize,
    name: usize,
    dob: usize,
    over: bool,
}

/// A file of which at most `left` more bytes may be read.
struct LimitedReader {
    file: BufReader<Box<dyn Read + Send>>,
    left: Arc<AtomicUsize>,
    /// Whether the last byte was a line feed.
    ended: bool,
}

impl Read for LimitedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let end = left.min(buffer.len());
        let mut read = self.file.read(&mut buffer[..end])?;
        if read > 0 {
            self.ended = buffer[read - 1] == b'\n';
        } else if !self.ended && end > 0 {
            // So that every record ends with a line feed, and its line number can be computed.
            (buffer[0], read, self.ended) = (b'\n', 1, true);
        }
        self.left.store(left - read, Ordering::Relaxed);
        Ok(read)
    }
}

impl Csv {
    fn open(file: BufReader<Box<dyn Read + Send>>) -> Result<Self, FileError> {
        let left = Arc::new(AtomicUsize::new(LINE_MAX));
        let reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            // A carriage return before the line feed is trimmed with the white space around a value.
            .terminator(csv::Terminator::Any(b'\n'))
            .from_reader(LimitedReader { file, left: Arc::clone(&left), ended: true });
        let record = csv::ByteRecord::new();
        let mut csv = Self { reader, left, record, columns: 0, name: 0, dob: 0, over: false };
        if csv.advance()? == Record::TooLong {
            return Err(FileError::Header(vec![too_long()]));
        }
        csv.columns = csv.record.len();
        let column = |field: &'static str| {
            let named = |(number, name): (usize, &[u8])| {
                name.trim_ascii().eq_ignore_ascii_case(field.as_bytes()).then_some(number)
            };
            let mut columns = csv.record.iter().enumerate().filter_map(named);
            match (columns.next(), columns.next()) {
                (Some(column), None) => Ok(column),
                (None, _) => Err(LineError::new(field, "is missing in the header")),
                (Some(_), Some(_)) => Err(LineError::new(field, "is twice in the header")),
            }
        };
        match (column("name"), column("dob")) {
            (Ok(name), Ok(dob)) => (csv.name, csv.dob) = (name, dob),
            (name, dob) => {
                return Err(FileError::Header(name.err().into_iter().chain(dob.err()).collect()));
            }
        }
        Ok(csv)
    }

    fn advance(&mut self) -> io::Result<Record> {
        // The reader reads ahead of the record.
        self.left.store(2 * LINE_MAX, Ordering::Relaxed);
        match self.reader.read_byte_record(&mut self.record) {
            Ok(true) if self.record.as_slice().len() > LINE_MAX => Ok(Record::TooLong),
            Ok(true) => Ok(Record::Read),
            Ok(false) => Ok(Record::End),
            Err(error) => {
                if let csv::ErrorKind::Io(cause) = error.kind()
                    && cause.kind() == io::ErrorKind::FileTooLarge
                {
                    return Ok(Record::TooLong);
                }
                Err(io::Error::other(error))
            }
        }
    }

    fn next(&mut self, today: NaiveDate) -> io::Result<Option<Line>> {
        if self.over {
            return Ok(None);
        }
        let begins = self.reader.position().line();
        loop {
            let customer = match self.advance()? {
                Record::End => return Ok(None),
                Record::TooLong => {
                    self.over = true;
                    let problem = "is a quote not closed? nothing after it was read";
                    let detail = format!("is longer than {LINE_MAX} bytes; {problem}");
                    Err(vec![LineError::new("line", detail)])
                }
                Record::Read if self.is_blank() => continue,
                Record::Read => self.customer(today),
            };
            let number = if self.over { begins } else { self.line() };
            return Ok(Some(Line { number: i64::try_from(number).unwrap_or(i64::MAX), customer }));
        }
    }

    /// An empty line that ends with a carriage return.
    fn is_blank(&self) -> bool {
        self.record.len() == 1 && self.record.as_slice().trim_ascii().is_empty()
    }

    /// The line on which the record begins: the reader is after its end, and has skipped empty lines
    /// before it.
    fn line(&self) -> u64 {
        let lines = self.record.as_slice().split(|byte| *byte == b'\n').count() as u64;
        self.reader.position().line().saturating_sub(lines)
    }

    fn customer(&self, today: NaiveDate) -> Result<(Name, DateOfBirth), Vec<LineError>> {
        if self.record.len() != self.columns {
            let (found, expected) = (self.record.len(), self.columns);
            let detail = format!("has {found} fields where the header has {expected}");
            return Err(vec![LineError::new("line", detail)]);
        }
        let text = |column: usize| {
            std::str::from_utf8(self.record.get(column).unwrap_or_default())
                .map_err(|_| ValueError("must be UTF-8"))
        };
        validated(
            text(self.name).and_then(Name::parse),
            text(self.dob).and_then(|dob| DateOfBirth::parse(dob.trim(), today)),
        )
    }
}

/// The result of reading one record.
#[derive(PartialEq, Eq)]
enum Record {
    Read,
    TooLong,
    End,
}
