//! CSV by RFC 4180, with a header. The csv crate reads it. Without a closing quote the crate would read to
//! the end of the file, so the bytes of one record are limited.

use std::io::{self, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use chrono::NaiveDate;

use super::csv_header::{Header, HeaderError};
use super::line::{Customer, LINE_MAX, Line, LineError, customer};
use crate::events::values::{DateOfBirth, Name, ValueError};
use crate::text_file::{Encoding, TextFile};

/// The records of a file.
pub(super) struct Csv<R> {
    reader: csv::Reader<LimitedReader<R>>,
    left: Arc<AtomicUsize>,
    encoding: Encoding,
    record: csv::ByteRecord,
    columns: usize,
    name: usize,
    dob: usize,
    over: bool,
}

/// A file of which at most `left` more bytes may be read.
struct LimitedReader<R> {
    file: io::Chain<Cursor<Vec<u8>>, TextFile<R>>,
    left: Arc<AtomicUsize>,
    /// Whether the last byte was a line feed.
    ended: bool,
    is_at_end: bool,
}

impl<R: Read> Read for LimitedReader<R> {
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
        self.is_at_end = read == 0 && end > 0;
        self.left.store(left - read, Ordering::Relaxed);
        Ok(read)
    }
}

impl<R: Read> Csv<R> {
    pub(super) fn open(mut file: TextFile<R>) -> Result<Self, HeaderError> {
        let encoding = file.encoding();
        let Header { bytes, line, delimiter, columns, name, dob } =
            Header::read(&mut file, encoding)?;
        let left = Arc::new(AtomicUsize::new(0));
        let file = Cursor::new(bytes).chain(file);
        let reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(delimiter)
            .terminator(csv::Terminator::Any(b'\n'))
            .from_reader(LimitedReader {
                file,
                left: Arc::clone(&left),
                ended: true,
                is_at_end: false,
            });
        let record = csv::ByteRecord::new();
        let mut csv = Self { reader, left, encoding, record, columns, name, dob, over: false };
        if csv.advance()? == Record::TooLong {
            return Err(HeaderError::refused(line, vec![LineError::too_long()]));
        }
        Ok(csv)
    }

    pub(super) fn bytes_read(&self) -> u64 {
        self.reader.get_ref().file.get_ref().1.bytes_read()
    }

    /// The next record that is not an empty line.
    pub(super) fn next(&mut self, today: NaiveDate) -> io::Result<Option<Line>> {
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
                Record::Read if self.is_open() => {
                    Err(vec![LineError::new("line", "has a quote that is not closed")])
                }
                Record::Read if self.is_blank() => continue,
                Record::Read => self.customer(today),
            };
            let number = if self.over { begins } else { self.line() };
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
                    return Ok(Record::TooLong);
                }
                Err(io::Error::other(error))
            }
        }
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
        self.reader.position().line().saturating_sub(within + ended)
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
        customer(
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
