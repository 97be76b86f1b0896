//! The database of a command.

use crate::app::{StartError, database_url};
use crate::config::{Config, ConfigError};
use crate::pools::Pools;
use crate::schema;

/// The folder in which `customers dev` keeps its servers, keys and addresses.
pub const DEV_FOLDER: &str = ".customers";

/// Connections for a command, to a database that answers and has this program's schema: a pool
/// alone would go on trying, and then say only that it took too long.
pub async fn pools(config: &Config) -> anyhow::Result<Pools> {
    let url = database_url(config).map_err(misconfigured)?;
    let pools = Pools::new(url)?;
    schema::check(url).await?;
    Ok(pools)
}

/// A variable that is missing is bad configuration; the rest is a failure.
pub fn misconfigured(error: StartError) -> anyhow::Error {
    match error {
        StartError::Missing(variable) => {
            ConfigError::new(variable, "must be set; or run `customers dev`").into()
        }
        StartError::Config(error) => error.into(),
        error => error.into(),
    }
}
