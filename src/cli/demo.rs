//! `customers demo`: adds demo customers and the demo account, through commands.

use serde_json::json;

use super::database::pools;
use super::os_user;
use super::progress::progress_bar;
use crate::auth::account::Accounts;
use crate::auth::password::Passwords;
use crate::commands::Bus;
use crate::config::Config;
use crate::demo;
use crate::events::log::read;

#[derive(clap::Args)]
#[group(id = "what", required = true, multiple = true)]
pub struct Arguments {
    /// How many customers to create
    #[arg(long, value_name = "N")]
    customers: Option<u64>,
    /// Create them only if the log has no customer
    #[arg(long, requires = "customers")]
    if_empty: bool,
    /// Add the account demo (password demo-password, role admin) if it is missing
    #[arg(long)]
    account: bool,
    /// Print the number of created customers as JSON
    #[arg(long, requires = "customers")]
    json: bool,
}

pub async fn run(config: &Config, arguments: Arguments) -> anyhow::Result<()> {
    let pools = pools(config).await?;
    let metadata = os_user::metadata_of(demo::ACTOR);
    if arguments.account {
        let accounts = Accounts::new(pools.accounts.clone(), pools.appender.clone());
        demo::account(&accounts, &Passwords::new(), metadata.clone()).await?;
    }
    let Some(number) = arguments.customers else { return Ok(()) };
    let is_left_out = arguments.if_empty && read::has_customers(&pools.short).await?;
    let number = if is_left_out { 0 } else { number };
    let bar = progress_bar(number);
    let bus = Bus::new(pools.appender.clone(), pools.short.clone());
    demo::create_as(&bus, number, &metadata, || bar.inc(1)).await?;
    bar.finish_and_clear();
    if arguments.json {
        say!("{}", json!({"created": number}));
    } else if is_left_out {
        say!("created 0 customers: the log already has customers");
    } else {
        say!("created {number} customers");
    }
    Ok(())
}
