//! `customers keys new|list|retire`: the keys that sign tokens.

use std::time::Duration;

use chrono::TimeDelta;
use serde_json::json;
use uuid::Uuid;

use super::database::pools;
use super::os_user;
use crate::auth::keys::{KeyError, Keys, RELOAD_INTERVAL};
use crate::auth::token::{LEEWAY_SECONDS, LIFETIME_MAX_SECONDS};
use crate::clock::{Clock, rfc3339};
use crate::config::{Config, ConfigError};
use crate::events::installation::InstallationEvent;
use crate::events::log::key_changes;
use crate::printable::error_text;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Create a key, which signs from now on; all other keys still verify
    New {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// List the keys, oldest first
    List {
        /// Print one JSON object per key
        #[arg(long)]
        json: bool,
    },
    /// Stop signing with a key, and stop verifying with it after the last token that it signed has
    /// expired
    Retire {
        kid: Uuid,
        /// Stop verifying with it at once, because it leaked; holders of its tokens must log in again
        #[arg(long)]
        now: bool,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// How long a retired key may still sign: until every process has read the folder again, with some time
/// to spare.
const SIGNS_AT_MOST: Duration = RELOAD_INTERVAL.saturating_mul(2);

pub async fn run(config: &Config, command: &Command) -> anyhow::Result<()> {
    let keys = Keys::open(&config.keys_dir).map_err(|error| match error {
        KeyError::Folder { .. } => {
            anyhow::Error::from(ConfigError::new("CUSTOMERS_KEYS_DIR", error.to_string()))
        }
        error => error.into(),
    })?;
    let now = Clock::system().now();
    match command {
        Command::New { json } => {
            let kid = keys.add()?;
            if *json {
                say!("{}", json!({"kid": kid}));
            } else {
                say!("{kid}");
            }
            record(config, &InstallationEvent::TokenKeyCreated { kid }).await;
        }
        Command::List { json } => {
            let signs = keys.signing_key_id();
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
        Command::Retire { kid, now: at_once, json } => {
            // The longest possible life: another process may be configured with a longer one than this.
            let last = TimeDelta::seconds(LIFETIME_MAX_SECONDS + LEEWAY_SECONDS);
            let end = if *at_once { now } else { now + last + SIGNS_AT_MOST };
            let end = keys.retire(*kid, end)?;
            let verifies_until = rfc3339(end);
            if *json {
                say!("{}", json!({"kid": kid, "verifies_until": verifies_until}));
            } else {
                say!("{kid} no longer signs, verifies until {verifies_until}");
            }
            let event = InstallationEvent::TokenKeyRetired { kid: *kid, verifies_until };
            record(config, &event).await;
        }
    }
    Ok(())
}

/// Appends the event of a change, which is made: a key that leaked is retired even while PostgreSQL is away.
async fn record(config: &Config, event: &InstallationEvent) {
    let recorded = async {
        let pools = pools(config).await?;
        let metadata = os_user::metadata_of("customers keys");
        anyhow::Ok(key_changes::record(&pools.short, event, metadata).await?)
    };
    if let Err(error) = recorded.await {
        let problem = error_text(error.as_ref());
        complain!("customers: the key is changed, but the log has no event of it: {problem}");
    }
}
