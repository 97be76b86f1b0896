//! `customers history ID`: prints every change of a customer, folded from the log, not from a
//! projection.

use std::fmt::Write as _;

use anyhow::Context as _;
use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use serde_json::{Map, Value, json};

use super::database::pools;
use super::output::{Output, csv_row};
use crate::clock;
use crate::commands::history::{self, Change, FieldChange};
use crate::config::Config;
use crate::events::values::CustomerId;
use crate::feed::event_format::cell;

#[derive(clap::Args)]
pub struct Arguments {
    #[arg(value_parser = CustomerId::parse)]
    id: CustomerId,
    /// Only changes at this time or later: 2026-11-28T08:00:00Z, or a date (its beginning, UTC)
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<DateTime<Utc>>,
    /// Only changes before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<DateTime<Utc>>,
    /// Print one JSON object per change
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print a CSV row for each changed field, with its old and its new value
    #[arg(long)]
    csv: bool,
}

/// What the metadata of a change says, in the order in which it is printed.
const METADATA: [&str; 7] =
    ["actor", "role", "request_id", "ip", "user_agent", "reason", "os_user"];

pub async fn run(config: &Config, arguments: &Arguments) -> anyhow::Result<()> {
    let pools = pools(config).await?;
    let mut changes = history::load(&pools.short, arguments.id).await?;
    let first = changes.first().map(|change| change.version);
    first.with_context(|| format!("the log has no customer {}", arguments.id))?;
    changes.retain(|change| {
        arguments.from.is_none_or(|from| change.at >= from)
            && arguments.to.is_none_or(|to| change.at < to)
    });
    if arguments.csv {
        return print_csv(arguments.id, &changes);
    }
    for change in &changes {
        if arguments.json {
            say!("{}", object(change));
        } else {
            say!("{}", line(change));
        }
    }
    Ok(())
}

/// A time, or the beginning of a day in UTC.
fn time(text: &str) -> Result<DateTime<Utc>, &'static str> {
    let day = || text.parse::<NaiveDate>().ok().map(|day| day.and_time(NaiveTime::MIN).and_utc());
    let moment = DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc());
    moment.or_else(day).ok_or("must be a time like 2026-11-28T08:00:00Z, or a date")
}

/// The same object as in `GET /customers/{id}/history`, with the operating system's user if a command made the change.
fn object(change: &Change) -> Value {
    let fields = change.fields.iter();
    let fields = fields.map(|f| json!({"field": f.field, "from": f.from, "to": f.to}));
    let mut object = Map::new();
    object.insert("version".to_owned(), json!(change.version));
    object.insert("position".to_owned(), json!(change.position));
    object.insert("event".to_owned(), json!(change.event));
    object.insert("at".to_owned(), json!(clock::rfc3339(change.at)));
    for name in METADATA {
        match change.metadata.get(name) {
            // Only commands have it.
            None if name == "os_user" => {}
            text => drop(object.insert(name.to_owned(), json!(text))),
        }
    }
    object.insert("changes".to_owned(), fields.collect());
    Value::Object(object)
}

/// A row for each changed field of each change.
fn print_csv(id: CustomerId, changes: &[Change]) -> anyhow::Result<()> {
    let head = ["customer", "version", "position", "at", "event"];
    let head = head.iter().chain(&METADATA).chain(&["field", "from", "to"]);
    let mut rows = vec![head.map(|name| (*name).to_owned()).collect::<Vec<_>>()];
    for change in changes {
        for FieldChange { field, from, to } in &change.fields {
            let (version, position) = (change.version.to_string(), change.position.to_string());
            let at = clock::rfc3339(change.at);
            let mut row = vec![id.to_string(), version, position, at, change.event.to_owned()];
            let text = |text: Option<&String>| text.map(|text| cell(text)).unwrap_or_default();
            row.extend(METADATA.iter().map(|name| text(change.metadata.get(*name))));
            row.extend([(*field).to_owned(), text(from.as_ref()), text(to.as_ref())]);
            rows.push(row);
        }
    }
    let mut output = Output::stdout()?;
    for row in rows {
        output.line(&csv_row(&row)?);
    }
    Ok(output.finish()?)
}

fn line(change: &Change) -> String {
    let at = clock::rfc3339(change.at);
    let said = |name: &str| change.metadata.get(name);
    let actor = said("actor").map_or("-", String::as_str);
    let mut line = format!("{:>4}  {at}  {:<15}  {actor}", change.version, change.event);
    for (name, before, after) in [
        ("role", " (", ")"),
        ("os_user", "  by ", ""),
        ("ip", "  from ", ""),
        ("request_id", "  request ", ""),
    ] {
        if let Some(text) = said(name) {
            let _ = write!(line, "{before}{text}{after}");
        }
    }
    let _ = write!(line, "  position {}", change.position);
    for field in &change.fields {
        let text = |value: &Option<String>| {
            value.as_ref().map_or("-".to_owned(), |text| format!("{text:?}"))
        };
        let (name, from, to) = (field.field, text(&field.from), text(&field.to));
        let _ = write!(line, "  {name}: {from} -> {to}");
    }
    if let Some(reason) = said("reason") {
        let _ = write!(line, "  ({reason})");
    }
    line
}
