//! `customers projection status|rebuild|verify|retry|rollback`.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use super::database::pools;
use super::output::unless_closed;
use super::progress::progress_bar;
use crate::config::Config;
use crate::pools::Pools;
use crate::postgres::Pool;
use crate::projections::parked::Parked;
use crate::projections::rebuild::{self, Rebuild};
use crate::projections::status::{self, State, Status};
use crate::projections::verify::{self, Verified};
use crate::projections::{self, Projection, parked};

/// How often the progress of a rebuild is read.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// The projection that an argument names.
#[derive(Clone, Copy)]
pub struct Named(&'static dyn Projection);

#[derive(clap::Subcommand)]
pub enum Command {
    /// Show the checkpoint, the lag and the state of each projection
    Status {
        /// Print one JSON object per projection
        #[arg(long)]
        json: bool,
    },
    /// Replay the log into a projection while its live table is served
    Rebuild {
        #[arg(value_parser = find)]
        name: Named,
        /// Discard a rebuild that was interrupted, instead of resuming it
        #[arg(long)]
        restart: bool,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Compare a projection with the log and print the first difference
    Verify {
        #[arg(value_parser = find)]
        name: Named,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Retry the parked customers, whose events could not be applied
    Retry {
        #[arg(value_parser = find)]
        name: Named,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Swap the table back in that the last rebuild replaced
    Rollback {
        #[arg(value_parser = find)]
        name: Named,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

pub async fn run(config: &Config, command: Command) -> anyhow::Result<ExitCode> {
    let pools = pools(config).await?;
    let success = match command {
        Command::Status { json } => show(&status::status(&pools.short).await?, json)?,
        Command::Rebuild { name, restart, json } => rebuild(name.0, &pools, restart, json).await?,
        Command::Verify { name, json } => verify(name.0, &pools.long, json).await?,
        Command::Retry { name, json } => retry(name.0, &pools.long, json).await?,
        Command::Rollback { name, json } => {
            let position = rebuild::rollback(name.0, &pools.rebuild).await?;
            let name = name.0.name();
            if json {
                say!("{}", json!({"name": name, "position": position}));
            } else {
                say!("rolled back {name} to its previous table, up to position {position}");
            }
            true
        }
    };
    Ok(if success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn find(name: &str) -> Result<Named, String> {
    let known = || projections::ALL.iter().map(|known| known.name()).collect::<Vec<_>>().join(", ");
    projections::find(name).map(Named).ok_or_else(|| format!("there are: {}", known()))
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
                let error = at.error.as_ref().map(|error| format!(": {error}"));
                let error = error.unwrap_or_default();
                format!(", rebuild interrupted at {} of {}{error}", at.done, at.total)
            }
            (State::Following | State::Rebuilding | State::RebuildStopped, _) => String::new(),
        };
        say!("{name:<16} checkpoint {checkpoint}, head {head}, lag {lag_events}{parked}{state}");
    }
    Ok(true)
}

async fn rebuild(
    projection: &'static dyn Projection,
    pools: &Pools,
    restart: bool,
    as_json: bool,
) -> anyhow::Result<bool> {
    let name = projection.name();
    let bar = progress_bar(0);
    let began = std::time::Instant::now();
    let progress = async {
        loop {
            tokio::time::sleep(PROGRESS_INTERVAL).await;
            if let Ok(Status { rebuild: Some(at), .. }) = status::of(projection, &pools.short).await
            {
                bar.set_length(at.total.unsigned_abs());
                bar.set_position(at.done.unsigned_abs());
            }
        }
    };
    let rebuild = async {
        if restart {
            Rebuild::restart(projection, &pools.rebuild).await?.run().await
        } else {
            rebuild::rebuild(projection, &pools.rebuild).await
        }
    };
    let rebuilt = tokio::select! {
        rebuilt = rebuild => rebuilt?,
        () = progress => anyhow::bail!("the progress display ended"),
    };
    bar.finish_and_clear();
    let seconds = began.elapsed().as_secs_f64();
    if as_json {
        let (position, changed) = (rebuilt.position, rebuilt.changed);
        let line =
            json!({"name": name, "position": position, "changed": changed, "seconds": seconds});
        say!("{line}");
        return Ok(true);
    }
    say!("rebuilt {name} up to position {} in {seconds:.1} s", rebuilt.position);
    match rebuilt.changed {
        0 => say!("no row differs from the replaced table"),
        changed => say!(
            "{changed} rows differ from the replaced table; undo: customers projection rollback {name}"
        ),
    }
    Ok(true)
}

async fn verify(projection: &dyn Projection, pool: &Pool, as_json: bool) -> anyhow::Result<bool> {
    let head = verify::wait_until_applied(projection, pool).await?;
    let verified = verify::verify(projection, pool).await?;
    let Verified { position, difference, parked } = &verified;
    let is_equal = difference.is_none() && parked.is_empty() && *position >= head;
    let name = projection.name();
    let print = || -> anyhow::Result<()> {
        if !as_json {
            return print_verified(name, &verified, head);
        }
        let parked: Vec<Value> = parked.iter().map(of_parked).collect();
        let line = json!({
            "name": name, "equal": is_equal, "position": position, "head": head,
            "difference": difference, "parked": parked,
        });
        say!("{line}");
        Ok(())
    };
    unless_closed(print())?;
    Ok(is_equal)
}

fn print_verified(name: &str, verified: &Verified, head: i64) -> anyhow::Result<()> {
    let Verified { position, difference, parked } = verified;
    for parked in parked {
        say!(
            "customer {}: parked from position {} on: {}",
            parked.customer_id,
            parked.position,
            parked.problem
        );
    }
    let except = if parked.is_empty() { "" } else { ", except the parked customers" };
    if let Some(difference) = difference {
        say!("{name} differs from the log at position {position}: {difference}");
    } else {
        say!("{name} equals the log up to position {position}{except}");
    }
    if *position < head {
        let missing = head - position;
        say!(
            "{name} does not have the {missing} events after position {position}, up to {head}: \
             start the service, which applies them, or run customers projection rebuild {name}"
        );
    }
    Ok(())
}

async fn retry(projection: &dyn Projection, pool: &Pool, as_json: bool) -> anyhow::Result<bool> {
    let retried = parked::retry(projection, pool).await?;
    let parked = parked::list(projection, pool).await?;
    let print = || -> anyhow::Result<()> {
        if as_json {
            let parked: Vec<Value> = parked.iter().map(of_parked).collect();
            say!("{}", json!({"repaired": retried.repaired, "parked": parked}));
            return Ok(());
        }
        say!("{} repaired, {} still parked", retried.repaired, retried.still_parked);
        for parked in parked {
            say!("customer {}: {}", parked.customer_id, parked.problem);
        }
        Ok(())
    };
    unless_closed(print())?;
    Ok(retried.still_parked == 0)
}

fn of_parked(parked: &Parked) -> Value {
    let Parked { customer_id, position, problem } = parked;
    json!({"customer_id": customer_id, "position": position, "problem": problem})
}
