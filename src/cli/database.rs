//! Connects a command to the database.

use secrecy::SecretString;

use crate::app::{StartError, database_url};
use crate::config::{Config, ConfigError};
use crate::pools::Pools;
use crate::schema;

/// The folder in which `customers dev` stores its servers, keys and addresses.
pub const DEV_FOLDER: &str = ".customers";

/// Opens the pools of a command. Fails if the database does not answer or has another schema than this
/// program's: a pool alone would retry until its time limit, and report only a timeout.
pub async fn pools(config: &Config) -> anyhow::Result<Pools> {
    let url = database_url(config).map_err(misconfigured)?;
    let pools = Pools::new(url)?;
    schema::check(url).await?;
    Ok(pools)
}

/// The URL of the owner of the tables.
pub fn owner_url(config: &Config) -> anyhow::Result<&SecretString> {
    let owner = config.owner_database_url.as_ref();
    owner.map_or_else(|| database_url(config), Ok).map_err(misconfigured)
}

/// Turns a missing variable into a [`ConfigError`] (exit code 2). Other errors have exit code 1.
pub fn misconfigured(error: StartError) -> anyhow::Error {
    match error {
        StartError::Missing(variable) => {
            ConfigError::new(variable, "must be set; or run `customers dev`").into()
        }
        StartError::Config(error) => error.into(),
        error => error.into(),
    }
}
