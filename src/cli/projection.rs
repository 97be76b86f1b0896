//! `customers projection status|rebuild|verify`.

use std::process::ExitCode;

use anyhow::Context as _;

use super::demo::progress_bar;
use super::serve::pools;
use crate::config::Config;
use crate::projections::{self, Projection, rebuild};

#[derive(clap::Subcommand)]
pub enum Command {
    /// Say how far each projection has followed the log
    Status {
        /// One JSON object per projection
        #[arg(long)]
        json: bool,
    },
    /// Replay the whole log into a projection
    Rebuild { name: String },
    /// Compare a projection with the log; name the first difference
    Verify { name: String },
}

pub async fn run(config: &Config, command: Command) -> anyhow::Result<ExitCode> {
    let pools = pools(config).await?;
    match command {
        Command::Status { json } => {
            for status in rebuild::status(&pools.read).await? {
                if json {
                    say!("{}", serde_json::to_string(&status)?);
                } else {
                    say!(
                        "{:<16} checkpoint {}, head {}, {} behind",
                        status.name,
                        status.checkpoint,
                        status.head,
                        status.lag_events
                    );
                }
            }
        }
        Command::Rebuild { name } => {
            let bar = progress_bar(0);
            let projection = find(&name)?;
            let position = rebuild::rebuild(projection, &pools.bulk, |done, total| {
                bar.set_length(total.unsigned_abs());
                bar.set_position(done.unsigned_abs());
            })
            .await?;
            bar.finish_and_clear();
            say!("rebuilt {name} up to position {position}");
        }
        Command::Verify { name } => {
            let (position, difference) = rebuild::verify(find(&name)?, &pools.bulk).await?;
            if let Some(difference) = difference {
                say!("{name} differs from the log at position {position}: {difference}");
                return Ok(ExitCode::FAILURE);
            }
            say!("{name} equals the log up to position {position}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn find(name: &str) -> anyhow::Result<&'static dyn Projection> {
    projections::find(name).with_context(|| {
        let known: Vec<_> = projections::ALL.iter().map(|known| known.name()).collect();
        format!("there is no projection {name}; there are: {}", known.join(", "))
    })
}
