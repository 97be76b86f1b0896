//! One Redis, with a time limit on every call: when it is away or frozen, whoever needs it is told
//! so within the limit.

use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{FromRedisValue, RedisError, ScriptInvocation};

/// The longest that one call may take: two of them fit into the 500 ms after which whoever needs
/// Redis gets its 503.
const CALL_LIMIT: Duration = Duration::from_millis(250);

/// A connection that mends itself. Clones share it.
#[derive(Clone)]
pub struct Store {
    connection: ConnectionManager,
    prefix: String,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("no answer within {CALL_LIMIT:?}")]
    Late,
    #[error(transparent)]
    Redis(#[from] RedisError),
}

impl Store {
    /// Gets ready; does not wait for Redis.
    ///
    /// # Errors
    /// When the URL is none of Redis.
    pub fn new(url: &str, prefix: &str) -> Result<Self, StoreError> {
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CALL_LIMIT))
            .set_response_timeout(Some(CALL_LIMIT))
            .set_number_of_retries(1)
            .set_min_delay(Duration::from_millis(20));
        let connection =
            ConnectionManager::new_lazy_with_config(redis::Client::open(url)?, config)?;
        Ok(Self { connection, prefix: prefix.to_owned() })
    }

    /// A key: the prefix, what it is about in a hash tag (so that all keys of one account are in one
    /// slot of a cluster), and the rest.
    pub(super) fn key(&self, tag: &str, rest: &str) -> String {
        format!("{}:{{{tag}}}:{rest}", self.prefix)
    }

    /// Runs a script.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, StoreError> {
        let mut connection = self.connection.clone();
        limited(script.invoke_async(&mut connection)).await
    }

    /// # Errors
    /// When there is no answer in time.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let mut connection = self.connection.clone();
        let ping = redis::cmd("PING");
        limited(ping.query_async::<()>(&mut connection)).await
    }
}

async fn limited<T>(call: impl Future<Output = Result<T, RedisError>>) -> Result<T, StoreError> {
    Ok(tokio::time::timeout(CALL_LIMIT, call).await.map_err(|_| StoreError::Late)??)
}
