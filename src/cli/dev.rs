//! `customers dev`: runs the service with a private PostgreSQL, a private Redis and demo data, without
//! any configuration.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use secrecy::{ExposeSecret as _, SecretString};
use tokio_util::sync::CancellationToken;

use super::database::DEV_FOLDER;
use super::os_user;
use super::serve;
use super::signals::stop_signal;
use super::verbosity::Verbosity;
use crate::app::App;
use crate::auth::account::Accounts;
use crate::auth::password::Passwords;
use crate::clock::{self, Clock};
use crate::config::{Config, ConfigError, check_environment};
use crate::demo;
use crate::dev::{Options, Servers};
use crate::events::log::read;
use crate::{files, schema, telemetry};

/// The limits that `dev` turns off unless the environment sets them.
const LIMITS_OFF: [&str; 3] =
    ["CUSTOMERS_RATE_LIMIT", "CUSTOMERS_ACCOUNT_LIMIT", "CUSTOMERS_SESSION_RATE"];

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
    /// Migrate the database of DATABASE_URL and add the account `demo` and 100 customers to it; only if it
    /// is empty, or `dev` made what it has
    #[arg(long, conflicts_with = "run")]
    seed: bool,
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

pub async fn run(arguments: Arguments, verbosity: Verbosity) -> anyhow::Result<ExitCode> {
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
    config.log = verbosity.log(config.log);
    telemetry::start_logging_and_tracing(&config);
    if !config.listen.ip().is_loopback() {
        let problem = "must be a loopback address in dev, whose password is public: use serve";
        return Err(ConfigError::new("CUSTOMERS_LISTEN", problem).into());
    }
    let seeding = match (config.database_url.is_some(), arguments.seed) {
        (false, _) => Seeding::Always,
        (true, true) => Seeding::Checked,
        (true, false) => Seeding::Never,
    };
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
    if config.database_url.is_some() != config.redis_url.is_some() {
        // The record of another log's position must not stand where this Redis has its own.
        config.redis_prefix.push_str(":dev");
    }
    if let Some(url) = servers.database_url() {
        config.database_url = Some(SecretString::from(url));
        // These name another database.
        config.owner_database_url = None;
        config.read_database_url = None;
    }
    if let Some(url) = servers.redis_url() {
        config.redis_url = Some(SecretString::from(url));
        // These belong to another Redis.
        (config.redis_ca, config.redis_cert, config.redis_key) = (None, None, None);
    }
    let env = folder.join("env");
    let served = serve_seeded(config, seeding, &env, stop).await;
    // Its addresses are valid only while the servers run.
    let _ = fs::remove_file(&env);
    servers.stop().await;
    served.map(|()| ExitCode::SUCCESS)
}

/// Whether the schema is migrated and the demo data is added.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seeding {
    /// The private database.
    Always,
    /// A configured database, if it has nothing but demo data.
    Checked,
    Never,
}

async fn serve_seeded(
    config: Config,
    seeding: Seeding,
    env: &Path,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    if seeding == Seeding::Checked {
        check_seedable(&config).await?;
    }
    if seeding != Seeding::Never {
        serve::migrate(&config, &serve::MigrateArguments::default()).await?;
    }
    let urls = urls(&config);
    write_env(env, &urls)?;
    let app = App::build(config, Clock::system()).await?;
    write_env(env, &format!("{urls}CUSTOMERS_LISTEN={}\n", app.address()))?;
    if seeding != Seeding::Never {
        seed(&app).await?;
    }
    announce!("address http://{}", app.address());
    if seeding != Seeding::Never {
        announce!("login {} {}", demo::USERNAME, demo::PASSWORD);
    }
    for url in urls.lines() {
        announce!("{url}");
    }
    announce!("docs http://{}/docs", app.address());
    app.run(stop, DRAIN).await;
    Ok(())
}

/// Adds the account, and the customers to a log that has none.
async fn seed(app: &App) -> anyhow::Result<()> {
    let pools = app.pools();
    let accounts = Accounts::new(pools.accounts.clone(), pools.appender.clone());
    let metadata = os_user::metadata_of(demo::ACTOR);
    demo::account(&accounts, &Passwords::new(), metadata.clone()).await?;
    if !read::has_customers(&pools.short).await? {
        demo::create_as(app.bus(), CUSTOMERS, &metadata, || ()).await?;
        // The first client sees them.
        app.projector().wait_for_position(read::head(&pools.short).await?, SHOWN_WITHIN).await;
    }
    Ok(())
}

/// Fails unless the configured database is empty, or its log begins with the demo account.
async fn check_seedable(config: &Config) -> anyhow::Result<()> {
    let url = config.owner_database_url.as_ref().or(config.database_url.as_ref());
    let Some(url) = url else { return Ok(()) };
    let mut connection = schema::connect(url).await?;
    if schema::is_empty(&mut connection).await? {
        return Ok(());
    }
    schema::check(url).await?;
    let actor = read::first_actor(&mut connection).await?;
    if actor.as_deref().is_some_and(|actor| actor != demo::ACTOR) {
        bail!("--seed: the database of DATABASE_URL has events that demo data does not begin with");
    }
    Ok(())
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
