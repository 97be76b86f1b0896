//! CSV by RFC 4180, with a header. The csv crate reads it. Without a closing quote the crate would read to the
//! end of the file, so the bytes of one record are limited. What is left of a longer one is skipped, in constant
//! memory; without a closing quote that may be the rest of the file.

use std::io::{self, BufRead as _, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use chrono::NaiveDate;

use super::csv_header::{Header, HeaderError};
use super::line::{Customer, LINE_MAX, Line, LineError, customer};
use crate::events::external_id::ExternalId;
use crate::events::values::{DateOfBirth, Name, ValueError};
use crate::text_file::{Encoding, TextFile};

/// The records of a file.
pub(super) struct Csv<R> {
    reader: csv::Reader<LimitedReader<R>>,
    left: Arc<AtomicUsize>,
    encoding: Encoding,
    record: csv::ByteRecord,
    delimiter: u8,
    columns: usize,
    name: usize,
    dob: usize,
    external_id: Option<usize>,
    /// How many lines come before those that `reader` counts.
    lines_before: u64,
}

/// A file of which at most `left` more bytes may be read.
struct LimitedReader<R> {
    /// `None` after it has moved to another reader.
    file: Option<io::Chain<Cursor<Vec<u8>>, TextFile<R>>>,
    left: Arc<AtomicUsize>,
    delimiter: u8,
    place: Place,
    /// Whether the last byte was a line feed.
    ended: bool,
    is_at_end: bool,
}

/// A place between two bytes of a file, as the csv crate reads it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before a field.
    Start,
    Unquoted,
    Quoted,
    /// After a quote within quotes, which closes them or is the first of two.
    AfterQuote,
}

impl Place {
    fn after(self, byte: u8, delimiter: u8) -> Self {
        match (self, byte) {
            (Self::Quoted, b'"') => Self::AfterQuote,
            (Self::Start | Self::AfterQuote, b'"') | (Self::Quoted, _) => Self::Quoted,
            (_, byte) if byte == b'\n' || byte == delimiter => Self::Start,
            _ => Self::Unquoted,
        }
    }
}

impl<R: Read> LimitedReader<R> {
    /// Skips the rest of a record; returns the number of line feeds in it.
    fn skip_record(&mut self) -> io::Result<u64> {
        let mut lines = 0;
        let Some(file) = &mut self.file else { return Ok(0) };
        loop {
            let buffer = file.fill_buf()?;
            if buffer.is_empty() {
                self.is_at_end = self.place == Place::Quoted;
                return Ok(lines);
            }
            let (mut read, mut is_over) = (0, false);
            for byte in buffer {
                self.place = self.place.after(*byte, self.delimiter);
                (read, lines) = (read + 1, lines + u64::from(*byte == b'\n'));
                is_over = *byte == b'\n' && self.place != Place::Quoted;
                if is_over {
                    break;
                }
            }
            file.consume(read);
            if is_over {
                return Ok(lines);
            }
        }
    }
}

impl<R: Read> Read for LimitedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let Some(file) = &mut self.file else { return Ok(0) };
        let end = left.min(buffer.len());
        let mut read = file.read(&mut buffer[..end])?;
        if read > 0 {
            self.ended = buffer[read - 1] == b'\n';
        } else if !self.ended && end > 0 {
            // So that every record ends with a line feed, and its line number can be computed.
            (buffer[0], read, self.ended) = (b'\n', 1, true);
        }
        for byte in &buffer[..read] {
            self.place = self.place.after(*byte, self.delimiter);
        }
        self.is_at_end = read == 0 && end > 0;
        self.left.store(left - read, Ordering::Relaxed);
        Ok(read)
    }
}

/// The csv crate's reader of the rest of a file.
fn reader<R: Read>(limited: LimitedReader<R>) -> csv::Reader<LimitedReader<R>> {
    csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(limited.delimiter)
        .terminator(csv::Terminator::Any(b'\n'))
        .from_reader(limited)
}

impl<R: Read> Csv<R> {
    pub(super) fn open(mut file: TextFile<R>) -> Result<Self, HeaderError> {
        let encoding = file.encoding();
        let Header { bytes, line, delimiter, columns, name, dob, external_id } =
            Header::read(&mut file, encoding)?;
        let left = Arc::new(AtomicUsize::new(0));
        let reader = reader(LimitedReader {
            file: Some(Cursor::new(bytes).chain(file)),
            left: Arc::clone(&left),
            delimiter,
            place: Place::Start,
            ended: true,
            is_at_end: false,
        });
        let (record, lines_before) = (csv::ByteRecord::new(), 0);
        let mut csv = Self {
            reader,
            left,
            encoding,
            record,
            delimiter,
            columns,
            name,
            dob,
            external_id,
            lines_before,
        };
        if csv.advance()? == Record::TooLong {
            return Err(HeaderError::refused(line, vec![LineError::too_long()]));
        }
        Ok(csv)
    }

