//! `customers redis empty`: deletes the keys of the installation, after a backup of PostgreSQL was restored.

use anyhow::Context as _;
use serde_json::json;

use super::database::misconfigured;
use crate::app::redis_url;
use crate::auth::redis::empty::{EmptyError, empty};
use crate::config::Config;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Delete all keys of this installation, after a backup was restored; ends all sessions
    Empty {
        /// Print the number of deleted keys as JSON
        #[arg(long)]
        json: bool,
    },
}

pub async fn run(config: &Config, command: &Command) -> anyhow::Result<()> {
    let Command::Empty { json } = command;
    redis_url(config).map_err(misconfigured)?;
    let prefix = &config.redis_prefix;
    match empty(config).await {
        Ok(deleted) if *json => say!("{}", json!({"deleted": deleted, "prefix": prefix})),
        Ok(deleted) => say!("deleted {deleted} keys with the prefix {prefix}"),
        Err(EmptyError::Config(error)) => return Err(error.into()),
        Err(error) => return Err(error).context("cannot empty Redis"),
    }
    Ok(())
}
