//! `customers doctor`: reports rights that the service does not need, settings with which an acknowledged
//! event or a session could be lost, and what would keep the service from working. A check that fails does
//! not keep the others from being made.

use std::process::ExitCode;
use std::time::Duration;

use secrecy::SecretString;
use serde_json::json;

use super::database::misconfigured;
use super::output::unless_closed;
use crate::app::{database_url, redis_url};
use crate::auth::keys::Keys;
use crate::auth::redis::doctor as redis_doctor;
use crate::check::Check;
use crate::config::Config;
use crate::events::log::end::log_end;
use crate::events::log::read;
use crate::pools;
use crate::postgres::server::{Demand, PATIENT_LIMIT};
use crate::printable::error_text;
use crate::schema::guards;

#[derive(clap::Args)]
pub struct Arguments {
    /// Print one JSON object per check
    #[arg(long)]
    json: bool,
}

/// Exit code 1 if a check fails.
pub async fn run(config: &Config, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut checks = of_postgres(config).await;
    checks.extend(of_pooler(config).await);
    checks.extend(of_replica(config).await);
    checks.extend(of_redis(config).await);
    checks.extend(of_configuration(config));
    unless_closed(print(&checks, arguments.json))?;
    let passed = checks.iter().all(|check| check.advice.is_none());
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(checks: &[Check], as_json: bool) -> anyhow::Result<()> {
    for Check { name, advice } in checks {
        if as_json {
            say!("{}", json!({"check": name, "ok": advice.is_none(), "advice": advice}));
        } else if let Some(advice) = advice {
            say!("FAIL  {name}: {advice}");
        } else {
            say!("ok    {name}");
        }
    }
    Ok(())
}

/// The checks that need no server; `serve` makes them at its start and logs what fails. It cannot start with
/// keys that are not private, and says so itself.
pub fn warn(config: &Config) {
    for Check { name, advice } in of_configuration(config) {
        if let Some(advice) = advice
            && name != KEYS
        {
            tracing::warn!(check = name, advice, "doctor: check failed");
        }
    }
}

const KEYS: &str = "the signing keys are private";
const ANSWERS: &str = "PostgreSQL answers, accepts writes, and has the schema of this program";

async fn of_postgres(config: &Config) -> Vec<Check> {
    let inspected = async {
        let url = database_url(config).map_err(misconfigured)?;
        let server = pools::server(url, "DATABASE_URL", Demand::Primary)?;
        anyhow::Ok((server, guards::inspect(url).await?))
    };
    let (server, guards) = match inspected.await {
        Ok(inspected) => inspected,
        Err(error) => return vec![failed(ANSWERS, error)],
    };
    let mut checks = vec![Check::new(ANSWERS, None)];
    let advice = match server.is_transaction_pooled().await {
        Ok(false) => None,
        Ok(true) => Some(
            "DATABASE_URL leads to a pooler in transaction mode: use its session mode, or the address of \
             PostgreSQL itself"
                .to_owned(),
        ),
        Err(error) => Some(error_text(&error)),
    };
    checks.push(Check::new("no pooler takes the connection away between two statements", advice));
    checks.extend(guards);
    checks
}

/// Whether the replica is one, and of this log.
async fn of_replica(config: &Config) -> Option<Check> {
    let url = config.read_database_url.as_ref()?;
    let advice = match compare(config, (url, "DATABASE_READ_URL", Demand::Standby)).await {
        Ok((true, lag)) if lag <= config.replica_max_lag => None,
        Ok((true, lag)) => Some(format!(
            "it lacks an event that is {} s old: look after its replication",
            lag.as_secs()
        )),
        Ok((false, _)) => Some(
            "its log is another one: DATABASE_READ_URL must name a standby of DATABASE_URL"
                .to_owned(),
        ),
        Err(error) => Some(error_text(error.as_ref())),
    };
    Some(Check::new("the replica is a standby of this log, and does not lag", advice))
}

/// Whether the pooler leads to this log.
async fn of_pooler(config: &Config) -> Option<Check> {
    let url = config.pool_database_url.as_ref()?;
    let advice = match compare(config, (url, "DATABASE_POOL_URL", Demand::PooledPrimary)).await {
        Ok((true, _)) => None,
        Ok((false, _)) => Some(
            "its log is another one: DATABASE_POOL_URL must lead to the database of DATABASE_URL"
                .to_owned(),
        ),
        Err(error) => Some(error_text(error.as_ref())),
    };
    Some(Check::new("the pooler leads to this log", advice))
}

async fn of_redis(config: &Config) -> Vec<Check> {
    let inspected = async {
        redis_url(config).map_err(misconfigured)?;
        anyhow::Ok(redis_doctor::inspect(config).await?)
    };
    inspected.await.unwrap_or_else(|error| vec![failed(redis_doctor::ANSWERS, error)])
}

fn failed(name: &'static str, error: impl Into<anyhow::Error>) -> Check {
    Check::new(name, Some(error_text(error.into().as_ref())))
}

/// Whether a server has the log of the primary, and the age of the first event that it lacks.
async fn compare(
    config: &Config,
    (url, variable, demand): (&SecretString, &'static str, Demand),
) -> anyhow::Result<(bool, Duration)> {
    let other = pools::server(url, variable, demand)?;
    let primary = database_url(config).map_err(misconfigured)?;
    let primary = pools::server(primary, "DATABASE_URL", Demand::Primary)?;
    let mut other = other.connect("customers doctor", &[], PATIENT_LIMIT).await?;
    let mut primary = primary.connect("customers doctor", &[], PATIENT_LIMIT).await?;
    let (end, of_primary) = (log_end(&mut other).await?, log_end(&mut primary).await?);
    let is_same = end.log == of_primary.log
        && read::identity(&mut other, end.head).await?
            == read::identity(&mut primary, end.head).await?;
    let lag = read::age(&mut primary, end.head + 1).await?;
    Ok((is_same, lag))
}

fn of_configuration(config: &Config) -> Vec<Check> {
    vec![
        Keys::check(&config.keys_dir)
            .map_or_else(|error| failed(KEYS, error), |()| Check::new(KEYS, None)),
        Check::new(
            "clients reach the service by https, or on this machine only",
            public_url(config),
        ),
        Check::new("the proxies in front of the service are known", proxies(config)),
        Check::new("the spool folder has room for its limit", spool(config)),
    ]
}

/// On an address that others reach, a token on plain http is read on its way.
fn public_url(config: &Config) -> Option<String> {
    let url = config.public_url();
    let host = url.trim_start_matches("http://");
    let is_local = ["127.", "localhost", "[::1]"].iter().any(|local| host.starts_with(local));
    if config.listen.ip().is_loopback()
        || config.is_https()
        || (is_local && config.public_url.is_some())
    {
        return None;
    }
    Some(format!(
        "CUSTOMERS_PUBLIC_URL is {url}: put a proxy with TLS in front, and set it to its https URL"
    ))
}

/// TLS ends in a proxy. If it is not known, all clients seem to have its address.
fn proxies(config: &Config) -> Option<String> {
    (config.is_https() && config.trusted_proxies.is_empty()).then(|| {
        "CUSTOMERS_PUBLIC_URL is https, which ends in a proxy: set CUSTOMERS_TRUSTED_PROXIES to its \
         addresses, or all clients share its limits"
            .to_owned()
    })
}

fn spool(config: &Config) -> Option<String> {
    let folder = config.spool_dir();
    let shown = folder.display();
    if let Err(error) = tempfile::tempfile_in(&folder) {
        return Some(format!("cannot write to {shown}: {error}; set CUSTOMERS_SPOOL_DIR"));
    }
    let space = rustix::fs::statvfs(&folder).ok()?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    (free < config.spool_limit).then(|| {
        format!(
            "{shown} has {} MiB, CUSTOMERS_SPOOL_LIMIT is {} MiB: lower it, or choose another folder with \
             CUSTOMERS_SPOOL_DIR",
            free >> 20,
            config.spool_limit >> 20
        )
    })
}
