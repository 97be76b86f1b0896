//! `customers account add|passwd|role|list|disable`.

use std::io::Read as _;

use anyhow::Context as _;
use secrecy::ExposeSecret as _;
use serde_json::json;

use super::database::pools;
use crate::auth::account::{Account, Accounts, PASSWORD_BYTES, check_password};
use crate::auth::password::Passwords;
use crate::auth::redis_client::RedisClient;
use crate::auth::redis_epoch::ANY_EPOCH;
use crate::auth::revocation::{Revocation, revoke};
use crate::auth::session::{SessionLimits, Sessions};
use crate::clock;
use crate::config::{Config, ConfigError};
use crate::events::account::CloseCause;
use crate::events::metadata::Metadata;
use crate::events::values::{Role, Username};

#[derive(clap::Subcommand)]
pub enum Command {
    /// Add an account
    Add {
        #[arg(value_parser = Username::parse)]
        name: Username,
        /// viewer, editor, auditor or admin
        #[arg(long, value_parser = Role::parse)]
        role: Role,
        #[command(flatten)]
        password: Password,
    },
    /// Give an account another password; its sessions end
    Passwd {
        #[arg(value_parser = Username::parse)]
        name: Username,
        #[command(flatten)]
        password: Password,
    },
    /// Give an account another role; its sessions end
    Role {
        #[arg(value_parser = Username::parse)]
        name: Username,
        /// viewer, editor, auditor or admin
        #[arg(value_parser = Role::parse)]
        role: Role,
    },
    /// List the accounts
    List {
        /// One JSON object per account
        #[arg(long)]
        json: bool,
    },
    /// Let nobody log in to an account any more; its sessions end
    Disable {
        #[arg(value_parser = Username::parse)]
        name: Username,
    },
}

#[derive(clap::Args)]
pub struct Password {
    /// Read the password (8 to 1024 bytes) from standard input; one newline at its end is cut
    #[arg(long, required = true)]
    password_stdin: bool,
}

pub async fn run(config: &Config, command: Command) -> anyhow::Result<()> {
    let pools = pools(config).await?;
    let accounts = Accounts::new(pools.accounts.clone(), pools.appender.clone());
    let metadata = Metadata::of_program("customers account");
    let (name, cause, position, done) = match command {
        Command::Add { name, role, password } => {
            let hash = hash(&password).await?;
            accounts.add(&name, &hash, role, metadata).await?;
            say!("added {name} ({role})");
            return Ok(());
        }
        Command::List { json } => {
            for account in accounts.list().await? {
                print(&account, json)?;
            }
            return Ok(());
        }
        Command::Passwd { name, password } => {
            let hash = hash(&password).await?;
            let position =
                accounts.change_password(&name, None, &hash, metadata.clone()).await?.position;
            let done = format!("changed the password of {name}");
            (name, CloseCause::PasswordChanged, position, done)
        }
        Command::Role { name, role } => {
            let position = accounts.change_role(&name, role, metadata.clone()).await?.position;
            let done = format!("{name} is {role} now");
            (name, CloseCause::RoleChanged, position, done)
        }
        Command::Disable { name } => {
            let position = accounts.disable(&name, metadata.clone()).await?.position;
            let done = format!("disabled {name}");
            (name, CloseCause::AccountDisabled, position, done)
        }
    };
    let ended = match &config.redis_url {
        Some(redis_url) => {
            let client = RedisClient::new(redis_url.expose_secret(), &config.redis_prefix)
                .map_err(|error| ConfigError::new("REDIS_URL", error.to_string()))?;
            let revocation = Revocation { cause, position, epochs: ANY_EPOCH };
            revoke(
                &Sessions::new(client, SessionLimits::default()),
                &accounts,
                &name,
                revocation,
                metadata,
            )
            .await
            .map_err(|error| error.to_string())
        }
        None => Err("REDIS_URL is not set".to_owned()),
    };
    say!("{done}");
    // The service follows the log and ends them itself.
    if let Err(problem) = ended {
        eprintln!("its sessions end as soon as the service reaches Redis ({problem})");
    }
    Ok(())
}

fn print(account: &Account, as_json: bool) -> anyhow::Result<()> {
    let created_at = clock::rfc3339(account.created_at);
    if as_json {
        let line = json!({
            "username": account.username, "role": account.role,
            "disabled": account.disabled, "created_at": created_at,
        });
        say!("{}", serde_json::to_string(&line)?);
    } else {
        let state = if account.disabled { "disabled" } else { "active" };
        say!("{:<24} {:<8} {state:<9} {created_at}", account.username, account.role);
    }
    Ok(())
}

async fn hash(password: &Password) -> anyhow::Result<String> {
    debug_assert!(password.password_stdin, "clap requires it");
    let mut text = String::new();
    // One byte more than the longest and its newline: enough to see that it is too long.
    let limit = *PASSWORD_BYTES.end() as u64 + 3;
    std::io::stdin().take(limit).read_to_string(&mut text).context("the password must be UTF-8")?;
    let text = text
        .strip_suffix('\n')
        .map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
    check_password(text).map_err(|error| anyhow::anyhow!("the password {error}"))?;
    Ok(Passwords::new().hash(text.to_owned()).await?)
}
