//! What a process waits for at its start: PostgreSQL, and the revocations that Redis has to show.

use std::time::Duration;

use tokio::net::TcpListener;

use super::error::StartError;
use crate::api;
use crate::auth::{Auth, AuthError};
use crate::config::Config;
use crate::events::log::end::{AHEAD_MAX, log_end, seconds_ahead};
use crate::pools::Pools;
use crate::postgres::server::CONNECT_LIMIT;
use crate::postgres::{self, Pool, Server};
use crate::schema::{self, SchemaError};

/// The pause between two attempts to reach PostgreSQL.
const RETRY: Duration = Duration::from_millis(500);

/// How long a start waits for Redis to catch up with the log.
const CATCH_UP: Duration = Duration::from_secs(3);

/// Waits for PostgreSQL, and checks the schema, the log and the pooler. The listener answers meanwhile.
pub(super) async fn open(
    listener: TcpListener,
    config: &Config,
    pools: Pools,
) -> Result<(TcpListener, Pools), StartError> {
    let listener = wait_for_postgres(listener, config, &pools.server).await?;
    open_log(&pools.short).await?;
    let Some(url) = &config.pool_database_url else { return Ok((listener, pools)) };
    let direct = pools.short.clone();
    let pools = pools.with_pooler(url)?;
    check_pooler(&direct, &pools.short).await?;
    Ok((listener, pools))
}

/// Checks the server and its schema. While PostgreSQL does not answer, the listener answers that the
/// process is alive and not ready.
async fn wait_for_postgres(
    listener: TcpListener,
    config: &Config,
    server: &Server,
) -> Result<TcpListener, StartError> {
    let Err(error) = check_postgres(server).await else { return Ok(listener) };
    if !is_away(&error) {
        return Err(error);
    }
    let failed = |error| StartError::Listen(config.listen, error);
    let listener = listener.into_std().map_err(failed)?;
    let early = listener.try_clone().and_then(TcpListener::from_std).map_err(failed)?;
    let check = async {
        let mut problem = Err(error);
        let mut warned = None;
        loop {
            match problem {
                Err(error) if is_away(&error) => {
                    let text = format!("{:#}", anyhow::Error::from(error));
                    if warned.as_ref() != Some(&text) {
                        tracing::warn!(error = text, "start: waiting for PostgreSQL");
                        warned = Some(text);
                    }
                }
                checked => return checked,
            }
            tokio::time::sleep(RETRY).await;
            problem = check_postgres(server).await;
        }
    };
    api::waiting::answer_during(early, config.is_https(), check).await?;
    TcpListener::from_std(listener).map_err(failed)
}

async fn check_postgres(server: &Server) -> Result<(), StartError> {
    schema::check_on(&mut server.connect("customers start", &[], CONNECT_LIMIT).await?).await?;
    if server.is_transaction_pooled().await? {
        return Err(StartError::TransactionPooled);
    }
    Ok(())
}

/// Checks that the log has an identity, and logs a warning if it ends in the future.
async fn open_log(pool: &Pool) -> Result<(), StartError> {
    let end = log_end(pool).await.map_err(|error| match error {
        sqlx::Error::RowNotFound => StartError::NoIdentity,
        error => error.into(),
    })?;
    tracing::info!(log = %end.log, head = end.head, "log: opened");
    let seconds = seconds_ahead(pool).await?;
    if seconds > AHEAD_MAX {
        tracing::warn!(seconds, "log: its last event lies in the future, later events follow it");
    }
    Ok(())
}

/// Fails if the pooler leads to another log.
async fn check_pooler(direct: &Pool, pooled: &Pool) -> Result<(), StartError> {
    if log_end(direct).await?.log == log_end(pooled).await?.log {
        Ok(())
    } else {
        Err(StartError::OtherDatabase)
    }
}

/// Whether the server may answer later.
fn is_away(error: &StartError) -> bool {
    let (StartError::Database(error) | StartError::Schema(SchemaError::Database(error))) = error
    else {
        return false;
    };
    // Too many connections.
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    postgres::is_lost(error) || code.is_some_and(|code| code == "53300")
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
