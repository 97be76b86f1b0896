//! `customers account key add|list|revoke`: the service keys with which programs get tokens.

use std::time::Duration;

use anyhow::anyhow;
use chrono::TimeDelta;
use serde_json::json;

use crate::auth::account::{AccountError, Accounts};
use crate::auth::account_keys::ServiceKey;
use crate::auth::redis::client::RedisClient;
use crate::auth::redis::epoch::ANY_EPOCH;
use crate::auth::revocation::revoke_key;
use crate::auth::session::{SessionLimits, Sessions};
use crate::clock::{Clock, rfc3339};
use crate::config::Config;
use crate::events::account_key::{ClientId, KeyExpiry, KeyName};
use crate::events::metadata::Metadata;
use crate::events::values::Username;
use crate::tasks::Tasks;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Add a key with the role of an account, and print its secret this once
    Add {
        #[arg(value_parser = Username::stored)]
        account: Username,
        /// What the key is called in lists
        #[arg(long, value_parser = KeyName::parse)]
        name: KeyName,
        /// How long it can be used: 90days, 1year; 731days at most
        #[arg(long, value_parser = humantime::parse_duration)]
        expires_in: Duration,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// List the keys of an account, oldest first
    List {
        #[arg(value_parser = Username::stored)]
        account: Username,
        /// Print one JSON object per key
        #[arg(long)]
        json: bool,
    },
    /// Revoke a key and end the sessions that it has opened
    Revoke {
        #[arg(value_parser = Username::stored)]
        account: Username,
        #[arg(value_parser = ClientId::parse)]
        client_id: ClientId,
    },
}

pub async fn run(
    config: &Config,
    accounts: &Accounts,
    command: Command,
    metadata: Metadata,
) -> anyhow::Result<()> {
    match command {
        Command::Add { account, name, expires_in, json } => {
            let now = Clock::system().now();
            let end =
                TimeDelta::from_std(expires_in).ok().and_then(|life| now.checked_add_signed(life));
            let end = end.ok_or_else(|| anyhow!("--expires-in is too long"))?;
            let expires_at =
                KeyExpiry::new(end, now).map_err(|error| anyhow!("the expiry {error}"))?;
            let key = accounts.add_key(&account, &name, expires_at, metadata).await?;
            let (client_id, secret) = (key.client_id, key.secret.expose());
            if json {
                let line = json!({
                    "client_id": client_id, "client_secret": secret,
                    "name": name, "expires_at": expires_at,
                });
                say!("{line}");
            } else {
                say!("client_id {client_id}");
                say!("client_secret {secret}");
            }
        }
        Command::List { account, json } => {
            if accounts.find(&account).await?.is_none() {
                return Err(AccountError::Unknown(account).into());
            }
            for key in accounts.keys(&account).await? {
                print(&key, json)?;
            }
        }
        Command::Revoke { account, client_id } => {
            if !accounts.remove_key(&account, client_id, metadata.clone()).await? {
                return Err(anyhow!("{account} has no key {client_id}"));
            }
            say!("revoked {client_id}");
            // The reconciler of each process of the service reads the log and ends them too.
            if let Err(problem) =
                end_sessions(config, accounts, &account, client_id, metadata).await
            {
                complain!(
                    "sessions not ended ({problem}): the service ends them when it reaches Redis"
                );
            }
        }
    }
    Ok(())
}

/// The error is a text for the operator.
async fn end_sessions(
    config: &Config,
    accounts: &Accounts,
    account: &Username,
    client_id: ClientId,
    metadata: Metadata,
) -> Result<(), String> {
    if config.redis_url.is_none() {
        return Err("REDIS_URL is not set".to_owned());
    }
    let client = RedisClient::new(config, &Tasks::default()).map_err(|error| error.to_string())?;
    let sessions = Sessions::new(client, SessionLimits::default());
    let revoked = revoke_key(&sessions, accounts, account, client_id, ANY_EPOCH, metadata);
    revoked.await.map_err(|error| error.to_string())
}

fn print(key: &ServiceKey, as_json: bool) -> anyhow::Result<()> {
    let ServiceKey { client_id, name, created_at, expires_at, last_used_at, .. } = key;
    let created_at = rfc3339(*created_at);
    let last_used_at = last_used_at.map(rfc3339);
    if as_json {
        let line = json!({
            "client_id": client_id, "name": name, "created_at": created_at,
            "expires_at": expires_at, "last_used_at": last_used_at,
        });
        say!("{line}");
    } else {
        let (expires_at, used) = (String::from(*expires_at), last_used_at.as_deref());
        let used = used.unwrap_or("never");
        say!("{client_id}  expires {expires_at}  last used {used}  {name}");
    }
    Ok(())
}
