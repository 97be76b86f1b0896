//! Progress bars.

use std::convert::Infallible;
use std::time::Duration;

use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressStyle};
use tokio::sync::watch;

use super::terminal::is_dumb;
use super::verbosity::is_quiet;
use crate::commands::import::progress::{Progress, Report};

/// How often the bar of an import is drawn, whether it moves or not.
const IMPORT_INTERVAL: Duration = Duration::from_millis(250);

/// A progress bar if standard error is a terminal that can move its cursor and the command is not quiet, else nothing.
pub fn progress_bar(total: u64) -> ProgressBar {
    styled(total, "{wide_bar} {human_pos} of {human_len}  {per_sec}  {eta} left")
}

/// The same for an import, whose lines are counted but not known in advance; see [`follow_import`].
pub fn import_bar() -> ProgressBar {
    styled(0, "{wide_bar} {msg}")
}

fn styled(total: u64, style: &str) -> ProgressBar {
    if is_dumb() || is_quiet() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(total);
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar
}

/// Shows the progress of an import in its bar: lines, rate and time left. Never returns.
pub async fn follow_import(bar: &ProgressBar, progress: &watch::Sender<Progress>) -> Infallible {
    loop {
        let report = progress.borrow().report();
        bar.set_length(report.total_bytes.unwrap_or_default());
        bar.set_position(report.bytes);
        bar.set_message(shown(&report));
        tokio::time::sleep(IMPORT_INTERVAL).await;
    }
}

fn shown(report: &Report) -> String {
    let lines = HumanCount(report.lines.unsigned_abs());
    let left = report.seconds_left.and_then(|left| Duration::try_from_secs_f64(left).ok());
    let left = left.map(|left| format!("  {:#} left", HumanDuration(left))).unwrap_or_default();
    format!("{lines} lines  {:.0}/s{left}", report.per_second)
}
