//! Copies a whole log from one installation into another: checks an export line by line, and restores it
//! into an empty log.

/// The checks of one event.
mod check;

/// One event of an export.
mod exported;

use std::io::Read;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use uuid::Uuid;

use self::exported::Exported;
use crate::events::log::StoredEvent;
use crate::events::log::end;
use crate::events::log::restore::{self, RestoreError};
use crate::text_file::{OpenError, TextFile, TooLong};

/// The longest line in bytes: an event is far shorter, whatever reason `customers import` was given.
const LINE_MAX: usize = 1024 * 1024;

/// The last line of an export: the number of events before it, and the position of the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    pub events: i64,
    pub last_position: i64,
    /// The identity of the exported log; absent in exports of earlier versions. After a restore that of the
    /// copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<Uuid>,
}

/// Why a log was not copied. No event was written.
#[derive(Debug, thiserror::Error)]
pub enum LogCopyError {
    #[error("line {0}: {1}")]
    Line(i64, String),
    /// A predicate for the file, such as "is UTF-32".
    #[error("the file {0}")]
    NotText(&'static str),
    #[error("the file is truncated: its last line is not a summary")]
    Truncated,
    #[error("cannot read the file: {0}")]
    Read(#[from] std::io::Error),
    #[error(transparent)]
    Restore(#[from] RestoreError),
}

impl From<OpenError> for LogCopyError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::NotText(what) => Self::NotText(what),
            OpenError::Read(error) => Self::Read(error),
        }
    }
}

/// Restores the lines of an export in one transaction, as the owner of the table `events`.
pub async fn restore(
    connection: &mut PgConnection,
    file: impl Read,
) -> Result<Summary, LogCopyError> {
    let latest = end::latest_time(&mut *connection).await.map_err(RestoreError::from)?;
    let mut events = Export::open(file, latest)?;
    let restored = restore::restore(&mut *connection, &mut events).await;
    if let Err(LogCopyError::Restore(RestoreError::Event(position, problem))) = restored {
        return Err(LogCopyError::Line(events.line_of(position), problem));
    }
    restored?;
    let copy = end::log_end(connection).await.map_err(RestoreError::from)?.log;
    let summary = events.summary.ok_or(LogCopyError::Truncated)?;
    Ok(Summary { log: Some(copy), ..summary })
}

/// The events of an export, checked line by line. The first error ends it.
pub struct Export<R> {
    file: TextFile<R>,
    line: i64,
    position: i64,
    /// The positions that come after empty lines, each with the number of empty lines so far.
    empty_lines: Vec<(i64, i64)>,
    recorded_at: Option<DateTime<Utc>>,
    /// The latest time that an event may have.
    latest: DateTime<Utc>,
    summary: Option<Summary>,
}

impl<R: Read> Export<R> {
    /// No event may have a time after `latest`.
    pub fn open(file: R, latest: DateTime<Utc>) -> Result<Self, LogCopyError> {
        let file = TextFile::open(file)?;
        let (empty_lines, recorded_at) = (vec![], None);
        Ok(Self { file, line: 0, position: 0, empty_lines, recorded_at, latest, summary: None })
    }

    /// The line of an event that was read.
    fn line_of(&self, position: i64) -> i64 {
        let after = self.empty_lines.partition_point(|(of, _)| *of <= position);
        position + after.checked_sub(1).map_or(0, |last| self.empty_lines[last].1)
    }

    /// The next line that is not empty; `None` at the end of the file.
    fn next_line(&mut self) -> Result<Option<String>, LogCopyError> {
        loop {
            let Some(line) = self.file.next_line(LINE_MAX)? else { return Ok(None) };
            self.line += 1;
            let problem = |problem| LogCopyError::Line(self.line, problem);
            let too_long = |TooLong| problem(format!("is longer than {LINE_MAX} bytes"));
            let bytes = line.map_err(too_long)?;
            let bytes = bytes.trim_ascii();
            if !bytes.is_empty() {
                let text = self.file.encoding().check(bytes);
                return text.map(|text| Some(text.to_owned())).map_err(problem);
            }
        }
    }

    /// The event of a line; `None` for the summary. The error is a text for the operator.
    fn read(&mut self, text: &str) -> Result<Option<StoredEvent>, String> {
        if self.summary.is_some() {
            return Err("follows the summary".to_owned());
        }
        if text.starts_with("{\"summary\"") {
            self.summary = Some(self.read_summary(text)?);
            return Ok(None);
        }
        let event: Exported<'_> = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if event.position != self.position + 1 {
            return Err(format!("position {} follows {}", event.position, self.position));
        }
        let recorded_at = event.recorded_at.at;
        if self.recorded_at.is_some_and(|last| recorded_at <= last) {
            return Err("recorded_at is not after that of the previous event".to_owned());
        }
        // Every later event would get a time after it.
        if recorded_at > self.latest {
            return Err("recorded_at lies in the future".to_owned());
        }
        check::check(&event)?;
        (self.position, self.recorded_at) = (event.position, Some(recorded_at));
        let empty_lines = self.line - self.position;
        if empty_lines > self.empty_lines.last().map_or(0, |(_, number)| *number) {
            self.empty_lines.push((self.position, empty_lines));
        }
        Ok(Some(event.into_stored()))
    }

    fn read_summary(&self, text: &str) -> Result<Summary, String> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Last {
            summary: Summary,
        }
        let Last { summary } = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if (summary.events, summary.last_position) != (self.position, self.position) {
            let Summary { events, last_position, .. } = summary;
            let expected = format!("{events} events up to position {last_position}");
            return Err(format!("the summary has {expected}, the file has {}", self.position));
        }
        Ok(summary)
    }
}

impl<R: Read> Iterator for Export<R> {
    type Item = Result<StoredEvent, LogCopyError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let line = match self.next_line() {
                Ok(Some(line)) => line,
                Err(error) => return Some(Err(error)),
                Ok(None) if self.summary.is_none() => return Some(Err(LogCopyError::Truncated)),
                Ok(None) => return None,
            };
            match self.read(&line) {
                Ok(Some(event)) => return Some(Ok(event)),
                Ok(None) => {}
                Err(problem) => return Some(Err(LogCopyError::Line(self.line, problem))),
            }
        }
    }
}
