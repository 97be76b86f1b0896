//! The header of a CSV file: what divides its columns, and which of them are read.

use std::io::{self, BufRead, Read as _};

use super::line::{LINE_MAX, LineError, RejectedLine};
use crate::text_file::Encoding;

/// What may divide the columns. Spreadsheets write semicolons where the comma is the decimal sign.
const DELIMITERS: [u8; 3] = [b',', b';', b'\t'];

/// The header of a file.
pub(super) struct Header {
    /// The lines up to the end of the header, to be read again: an empty line stands for each line before
    /// the header.
    pub(super) bytes: Vec<u8>,
    /// The line on which it begins, from 1.
    pub(super) line: i64,
    pub(super) delimiter: u8,
    pub(super) columns: usize,
    pub(super) name: usize,
    pub(super) dob: usize,
    /// The column may be missing.
    pub(super) external_id: Option<usize>,
}

/// Why a file has no header that can be used.
#[derive(Debug)]
pub(super) enum HeaderError {
    Empty,
    Refused(RejectedLine),
    Read(io::Error),
}

impl HeaderError {
    pub(super) fn refused(line: i64, errors: Vec<LineError>) -> Self {
        Self::Refused(RejectedLine { line, errors })
    }
}

impl From<io::Error> for HeaderError {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

impl Header {
    /// Reads the header, after empty lines and a line such as `sep=;`, by which spreadsheets are told what
    /// divides the columns.
    pub(super) fn read(file: &mut impl BufRead, encoding: Encoding) -> Result<Self, HeaderError> {
        let mut bytes = vec![];
        let mut told = None;
        let mut line = 0;
        let start = loop {
            let start = bytes.len();
            line += 1;
            if !read_line(file, &mut bytes)? {
                return Err(HeaderError::Empty);
            }
            let text = &bytes[start..];
            let delimiter = if told.is_none() { told_delimiter(text) } else { None };
            if delimiter.is_none() && !text.trim_ascii().is_empty() {
                break start;
            }
            told = told.or(delimiter);
            bytes.truncate(start);
            bytes.push(b'\n');
        };
        // A quoted name may contain line ends.
        let is_open = |bytes: &[u8]| bytes.split(|byte| *byte == b'"').count().is_multiple_of(2);
        while is_open(&bytes[start..]) && bytes.len() < LINE_MAX && read_line(file, &mut bytes)? {}
        let candidates = told.as_ref().map_or(&DELIMITERS[..], std::slice::from_ref);
        let read = |delimiter: &u8| Columns::read(&bytes[start..], *delimiter);
        // The first of those by which most of the two columns are found.
        let columns = candidates.iter().map(read).rev().max_by_key(|columns| columns.found);
        let columns = columns.ok_or(HeaderError::Empty)?;
        for name in &columns.names {
            let refused =
                |problem| HeaderError::refused(line, vec![LineError::new("line", problem)]);
            encoding.check(name).map_err(refused)?;
        }
        let Columns { delimiter, names, required: [name, dob], external_id, .. } = columns;
        match (name, dob, external_id) {
            (Ok(name), Ok(dob), Ok(external_id)) => {
                Ok(Self { bytes, line, delimiter, columns: names.len(), name, dob, external_id })
            }
            (name, dob, external_id) => {
                let errors = [name.err(), dob.err(), external_id.err()];
                Err(HeaderError::refused(line, errors.into_iter().flatten().collect()))
            }
        }
    }
}

/// Appends the next line; `false` at the end of the file.
fn read_line(file: &mut impl BufRead, bytes: &mut Vec<u8>) -> Result<bool, HeaderError> {
    let left = LINE_MAX.saturating_sub(bytes.len());
    if left == 0 {
        let line = bytes.split(|byte| *byte == b'\n').count();
        let line = i64::try_from(line).unwrap_or(i64::MAX);
        return Err(HeaderError::refused(line, vec![LineError::too_long()]));
    }
    Ok(file.take(left as u64).read_until(b'\n', bytes)? > 0)
}

/// The delimiter that a line such as `sep=;` tells.
fn told_delimiter(line: &[u8]) -> Option<u8> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_prefix(b"\"").and_then(|line| line.strip_suffix(b"\"")).unwrap_or(line);
    let (name, delimiter) = line.split_at_checked(4)?;
    match delimiter {
        [delimiter] if name.eq_ignore_ascii_case(b"sep=") => {
            DELIMITERS.contains(delimiter).then_some(*delimiter)
        }
        _ => None,
    }
}

/// The columns of a header, divided by one of the delimiters.
struct Columns {
    delimiter: u8,
    names: csv::ByteRecord,
    /// Of `name` and `dob`.
    required: [Result<usize, LineError>; 2],
    external_id: Result<Option<usize>, LineError>,
    /// How many of the required ones are there, perhaps twice.
    found: usize,
}

impl Columns {
    fn read(header: &[u8], delimiter: u8) -> Self {
        let mut names = csv::ByteRecord::new();
        let mut reader =
            csv::ReaderBuilder::new().has_headers(false).delimiter(delimiter).from_reader(header);
        // Reading bytes from memory cannot fail.
        let _ = reader.read_byte_record(&mut names);
        let place = |field: &'static str| {
            let named = |(number, name): (usize, &[u8])| {
                let name = std::str::from_utf8(name).ok()?;
                name.trim().eq_ignore_ascii_case(field).then_some(number)
            };
            let mut places = names.iter().enumerate().filter_map(named);
            match (places.next(), places.next()) {
                (place, None) => Ok(place),
                (_, Some(_)) => Err(LineError::new(field, "is twice in the header")),
            }
        };
        let places = [("name", place("name")), ("dob", place("dob"))];
        let found = places.iter().filter(|(_, place)| !matches!(place, Ok(None))).count();
        let required = places.map(|(field, place)| {
            place?.ok_or_else(|| {
                let problem = "is missing in the header, whose columns are divided by commas, \
                               semicolons or tabs";
                LineError::new(field, problem)
            })
        });
        let external_id = place("external_id");
        Self { delimiter, names, required, external_id, found }
    }
}
