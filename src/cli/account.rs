//! `customers account add|passwd|role|list|disable|enable|key`.

use std::io::Read as _;

use anyhow::Context as _;
use serde_json::json;

use super::account_key;
use super::database::pools;
use super::os_user;
use crate::auth::account::{Account, AccountError, Accounts, PASSWORD_TEXT_MAX, check_password};
use crate::auth::account_changes::AccountChange;
use crate::auth::fair_queue::Network;
use crate::auth::password::Passwords;
use crate::auth::redis::client::RedisClient;
use crate::auth::redis::epoch::ANY_EPOCH;
use crate::auth::revocation::{Revocation, revoke};
use crate::auth::session::{SessionLimits, Sessions};
use crate::clock;
use crate::config::Config;
use crate::events::account::CloseCause;
use crate::events::metadata::Metadata;
use crate::events::values::{Role, Username};
use crate::tasks::Tasks;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Add an account
    Add {
        #[arg(value_parser = Username::parse)]
        name: Username,
        /// viewer, editor, subscriber, auditor or admin
        #[arg(long, value_parser = Role::parse)]
        role: Role,
        #[command(flatten)]
        password: Password,
        #[command(flatten)]
        output: Output,
    },
    /// Set an account's password and end its sessions
    Passwd {
        #[arg(value_parser = Username::stored)]
        name: Username,
        #[command(flatten)]
        password: Password,
        #[command(flatten)]
        output: Output,
    },
    /// Set an account's role and end its sessions
    Role {
        #[arg(value_parser = Username::stored)]
        name: Username,
        /// viewer, editor, subscriber, auditor or admin
        #[arg(value_parser = Role::parse)]
        role: Role,
        #[command(flatten)]
        output: Output,
    },
    /// List the accounts
    List {
        /// Print one JSON object per account
        #[arg(long)]
        json: bool,
    },
    /// Disable an account and end its sessions
    Disable {
        #[arg(value_parser = Username::stored)]
        name: Username,
        #[command(flatten)]
        output: Output,
    },
    /// Let a disabled account log in again
    Enable {
        #[arg(value_parser = Username::stored)]
        name: Username,
    },
    /// Add, list and revoke the service keys with which programs get tokens
    #[command(subcommand)]
    Key(account_key::Command),
}

#[derive(clap::Args)]
pub struct Output {
    /// Print the account as a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct Password {
    /// Read the password (8 to 1024 bytes) from standard input; one newline at the end is removed
    #[arg(long, required = true)]
    password_stdin: bool,
}

pub async fn run(config: &Config, command: Command) -> anyhow::Result<()> {
    let pools = pools(config).await?;
    let accounts = Accounts::new(pools.accounts.clone(), pools.appender.clone());
    let metadata = os_user::metadata_of("customers account");
    let (name, cause, position, message, output) = match command {
        Command::Add { name, role, password, output } => {
            let hash = hash(&password).await?;
            accounts.add(&name, &hash, role, metadata).await?;
            let message = format!("added {name} ({role})");
            return print_changed(&accounts, &name, &message, &output).await;
        }
        Command::Enable { name } => return enable(&accounts, name, metadata).await,
        Command::Key(command) => {
            return account_key::run(config, &accounts, command, metadata).await;
        }
        Command::List { json } => {
            for account in accounts.list().await? {
                print(&account, json)?;
            }
            return Ok(());
        }
        Command::Passwd { name, password, output } => {
            let hash = hash(&password).await?;
            let position =
                accounts.change_password(&name, None, &hash, metadata.clone()).await?.position;
            let message = format!("changed the password of {name}");
            (name, CloseCause::PasswordChanged, position, message, output)
        }
        Command::Role { name, role, output } => {
            let position = accounts.change_role(&name, role, metadata.clone()).await?.position;
            let message = format!("{name} is {role} now");
            (name, CloseCause::RoleChanged, position, message, output)
        }
        Command::Disable { name, output } => {
            let position = accounts.disable(&name, metadata.clone()).await?.position;
            let message = format!("disabled {name}");
            (name, CloseCause::AccountDisabled, position, message, output)
        }
    };
    let revoked = match &config.redis_url {
        Some(_) => {
            let client = RedisClient::new(config, &Tasks::default())?;
            let revocation = Revocation { cause, position, except: None, epochs: ANY_EPOCH };
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
    print_changed(&accounts, &name, &message, &output).await?;
    // The reconciler of each process of the service reads the log and ends them too.
    if let Err(problem) = revoked {
        complain!("sessions not ended ({problem}): the service ends them when it reaches Redis");
    }
    Ok(())
}

async fn enable(accounts: &Accounts, name: Username, metadata: Metadata) -> anyhow::Result<()> {
    let change = AccountChange { disabled: Some(false), ..AccountChange::default() };
    let made = accounts.change(&name, &change, metadata).await?;
    if made.is_empty() && accounts.find(&name).await?.is_none() {
        return Err(AccountError::Unknown(name).into());
    }
    let message = if made.is_empty() { "is enabled already" } else { "may log in again" };
    say!("{name} {message}");
    Ok(())
}

/// Prints what was done to an account: as a sentence, or the account as it is now.
async fn print_changed(
    accounts: &Accounts,
    name: &Username,
    message: &str,
    output: &Output,
) -> anyhow::Result<()> {
    if output.json {
        let account = accounts.find(name).await?;
        return print(&account.with_context(|| format!("no such account: {name}"))?, true);
    }
    say!("{message}");
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
    // The longest text, its line end and one more byte, so that a longer password is refused.
    let limit = PASSWORD_TEXT_MAX + 3;
    let mut bytes = vec![];
    std::io::stdin()
        .take(limit as u64)
        .read_to_end(&mut bytes)
        .context("cannot read the password")?;
    let text = if bytes.len() < limit {
        String::from_utf8(bytes).context("the password must be UTF-8")?
    } else {
        // Its last character may be cut off.
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let text = text
        .strip_suffix('\n')
        .map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
    check_password(text).map_err(|error| anyhow::anyhow!("the password {error}"))?;
    let passwords = Passwords::new();
    let slot = passwords.slot(Network::LOCAL).await?;
    Ok(passwords.hash(slot, text.to_owned()).await?)
}
