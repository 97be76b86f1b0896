//! `customers doctor`: reports rights that the service does not need, and settings with which an
//! acknowledged event or a session could be lost.

use std::process::ExitCode;

use serde_json::json;

use super::database::misconfigured;
use crate::app::database_url;
use crate::auth::redis_doctor;
use crate::config::Config;
use crate::schema::guards;

#[derive(clap::Args)]
pub struct Arguments {
    /// Print one JSON object per check
    #[arg(long)]
    json: bool,
}

/// Exit code 1 if a check fails.
pub async fn run(config: &Config, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let checks = guards::inspect(database_url(config).map_err(misconfigured)?).await?;
    let mut checks: Vec<_> = checks
        .into_iter()
        .map(|(guard, holds)| (guard.name, guard.advice.to_owned(), holds))
        .collect();
    if config.redis_url.is_some() {
        for check in redis_doctor::inspect(config).await? {
            let holds = check.advice.is_none();
            checks.push((check.name, check.advice.unwrap_or_default(), holds));
        }
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
