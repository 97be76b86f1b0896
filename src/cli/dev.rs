//! `customers dev`: runs the service with a private PostgreSQL, a private Redis and demo data, without
//! any configuration.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use secrecy::{ExposeSecret as _, SecretString};
use tokio_util::sync::CancellationToken;

use super::database::DEV_FOLDER;
use super::serve;
use super::signals::stop_signal;
use crate::app::App;
use crate::auth::account::Accounts;
use crate::auth::password::Passwords;
use crate::clock::{self, Clock};
use crate::config::{Config, ConfigError, check_environment};
use crate::demo;
use crate::dev::{Options, Servers};
use crate::events::log::read;
use crate::{files, telemetry};

/// The limits that `dev` turns off unless the environment sets them.
const LIMITS_OFF: [&str; 2] = ["CUSTOMERS_RATE_LIMIT", "CUSTOMERS_ACCOUNT_LIMIT"];

/// How long requests in progress may take after a stop signal; the servers need time to stop too.
const DRAIN: Duration = Duration::from_secs(1);

/// How long the projection may take to show the demo customers.
const SHOWN_WITHIN: Duration = Duration::from_secs(5);

/// The number of demo customers in a new log.
const CUSTOMERS: u64 = 100;

#[derive(clap::Args)]
pub struct Arguments {
    /// Start only throw-away servers (where no URL is set), run COMMAND with both URLs set, stop them
    #[arg(long)]
    run: bool,
    /// A setting for the private PostgreSQL, for example shared_buffers=4GB; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting)]
    postgres: Vec<String>,
    #[arg(last = true, requires = "run", value_name = "COMMAND")]
    command: Vec<String>,
}

/// Checks the form of a setting; PostgreSQL checks the rest at its start. It would read a name alone as
/// `name=on`.
fn setting(text: &str) -> Result<String, &'static str> {
    let (name, _) = text.split_once('=').ok_or("must be NAME=VALUE")?;
    let is_name = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || "._".contains(c));
    if name.is_empty() || !is_name(name) { Err("must be NAME=VALUE") } else { Ok(text.to_owned()) }
}

/// The given settings; an error if there are some and PostgreSQL is not started here.
fn settings(given: Vec<String>, is_started: bool) -> Result<Vec<String>, ConfigError> {
    if is_started || given.is_empty() {
        return Ok(given);
    }
    let problem = "conflicts with --postgres, which is for the private PostgreSQL".to_owned();
    Err(ConfigError::new("DATABASE_URL", problem))
}

pub async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let stop = stop_signal()?;
    if arguments.run {
        return run_command(arguments, &stop).await;
    }
    // In dev these limits are off unless the environment sets them.
    let lookup = |name: &str| {
        let set = std::env::var(name).ok().filter(|value| !value.is_empty());
        set.or_else(|| LIMITS_OFF.contains(&name).then(|| "0".to_owned()))
    };
    check_environment()?;
    let mut config = Config::from_lookup(lookup)?;
    telemetry::start_logging(&config);
    let options = Options {
        folder: PathBuf::from(DEV_FOLDER),
        postgres: config.database_url.is_none(),
        redis: config.redis_url.is_none(),
        secret: clock::random_bytes(),
        settings: settings(arguments.postgres, config.database_url.is_none())?,
        throw_away: false,
    };
    let folder = options.folder.clone();
    // An interrupted start is dropped; the watchdogs stop the servers that it had started.
    let servers = tokio::select! {
        servers = Servers::start(options) => servers?,
        () = stop.cancelled() => return Ok(ExitCode::SUCCESS),
    };
    if let Some(url) = servers.database_url() {
        config.database_url = Some(SecretString::from(url));
    }
    if let Some(url) = servers.redis_url() {
        config.redis_url = Some(SecretString::from(url));
    }
    let env = folder.join("env");
    let served = serve_with_demo(config, &env, stop).await;
    // Its addresses are valid only while the servers run.
    let _ = fs::remove_file(&env);
    servers.stop().await;
    served.map(|()| ExitCode::SUCCESS)
}

async fn serve_with_demo(
    config: Config,
    env: &Path,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    serve::migrate(&config).await?;
    let urls = urls(&config);
    write_env(env, &urls)?;
    let app = App::build(config, Clock::system()).await?;
    let pools = app.pools();
    demo::account(
        &Accounts::new(pools.accounts.clone(), pools.appender.clone()),
        &Passwords::new(),
    )
    .await?;
    if !read::has_customers(&pools.short).await? {
        demo::create(app.bus(), CUSTOMERS, || ()).await?;
        // The first client sees them.
        app.projector().wait_for_position(read::head(&pools.short).await?, SHOWN_WITHIN).await;
    }
    say!("address http://{}", app.address());
    say!("login {} {}", demo::USERNAME, demo::PASSWORD);
    write!(std::io::stdout(), "{urls}")?;
    std::io::stdout().flush()?;
    Ok(app.run(stop, DRAIN).await?)
}

fn urls(config: &Config) -> String {
    let url = |secret: &Option<SecretString>| {
        secret.as_ref().map(|url| url.expose_secret().to_owned()).unwrap_or_default()
    };
    format!("DATABASE_URL={}\nREDIS_URL={}\n", url(&config.database_url), url(&config.redis_url))
}

/// Writes the addresses for the other subcommands, which read them when the variables are unset.
fn write_env(path: &Path, urls: &str) -> anyhow::Result<()> {
    let write = || {
        if let Some(folder) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        files::write_private(path, urls.as_bytes(), |_| Ok(()))
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Runs a command with throw-away servers; returns its exit code.
async fn run_command(arguments: Arguments, stop: &CancellationToken) -> anyhow::Result<ExitCode> {
    let command = arguments.command.split_first();
    let (program, rest) = command.context("--run needs a command after --")?;
    let folder = tempfile::Builder::new().prefix("customers-").tempdir()?;
    let set = |name| std::env::var(name).ok().filter(|url| !url.is_empty());
    let (database_url, redis_url) = (set("DATABASE_URL"), set("REDIS_URL"));
    let options = Options {
        folder: folder.path().join("servers"),
        postgres: database_url.is_none(),
        redis: redis_url.is_none(),
        secret: clock::random_bytes(),
        settings: settings(arguments.postgres, database_url.is_none())?,
        throw_away: true,
    };
    let servers = tokio::select! {
        servers = Servers::start(options) => servers?,
        () = stop.cancelled() => return Ok(ExitCode::FAILURE),
    };
    let child = tokio::process::Command::new(program)
        .args(rest)
        .env("DATABASE_URL", servers.database_url().or(database_url.as_deref()).unwrap_or_default())
        .env("REDIS_URL", servers.redis_url().or(redis_url.as_deref()).unwrap_or_default())
        .kill_on_drop(true)
        .spawn();
    let status = match child {
        Ok(mut child) => tokio::select! {
            status = child.wait() => status.map_err(anyhow::Error::from),
            // A terminal sends its signal to the command too; otherwise the drop of the child kills it.
            () = stop.cancelled() => Err(anyhow::anyhow!("stopped by a signal")),
        },
        Err(error) => Err(anyhow::Error::from(error).context(format!("cannot run {program}"))),
    };
    servers.stop().await;
    let code = status?.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Ok(ExitCode::from(code))
}
