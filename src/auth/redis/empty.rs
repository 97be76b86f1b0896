//! Deletes every key of the installation: what Redis knows is older or newer than a log that was restored.

use std::time::Duration;

use redis::Cmd;

use super::causes::advice;
use super::client::{RedisClient, RedisClientError, is_vague};
use super::nodes::scan;
use crate::clock;
use crate::config::{Config, ConfigError};
use crate::tasks::Tasks;

/// How many keys a server looks at, and so the most that one `DEL` names.
const KEYS_PER_CALL: u32 = 1000;

/// How long one call may take. No request waits for it.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Why Redis was not emptied. Some keys may be deleted; a repeat deletes the others.
#[derive(Debug, thiserror::Error)]
pub enum EmptyError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{cause}: {advice}")]
    Redis { cause: String, advice: &'static str },
    #[error("{0} keys were written meanwhile: stop the service on all machines, then repeat this")]
    Written(u64),
}

/// Deletes all keys with the prefix, on each master of a cluster; returns their number.
pub async fn empty(config: &Config) -> Result<u64, EmptyError> {
    let client = RedisClient::new(config, &Tasks::default())?;
    let emptying = async {
        let deleted = delete_all(&client).await?;
        Ok((deleted, delete_all(&client).await?))
    };
    match emptying.await {
        Ok((deleted, 0)) => Ok(deleted),
        Ok((_, written)) => Err(EmptyError::Written(written)),
        Err(error) => {
            let hidden = if is_vague(&error) { client.diagnose().await } else { None };
            let cause = hidden.unwrap_or_else(|| error.to_string());
            let advice = advice(&cause);
            Err(EmptyError::Redis { cause, advice })
        }
    }
}

async fn delete_all(client: &RedisClient) -> Result<u64, RedisClientError> {
    let masters = client.masters().await?;
    let nodes = masters.map_or_else(|| vec![None], |all| all.into_keys().map(Some).collect());
    let mut deleted = 0;
    for node in nodes {
        let mut cursor = 0;
        loop {
            let scan = scan(&client.scan_pattern(), cursor, KEYS_PER_CALL);
            let keys: Vec<Vec<u8>>;
            (cursor, keys) = ask(client, node.as_deref(), scan).await?;
            if !keys.is_empty() {
                let mut del = redis::cmd("DEL");
                del.arg(keys);
                deleted += ask::<u64>(client, None, del).await?;
            }
            if cursor == 0 {
                break;
            }
        }
    }
    Ok(deleted)
}

async fn ask<T: redis::FromRedisValue>(
    client: &RedisClient,
    node: Option<&str>,
    command: Cmd,
) -> Result<T, RedisClientError> {
    let answer = clock::within(CALL_LIMIT, client.ask(node, command)).await;
    answer.unwrap_or(Err(RedisClientError::Timeout))
}
