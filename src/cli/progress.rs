//! Progress bars.

use indicatif::{ProgressBar, ProgressStyle};

use super::terminal::is_dumb;

/// A progress bar if standard error is a terminal that can move its cursor, else nothing.
pub fn progress_bar(total: u64) -> ProgressBar {
    if is_dumb() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(total);
    let style = "{wide_bar} {human_pos} of {human_len}  {per_sec}  {eta} left";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar
}
