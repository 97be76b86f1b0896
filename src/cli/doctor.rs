//! `customers doctor`: reports rights that the service does not need, and settings with which an
//! acknowledged event or a session could be lost.

use std::process::ExitCode;

use anyhow::Context as _;
use secrecy::ExposeSecret as _;
use serde_json::json;

use super::database::misconfigured;
use crate::app::database_url;
use crate::auth::redis_client::RedisClient;
use crate::auth::redis_epoch::RedisEpochs;
use crate::config::Config;
use crate::schema::guards;
use crate::tasks::Tasks;

#[derive(clap::Args)]
pub struct Arguments {
    /// Print one JSON object per check
    #[arg(long)]
    json: bool,
}

/// Exit code 1 if a check fails.
pub async fn run(config: &Config, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let checks = guards::inspect(database_url(config).map_err(misconfigured)?).await?;
    let mut checks: Vec<_> =
        checks.into_iter().map(|(guard, holds)| (guard.name, guard.advice, holds)).collect();
    if let Some(redis_url) = &config.redis_url {
        let client =
            RedisClient::new(redis_url.expose_secret(), &config.redis_prefix, &Tasks::default())?;
        let noeviction = RedisEpochs::new(client).is_noeviction().await;
        let advice = "set maxmemory-policy to noeviction";
        let noeviction = noeviction.context("cannot read maxmemory-policy from Redis")?;
        checks.push(("Redis keeps sessions when it is full", advice, noeviction));
    }
    for (name, advice, holds) in &checks {
        if arguments.json {
            let advice = (!holds).then_some(advice);
            say!("{}", json!({"check": name, "ok": holds, "advice": advice}));
        } else if *holds {
            say!("ok    {name}");
        } else {
            say!("FAIL  {name}: {advice}");
        }
    }
    let passed = checks.iter().all(|(_, _, holds)| *holds);
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
