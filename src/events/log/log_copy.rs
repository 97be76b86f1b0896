//! A whole log from one installation into another: an export, line by line, into an empty log. The
//! same positions, times and bytes, so the same customers and histories.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::value::RawValue;
use sqlx::{Connection as _, PgConnection};

use super::payload::{DecodeError, check};
use crate::clock;
use crate::events::customer::CUSTOMER;
use crate::events::metadata::Metadata;

/// How many bytes go to PostgreSQL at a time.
const PIECE: usize = 64 * 1024;

/// The last line of an export: how many events stand before it, and where the last of them stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, Deserialize)]
pub struct Summary {
    pub events: i64,
    pub last_position: i64,
}

/// Why a log was not taken over. Nothing of it is there then.
#[derive(Debug, thiserror::Error)]
pub enum LogCopyError {
    #[error("the log is not empty: only an empty installation can take another's log")]
    NotEmpty,
    #[error("line {0}: {1}")]
    Line(i64, String),
    #[error("the file is cut off: its last line is no summary")]
    Truncated,
    #[error("the sequences of {0} {1} have a gap")]
    SequenceGap(String, String),
    #[error("the file cannot be read: {0}")]
    Read(#[from] std::io::Error),
    #[error("PostgreSQL: {0}")]
    Database(#[from] sqlx::Error),
}

/// Takes a whole log over, in one transaction, as the owner of its tables.
///
/// # Errors
/// See [`LogCopyError`].
pub async fn restore(
    connection: &mut PgConnection,
    lines: impl Iterator<Item = std::io::Result<String>>,
) -> Result<Summary, LogCopyError> {
    let mut transaction = connection.begin().await?;
    // The lock of append_events: nobody appends meanwhile.
    sqlx::query!("select pg_advisory_xact_lock(7166761325952853362)")
        .execute(&mut *transaction)
        .await?;
    if super::read::head(&mut *transaction).await? > 0 {
        return Err(LogCopyError::NotEmpty);
    }
    let copy = "copy events (position, aggregate_type, aggregate_id, sequence, event_type,
        event_version, payload, metadata, command_id, recorded_at) from stdin";
    let mut sink = transaction.copy_in_raw(copy).await?;
    let mut rows = Rows::default();
    for line in lines {
        if let Err(error) = line.map_err(LogCopyError::Read).and_then(|line| rows.push(&line)) {
            sink.abort("the file was refused").await?;
            return Err(error);
        }
        if rows.text.len() >= PIECE {
            sink.send(rows.text.as_bytes()).await?;
            rows.text.clear();
        }
    }
    let Some(summary) = rows.summary else {
        sink.abort("the file is cut off").await?;
        return Err(LogCopyError::Truncated);
    };
    sink.send(rows.text.as_bytes()).await?;
    sink.finish().await?;
    check_sequences(&mut transaction).await?;
    // The next block of ids begins behind the largest. This stays when the transaction does not.
    sqlx::query!(
        "select setval('customer_ids', max(aggregate_id::bigint)) from events
         where aggregate_type = $1 having count(*) > 0",
        CUSTOMER
    )
    .fetch_optional(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(summary)
}

async fn check_sequences(connection: &mut PgConnection) -> Result<(), LogCopyError> {
    let gap = sqlx::query!(
        "select aggregate_type, aggregate_id from (
             select aggregate_type, aggregate_id, sequence,
                    row_number() over (partition by aggregate_type, aggregate_id order by position) as n
             from events
         ) numbered
         where sequence <> n limit 1"
    )
    .fetch_optional(connection)
    .await?;
    gap.map_or(Ok(()), |gap| Err(LogCopyError::SequenceGap(gap.aggregate_type, gap.aggregate_id)))
}

/// What was read so far: rows as COPY wants them.
#[derive(Default)]
struct Rows {
    text: String,
    line: i64,
    position: i64,
    recorded_at: Option<DateTime<Utc>>,
    summary: Option<Summary>,
}

/// One line of an export that is an event.
#[derive(Deserialize)]
struct Exported<'a> {
    position: i64,
    aggregate_type: String,
    aggregate_id: String,
    sequence: i64,
    r#type: String,
    version: String,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(borrow)]
    metadata: &'a RawValue,
    recorded_at: DateTime<Utc>,
}

impl Rows {
    fn push(&mut self, text: &str) -> Result<(), LogCopyError> {
        self.line += 1;
        self.read(text).map_err(|problem| LogCopyError::Line(self.line, problem))
    }

    /// In words what is wrong with the line.
    fn read(&mut self, text: &str) -> Result<(), String> {
        if self.summary.is_some() {
            return Err("stands behind the summary".to_owned());
        }
        if text.starts_with("{\"summary\"") {
            #[derive(Deserialize)]
            struct Last {
                summary: Summary,
            }
            let Last { summary } = serde_json::from_str(text).map_err(|error| error.to_string())?;
            if (summary.events, summary.last_position) != (self.position, self.position) {
                let (events, position) = (summary.events, summary.last_position);
                let said = format!("the summary says {events} events up to position {position}");
                return Err(format!("{said}, {} came", self.position));
            }
            self.summary = Some(summary);
            return Ok(());
        }
        let event: Exported<'_> = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if event.position != self.position + 1 {
            return Err(format!("position {} follows {}", event.position, self.position));
        }
        if self.recorded_at.is_some_and(|last| event.recorded_at <= last) {
            return Err("its recorded_at is not later than the one before".to_owned());
        }
        self.write(&event).map_err(|error| error.to_string())?;
        (self.position, self.recorded_at) = (event.position, Some(event.recorded_at));
        Ok(())
    }

    fn write(&mut self, event: &Exported<'_>) -> Result<(), DecodeError> {
        let members = event.data.get().trim_start_matches('{').trim_start();
        let between = if members == "}" { "" } else { "," };
        let payload = format!("{{\"type\":\"{}\"{between}{members}", event.r#type);
        // Whoever reads the log later can read it.
        check(&event.aggregate_type, &event.r#type, &event.version, &payload)?;
        let _: Metadata = serde_json::from_str(event.metadata.get())?;
        let (position, sequence) = (event.position.to_string(), event.sequence.to_string());
        let (command_id, time) = (clock::new_id().to_string(), clock::rfc3339(event.recorded_at));
        let columns = [
            &position,
            &event.aggregate_type,
            &event.aggregate_id,
            &sequence,
            &event.r#type,
            &event.version,
            &payload,
            event.metadata.get(),
            &command_id,
            &time,
        ];
        for (number, column) in columns.into_iter().enumerate() {
            if number > 0 {
                self.text.push('\t');
            }
            for c in column.chars() {
                match c {
                    '\\' => self.text.push_str("\\\\"),
                    '\t' => self.text.push_str("\\t"),
                    '\n' => self.text.push_str("\\n"),
                    '\r' => self.text.push_str("\\r"),
                    c => self.text.push(c),
                }
            }
        }
        self.text.push('\n');
        Ok(())
    }
}
