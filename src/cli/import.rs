//! `customers import`: creates customers from a file, as `POST /customers/import` does; with `--log`,
//! restores a whole log into an empty installation.

use std::fs::File;
use std::io::{Read, Seek as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use chrono::NaiveDate;
use serde::Serialize;
use sqlx::Connection as _;
use tokio::sync::{mpsc, watch};

use super::database::{owner_url, pools};
use super::misuse::misused;
use super::os_user;
use super::output::unless_closed;
use super::progress::{follow_import, import_bar, progress_bar};
use super::signals::stop_signal;
use crate::clock::Clock;
use crate::commands::import::line::Line;
use crate::commands::import::lines::{FileError, Format, Lines};
use crate::commands::import::progress::{Phase, Progress};
use crate::commands::import::{Fingerprint, ImportRequest, Imports, RejectedLine, Summary};
use crate::config::Config;
use crate::events::log::notify::Subscription;
use crate::events::metadata::Metadata;
use crate::events::values::{ValueError, parse_reason};
use crate::feed::log_copy;
use crate::schema;
use crate::tasks::Tasks;

/// The actor of the events, and the account of the import.
const ACTOR: &str = "customers import";

/// How many lines are checked at a time.
const PAGE: usize = 1000;

#[derive(clap::Args)]
pub struct Arguments {
    /// NDJSON or CSV with `name` and `dob`; with --log an NDJSON export; - is standard input
    file: PathBuf,
    /// The format of the file, if its name does not end with .csv, .tsv, .ndjson or .jsonl
    #[arg(long, value_enum)]
    format: Option<FormatName>,
    /// Import nothing if a line is bad
    #[arg(long)]
    strict: bool,
    /// An id for the import: a repeat with the same id continues where the last run stopped
    #[arg(long, value_name = "ID", value_parser = import_id)]
    import_id: Option<String>,
    /// The reason that the histories show
    #[arg(long, value_parser = reason)]
    reason: Option<String>,
    /// Restore a whole log with its positions and times; only into an empty installation, as the owner
    /// of the tables
    #[arg(long, conflicts_with_all = ["format", "strict", "import_id", "reason"])]
    log: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum FormatName {
    Ndjson,
    Csv,
}

fn import_id(text: &str) -> Result<String, &'static str> {
    let plain = text.bytes().all(|b| b.is_ascii_graphic()) && (1..=255).contains(&text.len());
    plain.then(|| text.to_owned()).ok_or("must be 1 to 255 visible ASCII characters")
}

fn reason(text: &str) -> Result<String, ValueError> {
    parse_reason(text).map(Option::unwrap_or_default)
}

/// Exit code 1 if nothing was imported or the import did not finish, whatever the reader of its report does.
pub async fn run(config: &Config, arguments: Arguments) -> anyhow::Result<ExitCode> {
    // Before a file without an end is read.
    let format = if arguments.log { None } else { Some(format(&arguments)?) };
    let file = open(&arguments.file)?;
    let Some(format) = format else {
        restore_log(config, file).await?;
        return Ok(ExitCode::SUCCESS);
    };
    let today = Clock::system().now().date_naive();
    if arguments.strict && !check_lines(file.try_clone()?, format, today)? {
        return Ok(ExitCode::FAILURE);
    }
    let fingerprint = fingerprint(&file, format)?;
    let length = file.metadata()?.len();
    (&file).rewind()?;
    let Some(lines) = lines(file, format, today)? else { return Ok(ExitCode::FAILURE) };
    let reason = arguments.reason.filter(|reason| !reason.is_empty());
    let metadata = Metadata { reason, ..os_user::metadata_of(ACTOR) };
    let request =
        ImportRequest { account: ACTOR.to_owned(), id: arguments.import_id, fingerprint, metadata };
    let progress = Progress::watched(Phase::Importing, Some(length));
    let summary = import(config, lines, &request, &progress).await?;
    if summary.created == 0 {
        complain!("customers: nothing was imported: all lines were refused");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

async fn import(
    config: &Config,
    lines: Lines,
    request: &ImportRequest,
    progress: &watch::Sender<Progress>,
) -> anyhow::Result<Summary> {
    let pools = pools(config).await?;
    let tasks = Tasks::default();
    let _notifying = Subscription::start(&pools.appender, pools.notify.clone(), &tasks);
    let stop = stop_signal()?;
    let imports = Imports::new(pools.import.clone(), pools.appender.clone());
    let (sender, mut rejected) = mpsc::channel::<RejectedLine>(128);
    let bar = import_bar();
    let printing = async {
        let mut printed = Ok(());
        while let Some(line) = rejected.recv().await {
            if printed.is_ok() {
                printed = bar.suspend(|| print(&line));
            }
        }
        printed
    };
    let importing = async {
        tokio::select! {
            outcome = imports.run(lines, request, &stop, sender, progress) => outcome,
            never = follow_import(&bar, progress) => match never {},
        }
    };
    let (outcome, printed) = tokio::join!(importing, printing);
    bar.finish_and_clear();
    let summary = outcome.with_context(|| match request.id {
        Some(_) => "import failed (created customers stay, the same command continues)",
        None => "import failed (created customers stay, a repeat without --import-id starts over)",
    })?;
    print_summary(printed, &summary).with_context(|| {
        format!("{} customers were created, but their report is not whole", summary.created)
    })?;
    Ok(summary)
}

fn print(line: &impl Serialize) -> anyhow::Result<()> {
    say!("{}", serde_json::to_string(line)?);
    Ok(())
}

/// Prints what was done, also after another line could not be printed: on standard error, if standard output
/// fails or its reader has closed it.
fn print_summary<S: Serialize>(printed: anyhow::Result<()>, summary: &S) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Last<'a, S> {
        summary: &'a S,
    }
    let line = Last { summary };
    let printed = printed.and_then(|()| print(&line));
    if printed.is_err() {
        complain!("{}", serde_json::to_string(&line)?);
    }
    unless_closed(printed)
}

/// The lines of the file; `None` if its header is refused, which is printed.
fn lines(file: File, format: Format, today: NaiveDate) -> anyhow::Result<Option<Lines>> {
    match Lines::open(file, format, today) {
        Err(FileError::Header(refused)) => {
            unless_closed(print(&refused))?;
            Ok(None)
        }
        lines => Ok(Some(lines?)),
    }
}

/// Returns whether every line can be imported; prints the lines that cannot.
fn check_lines(file: File, format: Format, today: NaiveDate) -> anyhow::Result<bool> {
    let Some(mut lines) = lines(file, format, today)? else { return Ok(false) };
    let (mut bad, mut printed) = (0, Ok(()));
    loop {
        let page = lines.take(PAGE)?;
        if page.is_empty() {
            break;
        }
        for Line { number, customer } in page {
            if let Err(errors) = customer {
                bad += 1;
                printed = printed.and_then(|()| print(&RejectedLine { line: number, errors }));
            }
        }
    }
    if bad > 0 {
        complain!("customers: nothing was imported: {bad} bad lines");
    }
    unless_closed(printed)?;
    Ok(bad == 0)
}

/// Opens the file. Standard input and pipes are copied to an unlinked temporary file first, because the
/// import reads its file more than once.
fn open(path: &Path) -> anyhow::Result<File> {
    let (name, mut source): (_, Box<dyn Read>) = if path.as_os_str() == "-" {
        ("standard input".to_owned(), Box::new(std::io::stdin().lock()))
    } else {
        let name = path.display().to_string();
        let file = File::open(path).with_context(|| format!("cannot open {name}"))?;
        if file.metadata()?.is_file() {
            return Ok(file);
        }
        (name, Box::new(file))
    };
    let mut file = tempfile::tempfile()?;
    std::io::copy(&mut source, &mut file).with_context(|| format!("cannot read {name}"))?;
    file.rewind()?;
    Ok(file)
}

fn format(arguments: &Arguments) -> anyhow::Result<Format> {
    let ending = arguments.file.extension().and_then(|ending| ending.to_str());
    let ending = ending.map(str::to_ascii_lowercase);
    match (arguments.format, ending.as_deref()) {
        (Some(FormatName::Ndjson), _) | (None, Some("ndjson" | "jsonl")) => Ok(Format::Ndjson),
        (Some(FormatName::Csv), _) | (None, Some("csv" | "tsv")) => Ok(Format::Csv),
        (None, _) => Err(misused("--format is missing, and the file name has no known ending")),
    }
}

fn fingerprint(mut file: &File, format: Format) -> anyhow::Result<Vec<u8>> {
    file.rewind()?;
    let mut fingerprint = Fingerprint::new(format);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(fingerprint.finish());
        }
        fingerprint.update(&buffer[..read]);
    }
}

async fn restore_log(config: &Config, file: File) -> anyhow::Result<()> {
    let mut connection = schema::connect_unlimited(owner_url(config)?).await?;
    schema::check_on(&mut connection).await?;
    let bar = progress_bar(file.metadata()?.len());
    let summary = log_copy::restore(&mut connection, bar.wrap_read(file)).await?;
    connection.close().await?;
    bar.finish_and_clear();
    print_summary(Ok(()), &summary)
}
