//! How far an import is, and how long it still takes.

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

/// What an import does at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The file arrives.
    Receiving,
    /// Other imports are at work.
    Waiting,
    Importing,
}

/// How far an import is. Bytes are those of the file, in the current phase.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    pub phase: Phase,
    pub bytes: u64,
    /// `None` while the size of the file is not known.
    pub total_bytes: Option<u64>,
    pub lines: i64,
    pub refused: i64,
    /// From where the rates count: the time, and bytes and lines at that time.
    since: (Instant, u64, i64),
}

/// The member `progress` of a line that tells it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Report {
    pub phase: Phase,
    pub bytes: u64,
    pub total_bytes: Option<u64>,
    /// The lines that are done, refused ones included.
    pub lines: i64,
    pub refused: i64,
    /// Lines per second.
    pub per_second: f64,
    /// Of the current phase; `None` while it cannot be told.
    pub seconds_left: Option<f64>,
}

impl Progress {
    /// Before anything is done.
    #[must_use]
    pub fn new(phase: Phase, total_bytes: Option<u64>) -> Self {
        let since = (Instant::now(), 0, 0);
        Self { phase, bytes: 0, total_bytes, lines: 0, refused: 0, since }
    }

    /// The same, for the import, which changes it, and for the tasks that report it.
    #[must_use]
    pub fn watched(phase: Phase, total_bytes: Option<u64>) -> watch::Sender<Self> {
        watch::Sender::new(Self::new(phase, total_bytes))
    }

    /// Lets the rates count from now on: what came before was done by an earlier run.
    pub(super) fn begin(&mut self) {
        self.since = (Instant::now(), self.bytes, self.lines);
    }

    #[must_use]
    pub fn report(&self) -> Report {
        let (since, bytes_before, lines_before) = self.since;
        let seconds = since.elapsed().as_secs_f64().max(0.001);
        let bytes_per_second = as_f64(self.bytes.saturating_sub(bytes_before)) / seconds;
        let lines = u64::try_from(self.lines - lines_before).unwrap_or_default();
        let left = self.total_bytes.map(|total| as_f64(total.saturating_sub(self.bytes)));
        let seconds_left = left.map(|left| left / bytes_per_second);
        let seconds_left =
            seconds_left.filter(|left| self.phase != Phase::Waiting && left.is_finite());
        Report {
            phase: self.phase,
            bytes: self.bytes,
            total_bytes: self.total_bytes,
            lines: self.lines,
            refused: self.refused,
            per_second: tenths(as_f64(lines) / seconds),
            seconds_left: seconds_left.map(tenths),
        }
    }
}

fn tenths(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

#[expect(clippy::cast_precision_loss, reason = "bytes and lines of one file stay below 2^53")]
fn as_f64(number: u64) -> f64 {
    number as f64
}
