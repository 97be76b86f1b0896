//! `customers doctor`: says when the service could do more than it needs, or an acknowledged event
//! could be lost.

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

#[derive(clap::Args)]
pub struct Arguments {
    /// One JSON object per check
    #[arg(long)]
    json: bool,
}

/// 1 when a check does not hold.
pub async fn run(config: &Config, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let answers = guards::inspect(database_url(config).map_err(misconfigured)?).await?;
    let mut answers: Vec<_> =
        answers.into_iter().map(|(guard, holds)| (guard.name, guard.advice, holds)).collect();
    if let Some(redis_url) = &config.redis_url {
        let client = RedisClient::new(redis_url.expose_secret(), &config.redis_prefix)?;
        let kept = RedisEpochs::new(client).is_noeviction().await;
        let advice = "set maxmemory-policy to noeviction";
        answers.push(("Redis keeps sessions when it is full", advice, kept.context("REDIS_URL")?));
    }
    for (name, advice, holds) in &answers {
        if arguments.json {
            let advice = (!holds).then_some(advice);
            say!("{}", json!({"check": name, "ok": holds, "advice": advice}));
        } else if *holds {
            say!("ok    {name}");
        } else {
            say!("WARN  not so: {name}; {advice}");
        }
    }
    let well = answers.iter().all(|(_, _, holds)| *holds);
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
