//! `customers serve`, `migrate`, `routes`, `health`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::database::{misconfigured, owner_url};
use super::doctor;
use super::output::unless_closed;
use super::sd_notify;
use super::signals::stop_signal;
use crate::api;
use crate::app::App;
use crate::clock::Clock;
use crate::config::Config;
use crate::events::values::Role;
use crate::schema::{self, Migrated};

/// How long requests in progress may take after a stop signal.
const DRAIN: Duration = Duration::from_secs(5);

/// How long a process takes after its last request at most, with some time to spare: appends, tasks, pools.
const AFTER_REQUESTS: Duration = Duration::from_secs(7);

/// How long the service may take to answer `GET /readyz`.
const HEALTH_LIMIT: Duration = Duration::from_secs(3);

/// `customers serve`
pub async fn serve(config: Config) -> anyhow::Result<()> {
    let stop = stop_signal()?;
    doctor::warn(&config);
    let stops_within = config.drain_delay + DRAIN + AFTER_REQUESTS;
    let Some(app) = stop.run_until_cancelled(Box::pin(App::build(config, Clock::system()))).await
    else {
        return Ok(());
    };
    let app = app.map_err(misconfigured)?;
    announce!("address http://{}", app.address());
    sd_notify::notify(sd_notify::READY);
    tokio::spawn(sd_notify::follow(stop.clone(), stops_within));
    app.run(stop, DRAIN).await;
    Ok(())
}

#[derive(clap::Args, Default)]
pub struct MigrateArguments {
    /// Only print what would be applied
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object per migration
    #[arg(long)]
    json: bool,
}

/// `customers migrate`
pub async fn migrate(config: &Config, arguments: &MigrateArguments) -> anyhow::Result<()> {
    let owner = owner_url(config)?;
    let migrated = if arguments.dry_run {
        schema::plan(owner).await?
    } else {
        schema::migrate(owner, config.database_url.as_ref()).await?
    };
    match migrated {
        // Not an error: programs of this version go on with a newer schema, as after a roll-back.
        Migrated::Newer { database, program } => {
            remark!(
                "the database is of a newer program ({database}, mine {program}): nothing was changed"
            );
        }
        Migrated::Steps(steps) if steps.is_empty() => remark!("the schema is up to date"),
        Migrated::Steps(steps) => {
            let done = if arguments.dry_run { "would apply" } else { "applied" };
            for (version, name) in steps {
                if arguments.json {
                    let is_applied = !arguments.dry_run;
                    say!("{}", json!({"version": version, "name": name, "applied": is_applied}));
                } else {
                    remark!("{done} {version:04} {name}");
                }
            }
        }
    }
    Ok(())
}

#[derive(clap::Args)]
pub struct RoutesArguments {
    /// Print one JSON object per route
    #[arg(long)]
    json: bool,
}

/// `customers routes`
pub fn routes(arguments: &RoutesArguments) -> anyhow::Result<()> {
    for route in api::routes() {
        let role = route.role.map_or("-", Role::as_str);
        if arguments.json {
            let line = json!({"method": route.method, "path": route.path, "role": role});
            say!("{}", serde_json::to_string(&line)?);
        } else {
            say!("{:<7} {:<39} {role}", route.method, route.path);
        }
    }
    Ok(())
}

/// `customers openapi`: the document of an installation on plain http, at the root of its host.
pub fn openapi() -> anyhow::Result<()> {
    for line in api::openapi_json("", "customers_session").lines() {
        say!("{line}");
    }
    Ok(())
}

/// `customers health`: exit code 0 if the service is ready; for a container without curl.
pub async fn health(config: &Config) -> anyhow::Result<ExitCode> {
    let mut address = config.listen;
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let request =
            format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = tokio::time::timeout(HEALTH_LIMIT, exchange)
        .await
        .with_context(|| format!("http://{address}/readyz: no answer within {HEALTH_LIMIT:?}"))?
        .with_context(|| format!("cannot read http://{address}/readyz"))?;
    let print = || -> anyhow::Result<()> {
        say!("{}", answer.rsplit("\r\n\r\n").next().unwrap_or_default());
        Ok(())
    };
    unless_closed(print())?;
    let ready = answer.starts_with("HTTP/1.1 200 ");
    Ok(if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
