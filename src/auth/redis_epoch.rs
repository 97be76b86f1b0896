//! The epoch of a Redis: its replication id. A master takes another one whenever it starts and whenever
//! it is promoted, so an epoch that a process trusts has everything that the process wrote to it.

use std::collections::BTreeSet;

use redis::Script;

use super::redis_client::{RedisClient, RedisClientError};
use super::scripts;

/// Any epoch, for writes that the reconciler applies again in every epoch that is trusted later.
pub const ANY_EPOCH: &str = "*";

/// Asks Redis for its epoch, and records progress in it.
pub struct RedisEpochs {
    client: RedisClient,
    known: Script,
    ready: Script,
    record_progress: Script,
    recorded_progress: Script,
    is_noeviction: Script,
}

impl RedisEpochs {
    #[must_use]
    pub fn new(client: RedisClient) -> Self {
        Self {
            client,
            known: fenced_script(scripts::KNOWN),
            ready: fenced_script(scripts::READY),
            record_progress: fenced_script(scripts::RECORD_PROGRESS),
            recorded_progress: Script::new(scripts::RECORDED_PROGRESS),
            is_noeviction: Script::new(scripts::IS_NOEVICTION),
        }
    }

    /// Whether Redis is in a trusted epoch and takes writes. Bypasses the circuit breaker.
    pub(super) async fn ready(&self, trusted: &str) -> Result<(), RedisClientError> {
        let key = self.client.key("ready", "ready");
        let reply = self.client.run_bypassing_breaker(self.ready.key(key).arg(trusted)).await?;
        parse_reply(reply).map(drop)
    }

    /// Whether Redis is in a trusted epoch. Bypasses the circuit breaker.
    pub(super) async fn known(&self, trusted: &str) -> Result<(), RedisClientError> {
        let key = self.client.key("ready", "ready");
        let reply = self.client.run_bypassing_breaker(self.known.key(key).arg(trusted)).await?;
        parse_reply(reply).map(drop)
    }

    /// The epochs of a cluster's masters, sorted; `None` for a single server.
    pub(super) async fn of_masters(&self) -> Result<Option<Vec<String>>, RedisClientError> {
        let epoch = |info: &String| {
            let id = info.lines().find_map(|line| line.strip_prefix("master_replid:"));
            id.map(|id| id.trim().to_owned())
        };
        let epochs = self.client.masters().await?.map(|infos| {
            infos.iter().filter_map(epoch).collect::<BTreeSet<_>>().into_iter().collect()
        });
        Ok(epochs)
    }

    /// Makes a new connection.
    pub(super) fn reconnect(&self) {
        self.client.reconnect();
    }

    /// Records in a trusted epoch that it has the effects of the log up to a position.
    pub(super) async fn record_progress(
        &self,
        position: i64,
        trusted: &str,
    ) -> Result<(), RedisClientError> {
        let key = self.client.key("ready", "told");
        let reply =
            self.client.run(self.record_progress.key(key).arg(position).arg(trusted)).await?;
        parse_reply(reply).map(drop)
    }

    /// The position that some process has recorded in that epoch; `None` without a record.
    pub(super) async fn recorded_progress(
        &self,
        epoch: &str,
    ) -> Result<Option<i64>, RedisClientError> {
        let key = self.client.key("ready", "told");
        let record: String = self.client.run(&self.recorded_progress.key(key)).await?;
        let position = record.split_once(' ').filter(|(of, _)| *of == epoch);
        Ok(position.and_then(|(_, position)| position.parse().ok()))
    }

    /// Whether a full Redis refuses writes (`maxmemory-policy noeviction`). One that evicts ends
    /// sessions and forgets failed log-ins.
    pub async fn is_noeviction(&self) -> Result<bool, RedisClientError> {
        let key = self.client.key("ready", "ready");
        self.client.run(&self.is_noeviction.key(key)).await
    }
}

/// A script that does its work only in the epochs that its last argument names.
pub(super) fn fenced_script(script: &str) -> Script {
    Script::new(&[scripts::FENCE, script].concat())
}

/// The word and the values that a fenced script answers, or the error that its fence answers.
pub(super) fn parse_reply(
    reply: Vec<Option<String>>,
) -> Result<(String, impl Iterator<Item = String>), RedisClientError> {
    let mut reply = reply.into_iter().map(Option::unwrap_or_default);
    let (epoch, word) = (reply.next().unwrap_or_default(), reply.next().unwrap_or_default());
    match word.as_str() {
        "replica" => Err(RedisClientError::Replica),
        "unknown" => Err(RedisClientError::UnknownEpoch(epoch)),
        _ => Ok((word, reply)),
    }
}
