//! The epoch of a Redis: its replication id. A master gets a new one with every start and every
//! promotion, so an epoch that a process trusts has everything that the process wrote to it.

use std::collections::BTreeSet;

use redis::Script;

use super::client::{RedisClient, RedisClientError};
use super::scripts;

/// Any epoch, for writes that the reconciler applies again in every epoch that is trusted later.
pub const ANY_EPOCH: &str = "*";

/// Reads the epoch of Redis, and records in Redis up to which position the log is applied.
pub struct RedisEpochs {
    client: RedisClient,
    is_trusted: Script,
    ready: Script,
    write_position: Script,
    read_position: Script,
    is_noeviction: Script,
}

impl RedisEpochs {
    #[must_use]
    pub fn new(client: RedisClient) -> Self {
        Self {
            client,
            is_trusted: fenced_script(scripts::IS_TRUSTED_EPOCH),
            ready: fenced_script(scripts::IS_WRITABLE),
            write_position: fenced_script(scripts::WRITE_EPOCH_POSITION),
            read_position: Script::new(scripts::READ_EPOCH_POSITION),
            is_noeviction: Script::new(scripts::IS_NOEVICTION),
        }
    }

    /// Fails unless Redis is in a trusted epoch and accepts writes. Bypasses the circuit breaker.
    pub(in crate::auth) async fn ready(&self, trusted: &str) -> Result<(), RedisClientError> {
        let key = self.client.key("ready", "ready");
        let reply = self.client.run_bypassing_breaker(self.ready.key(key).arg(trusted)).await?;
        parse_reply(reply).map(drop)
    }

    /// Fails unless Redis is in a trusted epoch. Bypasses the circuit breaker.
    pub(in crate::auth) async fn is_trusted(&self, trusted: &str) -> Result<(), RedisClientError> {
        let key = self.client.key("ready", "ready");
        let reply =
            self.client.run_bypassing_breaker(self.is_trusted.key(key).arg(trusted)).await?;
        parse_reply(reply).map(drop)
    }

    /// The epochs of a cluster's masters, sorted; `None` for a single server.
    pub(in crate::auth) async fn of_masters(
        &self,
    ) -> Result<Option<Vec<String>>, RedisClientError> {
        let epoch = |info: &String| {
            let id = info.lines().find_map(|line| line.strip_prefix("master_replid:"));
            id.map(|id| id.trim().to_owned())
        };
        let epochs = self.client.masters().await?.map(|infos| {
            infos.values().filter_map(epoch).collect::<BTreeSet<_>>().into_iter().collect()
        });
        Ok(epochs)
    }

    /// Connects to another server if the Sentinels name another master.
    pub(in crate::auth) async fn follow_master(&self) {
        self.client.follow_master().await;
    }

    /// Replaces the connection.
    pub(in crate::auth) fn reconnect(&self) {
        self.client.reconnect();
    }

    /// Records in a trusted epoch that it has the effects of the log up to a position.
    pub(in crate::auth) async fn write_position(
        &self,
        position: i64,
        trusted: &str,
    ) -> Result<(), RedisClientError> {
        let key = self.client.key("ready", "position");
        let reply =
            self.client.run(self.write_position.key(key).arg(position).arg(trusted)).await?;
        parse_reply(reply).map(drop)
    }

    /// The position that a process has recorded in that epoch; `None` without a record.
    pub(in crate::auth) async fn read_position(
        &self,
        epoch: &str,
    ) -> Result<Option<i64>, RedisClientError> {
        let key = self.client.key("ready", "position");
        let record: String = self.client.run(&self.read_position.key(key)).await?;
        let position = record.split_once(' ').filter(|(of, _)| *of == epoch);
        Ok(position.and_then(|(_, position)| position.parse().ok()))
    }

    /// Whether a full Redis refuses writes (`maxmemory-policy noeviction`). Eviction would end sessions
    /// and lose the counts of failed log-ins.
    pub async fn is_noeviction(&self) -> Result<bool, RedisClientError> {
        let key = self.client.key("ready", "ready");
        self.client.run(&self.is_noeviction.key(key)).await
    }
}

/// A script that does nothing unless its last argument names the epoch of Redis.
pub(in crate::auth) fn fenced_script(script: &str) -> Script {
    Script::new(&[scripts::FENCE, script].concat())
}

/// The outcome and the values in the reply of a fenced script, or the error of its fence.
pub(in crate::auth) fn parse_reply(
    reply: Vec<Option<String>>,
) -> Result<(String, impl Iterator<Item = String>), RedisClientError> {
    let mut reply = reply.into_iter().map(Option::unwrap_or_default);
    let (epoch, outcome) = (reply.next().unwrap_or_default(), reply.next().unwrap_or_default());
    match outcome.as_str() {
        "replica" => Err(RedisClientError::Replica),
        "unknown" => Err(RedisClientError::UnknownEpoch(epoch)),
        _ => Ok((outcome, reply)),
    }
}
