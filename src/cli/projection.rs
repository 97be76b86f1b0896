//! `customers projection status|rebuild|verify|retry|rollback`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use sqlx::PgPool;

use super::database::pools;
use super::progress::progress_bar;
use crate::config::Config;
use crate::pools::Pools;
use crate::projections::status::{self, State, Status};
use crate::projections::{self, Projection, parked, rebuild, verify};

/// How often the progress of a rebuild is asked for.
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[derive(clap::Subcommand)]
pub enum Command {
    /// Say how far each projection has followed the log
    Status {
        /// One JSON object per projection
        #[arg(long)]
        json: bool,
    },
    /// Replay the whole log into a projection while the old tables are served
    Rebuild { name: String },
    /// Compare a projection with the log; name the first difference
    Verify { name: String },
    /// Try again with the customers whose events could not be taken over
    Retry { name: String },
    /// Serve the tables again that the last rebuild has replaced
    Rollback { name: String },
}

pub async fn run(config: &Config, command: Command) -> anyhow::Result<ExitCode> {
    let pools = pools(config).await?;
    let good = match command {
        Command::Status { json } => show(&status::status(&pools.short).await?, json)?,
        Command::Rebuild { name } => rebuild(find(&name)?, &pools).await?,
        Command::Verify { name } => verify(find(&name)?, &pools.long).await?,
        Command::Retry { name } => retry(find(&name)?, &pools.long).await?,
        Command::Rollback { name } => {
            let position = rebuild::rollback(find(&name)?, &pools.rebuild).await?;
            say!("{name} serves its previous table again, up to position {position}");
            true
        }
    };
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn find(name: &str) -> anyhow::Result<&'static dyn Projection> {
    projections::find(name).with_context(|| {
        let known: Vec<_> = projections::ALL.iter().map(|known| known.name()).collect();
        format!("there is no projection {name}; there are: {}", known.join(", "))
    })
}

fn show(all: &[Status], json: bool) -> anyhow::Result<bool> {
    for status in all {
        if json {
            say!("{}", serde_json::to_string(status)?);
            continue;
        }
        let Status { name, checkpoint, head, lag_events, parked, .. } = status;
        let parked = if *parked == 0 { String::new() } else { format!(", {parked} parked") };
        let state = match (status.state, &status.rebuild) {
            (State::Rebuilding, Some(at)) => format!(", rebuilding: {} of {}", at.done, at.total),
            (State::RebuildStopped, Some(at)) => {
                format!(", a rebuild stopped at {} of {}", at.done, at.total)
            }
            (State::Following | State::Rebuilding | State::RebuildStopped, _) => String::new(),
        };
        say!("{name:<16} checkpoint {checkpoint}, head {head}, {lag_events} behind{parked}{state}");
    }
    Ok(true)
}

async fn rebuild(projection: &'static dyn Projection, pools: &Pools) -> anyhow::Result<bool> {
    let name = projection.name();
    let bar = progress_bar(0);
    let began = std::time::Instant::now();
    let watched = async {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if let Ok(Status { rebuild: Some(at), .. }) = status::of(projection, &pools.short).await
            {
                bar.set_length(at.total.unsigned_abs());
                bar.set_position(at.done.unsigned_abs());
            }
        }
    };
    let rebuilt = tokio::select! {
        rebuilt = rebuild::rebuild(projection, &pools.rebuild) => rebuilt?,
        () = watched => anyhow::bail!("the progress ended"),
    };
    bar.finish_and_clear();
    let seconds = began.elapsed().as_secs_f64();
    say!("rebuilt {name} up to position {} in {seconds:.1} s", rebuilt.position);
    match rebuilt.changed {
        0 => say!("no row differs from those served before"),
        changed => say!(
            "{changed} rows differ from those served before; the way back: customers projection rollback {name}"
        ),
    }
    Ok(true)
}

async fn verify(projection: &dyn Projection, pool: &PgPool) -> anyhow::Result<bool> {
    let name = projection.name();
    let verify::Verified { position, difference, parked } =
        verify::verify(projection, pool).await?;
    for parked in &parked {
        say!(
            "customer {}: parked from position {} on: {}",
            parked.customer_id,
            parked.position,
            parked.problem
        );
    }
    let besides = if parked.is_empty() { "" } else { ", besides the parked customers" };
    if let Some(difference) = &difference {
        say!("{name} differs from the log at position {position}: {difference}");
    } else {
        say!("{name} equals the log up to position {position}{besides}");
    }
    Ok(difference.is_none() && parked.is_empty())
}

async fn retry(projection: &dyn Projection, pool: &PgPool) -> anyhow::Result<bool> {
    let retried = parked::retry(projection, pool).await?;
    say!("{} repaired, {} still parked", retried.repaired, retried.still_parked);
    for parked in parked::list(projection, pool).await? {
        say!("customer {}: {}", parked.customer_id, parked.problem);
    }
    Ok(retried.still_parked == 0)
}
