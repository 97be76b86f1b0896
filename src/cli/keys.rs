//! `customers keys new|list|retire`: the keys that sign tokens.

use std::time::Duration;

use chrono::TimeDelta;
use serde_json::json;
use uuid::Uuid;

use crate::auth::keys::{Keys, READ_EVERY};
use crate::auth::token::{LEEWAY_SECONDS, LIFETIME_MAX_SECONDS};
use crate::clock::{Clock, rfc3339};
use crate::config::Config;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Make a key: it signs from now on, and all others go on verifying
    New,
    /// List the keys, oldest first
    List {
        /// One JSON object per key
        #[arg(long)]
        json: bool,
    },
    /// Sign no more with a key, and verify nothing with it once the last token that it signed has
    /// expired
    Retire {
        kid: Uuid,
        /// Verify nothing with it from now on: it has leaked. Who has a token of it logs in again
        #[arg(long)]
        now: bool,
    },
}

/// How long after it was retired a key can still have signed: until every process has read the folder
/// again, with some time to spare.
const SIGNS_AT_MOST: Duration = READ_EVERY.saturating_mul(2);

pub fn run(config: &Config, command: &Command) -> anyhow::Result<()> {
    let keys = Keys::open(&config.keys_dir)?;
    let now = Clock::system().now();
    match command {
        Command::New => say!("{}", keys.add()?),
        Command::List { json } => {
            let signs = keys.signs();
            for (kid, key) in keys.ring().iter() {
                let state = match key.retired {
                    None if signs == Some(*kid) => "signs",
                    None => "verifies",
                    Some(end) if now < end => "retired",
                    Some(_) => "ended",
                };
                let end = key.retired.map(rfc3339);
                if *json {
                    say!("{}", json!({"kid": kid, "state": state, "verifies_until": end}));
                } else {
                    let until = end.map(|end| format!(", verifies until {end}"));
                    let until = until.filter(|_| state == "retired").unwrap_or_default();
                    say!("{kid}  {state}{until}");
                }
            }
        }
        Command::Retire { kid, now: at_once } => {
            // However long tokens live by today's configuration, or that of another process.
            let last = TimeDelta::seconds(LIFETIME_MAX_SECONDS + LEEWAY_SECONDS);
            let end = if *at_once { now } else { now + last + SIGNS_AT_MOST };
            let end = keys.retire(*kid, end)?;
            say!("{kid} signs no more and verifies until {}", rfc3339(end));
        }
    }
    Ok(())
}
