//! Reads the customers of a file line by line, in constant memory.

use std::io::{self, Read};

use chrono::NaiveDate;

use super::csv::Csv;
use super::csv_header::HeaderError;
use super::line::{Line, RejectedLine};
use super::ndjson::Ndjson;
use crate::text_file::{OpenError, TextFile};

/// How the file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line: `{"name":"Ada","dob":"1990-12-10"}`.
    Ndjson,
    /// RFC 4180, with a header that names the columns `name` and `dob`; commas, semicolons or tabs divide
    /// the columns.
    Csv,
}

/// Why a file cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A predicate for the file, such as "is UTF-32".
    #[error("the file {0}")]
    NotText(&'static str),
    #[error("the file has no customers")]
    Empty,
    #[error("the header cannot be used")]
    Header(RejectedLine),
    #[error(transparent)]
    Read(#[from] io::Error),
}

impl From<OpenError> for FileError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::NotText(what) => Self::NotText(what),
            OpenError::Read(error) => Self::Read(error),
        }
    }
}

impl From<HeaderError> for FileError {
    fn from(error: HeaderError) -> Self {
        match error {
            HeaderError::Empty => Self::Empty,
            HeaderError::Refused(line) => Self::Header(line),
            HeaderError::Read(error) => Self::Read(error),
        }
    }
}

/// The lines of one file.
pub struct Lines {
    source: Source,
    today: NaiveDate,
    /// Read with the header, to know that there is one.
    first: Option<Line>,
}

type File = Box<dyn Read + Send>;

enum Source {
    Ndjson(Ndjson<File>),
    Csv(Box<Csv<File>>),
}

impl Lines {
    /// Reads up to the first line with a customer; fails if there is none. Dates of birth after `today` are
    /// rejected.
    pub fn open(
        file: impl Read + Send + 'static,
        format: Format,
        today: NaiveDate,
    ) -> Result<Self, FileError> {
        let file = TextFile::open(Box::new(file) as File)?;
        let source = match format {
            Format::Ndjson => Source::Ndjson(Ndjson::new(file)),
            Format::Csv => Source::Csv(Box::new(Csv::open(file)?)),
        };
        let mut lines = Self { source, today, first: None };
        lines.first = Some(lines.next()?.ok_or(FileError::Empty)?);
        Ok(lines)
    }

    /// The next `number` lines; fewer at the end of the file.
    pub fn take(&mut self, number: usize) -> io::Result<Vec<Line>> {
        let mut lines = vec![];
        while lines.len() < number {
            let line = match self.first.take() {
                Some(first) => Some(first),
                None => self.next()?,
            };
            let Some(line) = line else { break };
            lines.push(line);
        }
        Ok(lines)
    }

    /// How many bytes of the file were read, some of them ahead of the lines.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        match &self.source {
            Source::Ndjson(ndjson) => ndjson.bytes_read(),
            Source::Csv(csv) => csv.bytes_read(),
        }
    }

    fn next(&mut self) -> io::Result<Option<Line>> {
        match &mut self.source {
            Source::Ndjson(ndjson) => ndjson.next(self.today),
            Source::Csv(csv) => csv.next(self.today),
        }
    }
}
