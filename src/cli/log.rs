//! `customers log show|restart`: the identity of the log.

use anyhow::Context as _;
use serde_json::json;
use sqlx::Connection as _;

use super::database::{owner_url, pools};
use crate::clock;
use crate::config::Config;
use crate::events::log::identity::{self, Identity};
use crate::schema;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Print the identity of the log, and those that it had
    Show {
        /// Print one JSON object per identity
        #[arg(long)]
        json: bool,
    },
    /// Give the log a new identity after a backup was restored, as the owner of the tables
    Restart {
        /// Print one JSON object per identity
        #[arg(long)]
        json: bool,
    },
}

pub async fn run(config: &Config, command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Show { json } => {
            for identity in identity::list(&pools(config).await?.short).await? {
                print(&identity, *json)?;
            }
        }
        Command::Restart { json } => {
            let mut connection = schema::connect_unlimited(owner_url(config)?).await?;
            schema::check_on(&mut connection).await?;
            let (old, new) = identity::restart(&mut connection).await.context(
                "cannot restart the log; only the owner of the tables can (CUSTOMERS_OWNER_DATABASE_URL)",
            )?;
            connection.close().await?;
            for identity in old.iter().chain([&new]) {
                print(identity, *json)?;
            }
        }
    }
    Ok(())
}

fn print(identity: &Identity, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        say!("{}", object(identity));
    } else {
        say!("{}", line(identity));
    }
    Ok(())
}

fn object(identity: &Identity) -> serde_json::Value {
    json!({
        "log": identity.id,
        "started_at": clock::rfc3339(identity.started_at),
        "ended_at": identity.ended_at.map(clock::rfc3339),
        "last_position": identity.last_position,
    })
}

fn line(identity: &Identity) -> String {
    let Identity { id, started_at, ended_at, last_position } = identity;
    let started = clock::rfc3339(*started_at);
    match (ended_at, last_position) {
        (Some(ended), Some(position)) => {
            let ended = clock::rfc3339(*ended);
            format!("log {id}: from {started} to {ended}, ended at position {position}")
        }
        (_, _) => format!("log {id}: since {started}, current"),
    }
}
