//! What a process waits for at its start: PostgreSQL, and the revocations that Redis has to show.

use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::error::StartError;
use crate::api;
use crate::auth::{Auth, AuthError};
use crate::config::redis_url::RedisUrl;
use crate::config::{Config, ConfigError};
use crate::events::log::end::{AHEAD_MAX, log_end, seconds_ahead};
use crate::pools::{self, Pools};
use crate::postgres::server::{CONNECT_LIMIT, Demand};
use crate::postgres::settings::Settings;
use crate::postgres::{self, Connection, Server};
use crate::printable::error_text;
use crate::projections::{ProjectionError, status};
use crate::schema::{self, SchemaError};

/// The pause between two attempts to reach PostgreSQL.
const RETRY: Duration = Duration::from_millis(500);

/// For the connection that checks the schema.
const LIMITED: Settings = &[("statement_timeout", "5s")];

/// How long a start waits for Redis to catch up with the log.
const CATCH_UP: Duration = Duration::from_secs(3);

/// What a start reads from the database, when all of it answers.
pub(super) struct Opened {
    pub pools: Pools,
    /// The last position of the log, if a projection has applied none of it.
    pub built_at: i64,
    pub cursor_key: String,
}

/// Waits for PostgreSQL and for the pooler, and checks the schema and the log. While they do not answer, the
/// listener answers that the process is alive and not ready.
pub(super) async fn open(
    listener: TcpListener,
    config: &Config,
    direct: Pools,
) -> Result<(TcpListener, Opened), StartError> {
    say(config, &direct)?;
    let pools = match &config.pool_database_url {
        Some(url) => direct.clone().with_pooler(url)?,
        None => direct.clone(),
    };
    let error = match check(&direct, &pools).await {
        Ok((built_at, cursor_key)) => {
            return Ok((listener, Opened { pools, built_at, cursor_key }));
        }
        Err(error) if is_away(&error) => error,
        Err(error) => return Err(error),
    };
    let failed = |error| StartError::Listen(config.listen, error);
    let listener = listener.into_std().map_err(failed)?;
    let early = listener.try_clone().and_then(TcpListener::from_std).map_err(failed)?;
    let checks = async {
        let mut checked = Err(error);
        let mut warned = None;
        let began = Instant::now();
        loop {
            match checked {
                Err(error) if is_away(&error) => {
                    let text = error_text(&error);
                    if warned.as_ref() != Some(&text) {
                        tracing::warn!(error = text, "start: waiting for PostgreSQL");
                        warned = Some(text);
                    }
                }
                checked => {
                    if checked.is_ok() {
                        // As loud as the trouble before.
                        tracing::warn!(away = ?began.elapsed(), "start: PostgreSQL answers");
                    }
                    return checked;
                }
            }
            tokio::time::sleep(RETRY).await;
            checked = check(&direct, &pools).await;
        }
    };
    let (https, path) = (config.is_https(), config.public_path());
    let (built_at, cursor_key) = api::waiting::answer_during(early, https, path, checks).await?;
    let listener = TcpListener::from_std(listener).map_err(failed)?;
    Ok((listener, Opened { pools, built_at, cursor_key }))
}

/// Logs what starts, and with which servers; never a user or a password.
fn say(config: &Config, pools: &Pools) -> Result<(), StartError> {
    let redis = config.redis_url.as_ref().ok_or(StartError::Missing("REDIS_URL"))?;
    let redis = RedisUrl::parse(redis.expose_secret());
    let redis = redis.map_err(|problem| ConfigError::new("REDIS_URL", problem))?;
    let shown = |url: Option<&SecretString>, variable, demand| {
        let server = url.map(|url| pools::server(url, variable, demand)).transpose();
        server.map(|server| server.map(|server| server.shown()))
    };
    let pooler = config.pool_database_url.as_ref();
    let pooler = shown(pooler, "DATABASE_POOL_URL", Demand::PooledPrimary)?;
    let replica = config.read_database_url.as_ref();
    let replica = shown(replica, "DATABASE_READ_URL", Demand::Standby)?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        address = %config.listen,
        public_url = config.public_url(),
        postgres = pools.server.shown(),
        pooler,
        replica,
        redis = %redis.topology,
        "start: customers"
    );
    Ok(())
}

/// Checks the server, its schema, the log and the pooler. Returns what [`Opened`] has of them.
async fn check(direct: &Pools, pools: &Pools) -> Result<(i64, String), StartError> {
    check_postgres(&direct.server).await?;
    let end = log_end(&direct.short).await.map_err(|error| match error {
        sqlx::Error::RowNotFound => StartError::NoIdentity,
        error => error.into(),
    })?;
    if let Some(pooler) = &pools.pooler {
        // Finds a host that answers, and says why there is none, which a pool does not.
        let connected = pooler.connect("customers start", &[], CONNECT_LIMIT).await;
        connected.map(drop).map_err(StartError::Pooler)?;
        let of_pooler = log_end(&pools.short).await.map_err(StartError::Pooler)?;
        if of_pooler.log != end.log {
            return Err(StartError::OtherDatabase);
        }
    }
    // Read before the first projector starts, which moves the checkpoints.
    let empty = status::status(&direct.short).await?.into_iter().filter(|of| of.checkpoint == 0);
    let built_at = empty.map(|of| of.head).max().unwrap_or(0);
    let cursor_key = schema::cursor_key(&direct.short).await?;
    let seconds = seconds_ahead(&direct.short).await?;
    tracing::info!(log = %end.log, head = end.head, "log: opened");
    if seconds > AHEAD_MAX {
        tracing::warn!(seconds, "log: its last event lies in the future, later events follow it");
    }
    Ok((built_at, cursor_key))
}

async fn check_postgres(server: &Server) -> Result<(), StartError> {
    if Box::pin(server.is_transaction_pooled()).await? {
        return Err(StartError::TransactionPooled);
    }
    let connection = Connection::open(server, "customers start", LIMITED, CONNECT_LIMIT).await;
    Ok(schema::check_on(&mut connection?).await?)
}

/// Whether the server, or the pooler, may answer later.
fn is_away(error: &StartError) -> bool {
    let (StartError::Database(error)
    | StartError::Pooler(error)
    | StartError::Schema(SchemaError::Database(error))
    | StartError::Projection(ProjectionError::Database(error))) = error
    else {
        return false;
    };
    // Too many connections.
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    let is_full = code.is_some_and(|code| code == "53300");
    postgres::is_lost(error) || is_full || matches!(error, sqlx::Error::PoolTimedOut)
}

/// Waits up to [`CATCH_UP`] until this process can check sessions: a balancer without health checks sends
/// requests as soon as the process serves. Without Redis it serves those that do not need Redis.
pub(super) async fn caught_up(auth: &Auth) {
    let catching_up = async {
        loop {
            match auth.ready().await {
                Err(AuthError::CatchingUp) => tokio::time::sleep(Duration::from_millis(50)).await,
                ready => return ready,
            }
        }
    };
    let ready = tokio::time::timeout(CATCH_UP, catching_up).await;
    if let Err(error) = ready.unwrap_or(Err(AuthError::CatchingUp)) {
        tracing::warn!(%error, "redis: not ready, requests that need it are answered 503");
    }
}