    pub(super) fn bytes_read(&self) -> u64 {
        self.reader.get_ref().file.as_ref().map_or(0, |file| file.get_ref().1.bytes_read())
    }

    /// The next record that is not an empty line.
    pub(super) fn next(&mut self, today: NaiveDate) -> io::Result<Option<Line>> {
        loop {
            let begins = self.next_line();
            let (number, customer) = match self.advance()? {
                Record::End => return Ok(None),
                Record::TooLong => {
                    let mut detail = format!("is longer than {LINE_MAX} bytes");
                    let ends = self.next_line().saturating_sub(1);
                    if self.is_open() {
                        detail += "; is a quote not closed? nothing after it was read";
                    } else if ends > begins {
                        detail = format!("{detail}; is a quote not closed? it ends on line {ends}");
                    }
                    (begins, Err(vec![LineError::new("line", detail)]))
                }
                Record::Read if self.is_open() => {
                    let problem = "has a quote that is not closed";
                    (self.line(), Err(vec![LineError::new("line", problem)]))
                }
                Record::Read if self.is_blank() => continue,
                Record::Read => (self.line(), self.customer(today)),
            };
            return Ok(Some(Line { number: i64::try_from(number).unwrap_or(i64::MAX), customer }));
        }
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
                    self.skip_record()?;
                    return Ok(Record::TooLong);
                }
                Err(io::Error::other(error))
            }
        }
    }

    /// Skips the rest of the record whose bytes were used up: the reader has read all of them. It reads nothing
    /// after an error, so another one goes on after the record.
    fn skip_record(&mut self) -> io::Result<()> {
        let limited = self.reader.get_mut();
        let lines = limited.skip_record()?;
        let rest = LimitedReader {
            file: limited.file.take(),
            left: Arc::clone(&self.left),
            delimiter: self.delimiter,
            place: Place::Start,
            ended: true,
            is_at_end: limited.is_at_end,
        };
        // The line of a reader's position is at least 1.
        self.lines_before = self.next_line() + lines - 1;
        self.reader = reader(rest);
        Ok(())
    }

    /// The line on which the reader stands, after a record.
    fn next_line(&self) -> u64 {
        self.lines_before + self.reader.position().line()
    }

    /// A quote of the record is not closed: the reader has looked for the end of the record beyond the end of
    /// the file, whose last byte is a line feed.
    fn is_open(&self) -> bool {
        self.reader.get_ref().is_at_end
    }

    /// A line of white space, or of delimiters: spreadsheets write those for rows that were cleared.
    fn is_blank(&self) -> bool {
        self.record.as_slice().trim_ascii().is_empty()
    }

    /// The line on which the record begins: the reader is after its end, and has skipped empty lines
    /// before it.
    fn line(&self) -> u64 {
        let within = self.record.as_slice().split(|byte| *byte == b'\n').count() as u64 - 1;
        // A line feed ends the record, unless the last one is in the quote.
        let ended = u64::from(!self.is_open());
        self.next_line().saturating_sub(within + ended)
    }

    fn customer(&self, today: NaiveDate) -> Customer {
        let refused = |problem: String| vec![LineError::new("line", problem)];
        for cell in &self.record {
            self.encoding.check(cell).map_err(refused)?;
        }
        if self.record.len() != self.columns {
            let (found, expected) = (self.record.len(), self.columns);
            return Err(refused(format!("has {found} fields where the header has {expected}")));
        }
        let text = |column: usize| {
            std::str::from_utf8(self.record.get(column).unwrap_or_default())
                .map_err(|_| ValueError("must be UTF-8"))
        };
        let external_id = match self.external_id.map(|column| text(column).map(str::trim)) {
            // An empty cell is none.
            None | Some(Ok("")) => Ok(None),
            Some(id) => id.and_then(ExternalId::parse).map(Some),
        };
        customer(
            text(self.name).and_then(Name::parse),
            text(self.dob).and_then(|dob| DateOfBirth::parse(dob.trim(), today)),
            external_id,
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
