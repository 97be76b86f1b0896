//! `customers doctor`: says when the service could do more than it needs, or an acknowledged event
//! could be lost.

use std::process::ExitCode;

use serde_json::json;

use super::serve::misconfigured;
use crate::app::database_url;
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
    for (guard, holds) in &answers {
        if arguments.json {
            let advice = (!holds).then_some(guard.advice);
            say!("{}", json!({"check": guard.name, "ok": holds, "advice": advice}));
        } else if *holds {
            say!("ok    {}", guard.name);
        } else {
            say!("WARN  not so: {}; {}", guard.name, guard.advice);
        }
    }
    let well = answers.iter().all(|(_, holds)| *holds);
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
