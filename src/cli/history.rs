//! `customers history ID`: prints every change of a customer, folded from the log, not from a
//! projection.

use std::fmt::Write as _;

use anyhow::Context as _;
use serde_json::{Map, Value, json};

use super::database::pools;
use crate::clock;
use crate::commands::history::{self, Change};
use crate::config::Config;
use crate::events::values::CustomerId;

#[derive(clap::Args)]
pub struct Arguments {
    #[arg(value_parser = CustomerId::parse)]
    id: CustomerId,
    /// Print one JSON object per change
    #[arg(long)]
    json: bool,
}

pub async fn run(config: &Config, arguments: &Arguments) -> anyhow::Result<()> {
    let pools = pools(config).await?;
    let changes = history::load(&pools.short, arguments.id).await?;
    let first = changes.first().map(|change| change.version);
    first.with_context(|| format!("the log has no customer {}", arguments.id))?;
    for change in &changes {
        if arguments.json {
            say!("{}", object(change));
        } else {
            say!("{}", line(change));
        }
    }
    Ok(())
}

/// The same object as in `GET /customers/{id}/history`.
fn object(change: &Change) -> Value {
    let metadata = |name: &str| change.metadata.get(name).map_or(Value::Null, |text| json!(text));
    let fields = change.fields.iter();
    let fields = fields.map(|f| json!({"field": f.field, "from": f.from, "to": f.to}));
    let mut object = Map::new();
    object.insert("version".to_owned(), json!(change.version));
    object.insert("position".to_owned(), json!(change.position));
    object.insert("event".to_owned(), json!(change.event));
    object.insert("at".to_owned(), json!(clock::rfc3339(change.at)));
    for name in ["actor", "role", "request_id", "ip", "user_agent", "reason"] {
        object.insert(name.to_owned(), metadata(name));
    }
    object.insert("changes".to_owned(), fields.collect());
    Value::Object(object)
}

fn line(change: &Change) -> String {
    let at = clock::rfc3339(change.at);
    let actor = change.metadata.get("actor").map_or("-", String::as_str);
    let mut line = format!("{:>4}  {at}  {:<15}  {actor}", change.version, change.event);
    for field in &change.fields {
        let text = |value: &Option<String>| {
            value.as_ref().map_or("-".to_owned(), |text| format!("{text:?}"))
        };
        let (name, from, to) = (field.field, text(&field.from), text(&field.to));
        let _ = write!(line, "  {name}: {from} -> {to}");
    }
    if let Some(reason) = change.metadata.get("reason") {
        let _ = write!(line, "  ({reason})");
    }
    line
}
