//! Why a process cannot start.

use std::net::SocketAddr;

use crate::auth::AuthError;
use crate::config::ConfigError;
use crate::projections::ProjectionError;
use crate::schema::SchemaError;

/// Why a process cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0} is not set")]
    Missing(&'static str),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("cannot query PostgreSQL")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Schema(#[from] SchemaError),
    #[error("the log has no identity: run `customers log restart` as the owner of the tables")]
    NoIdentity,
    #[error(transparent)]
    Projection(#[from] ProjectionError),
    #[error(
        "DATABASE_URL: leads to a pooler in transaction mode, which loses settings and notifications; use its \
         session mode, or the address of PostgreSQL itself"
    )]
    TransactionPooled,
    #[error("DATABASE_POOL_URL: cannot query PostgreSQL through the pooler")]
    Pooler(#[source] sqlx::Error),
    #[error("DATABASE_POOL_URL: leads to another database than DATABASE_URL")]
    OtherDatabase,
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
    #[error("{0}")]
    Auth(#[from] AuthError),
}
