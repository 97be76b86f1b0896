//! `customers export`: writes the log to standard output. It reads page by page up to a fixed position,
//! so that PostgreSQL does not hold a long snapshot; events that are appended meanwhile come after that
//! position.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use rustix::fs::OFlags;
use serde_json::json;

use super::database::pools;
use super::misuse::misused;
use super::output::{Output, csv_row, write_line};
use super::progress::progress_bar;
use crate::config::Config;
use crate::events::log::end::{LogEnd, log_end};
use crate::events::log::filter::Filter;
use crate::feed::event_format;
use crate::feed::log_copy::Summary;
use crate::feed::page::{self, Stretch};
use crate::printable::printable;

/// How many events are read at a time.
const PAGE: i64 = 1000;

#[derive(clap::Args)]
pub struct Arguments {
    /// The format of the events
    #[arg(long, value_enum)]
    format: Format,
    /// The last position to write, instead of the end of the log
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(i64).range(0..))]
    to: Option<i64>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// One JSON object per line with every field; `import --log` reads it
    Ndjson,
    /// One record per event; a cell that a spreadsheet would read as a formula begins with '
    Csv,
    /// One CloudEvent per line
    #[value(name = "cloudevents")]
    CloudEvents,
}

pub async fn run(config: &Config, arguments: &Arguments) -> anyhow::Result<()> {
    anyhow::ensure!(!is_closed(), "standard output is closed");
    let pools = pools(config).await?;
    let LogEnd { log, head } = log_end(&pools.short).await?;
    let last = arguments.to.unwrap_or(head);
    if last > head {
        return Err(misused(format!("--to is beyond the end of the log (position {head})")));
    }
    let source = event_format::source(&format!("{}/events", config.public_url()), log);
    // Another program gets the text of the log, a person one that does not act on the terminal.
    let is_shown = std::io::stdout().is_terminal();
    let mut out = Output::stdout()?;
    if arguments.format == Format::Csv {
        out.line(&csv_row(&event_format::CSV_COLUMNS)?);
    }
    let bar = progress_bar(last.unsigned_abs());
    let mut position = 0;
    while position < last {
        let stretch = Stretch { after: position, head: last, until: None };
        let page = page::page(&pools.short, stretch, PAGE, &Filter::default()).await?;
        for event in &page.events {
            let line = match arguments.format {
                Format::Ndjson => event_format::json(event)?,
                Format::CloudEvents => event_format::cloud_event(event, &source)?,
                Format::Csv => csv_row(&event_format::csv_record(event)?)?,
            };
            let line = if is_shown { printable(&line) } else { line.as_str().into() };
            out.event(&line).with_context(|| ended(&out))?;
        }
        position = page.next;
        bar.set_position(position.unsigned_abs());
    }
    bar.finish_and_clear();
    let now = log_end(&pools.short).await?.log;
    anyhow::ensure!(now == log, "the log was restarted meanwhile: export it again");
    out.flush().with_context(|| ended(&out))?;
    let summary = Summary { events: out.events(), last_position: position, log: Some(log) };
    let line = json!({"summary": summary});
    if arguments.format == Format::Ndjson {
        out.line(&line.to_string());
    }
    out.finish().with_context(|| ended(&out))?;
    if arguments.format != Format::Ndjson {
        // On standard output it would be read as an event.
        write_line(std::io::stderr().lock(), &line.to_string())
            .context("cannot write the summary to standard error")?;
    }
    Ok(())
}

/// Whether the process began without a standard output: in its place Rust's runtime opens `/dev/null` for
/// reading and writing. A shell opens it for writing only, to drop an output.
fn is_closed() -> bool {
    let (stdout, null) = (std::io::stdout(), rustix::fs::stat("/dev/null"));
    let is_null = rustix::fs::fstat(&stdout)
        .is_ok_and(|stdout| null.is_ok_and(|null| null.st_rdev == stdout.st_rdev));
    let mode = rustix::fs::fcntl_getfl(&stdout).map(|flags| flags & OFlags::ACCMODE);
    is_null && mode == Ok(OFlags::RDWR)
}

fn ended(out: &Output) -> String {
    format!("the export is not whole: {} events were written", out.events())
}
