//! Calls to one node, or to each master of a cluster.

use std::collections::HashMap;

use redis::cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo, SingleNodeRoutingInfo};
use redis::{Cmd, FromRedisValue, RedisError};

use super::client::{Connection, RedisClient, RedisClientError};

impl RedisClient {
    /// The answer of each master of the cluster to `INFO replication`, by its address (`host:port`); `None` for
    /// a single server.
    pub(super) async fn masters(
        &self,
    ) -> Result<Option<HashMap<String, String>>, RedisClientError> {
        let mut info = redis::cmd("INFO");
        info.arg("replication");
        self.ask_masters(info).await
    }

    /// Sends a command to the node with this address, else to the single server or to the nodes of the
    /// command's keys. The caller limits the time.
    pub(super) async fn ask<T: FromRedisValue>(
        &self,
        node: Option<&str>,
        command: Cmd,
    ) -> Result<T, RedisClientError> {
        let mut cluster = match self.connection().await? {
            Connection::One(mut one) => return Ok(command.query_async(&mut one).await?),
            Connection::Cluster(cluster) => cluster,
        };
        let address = node.and_then(|node| {
            let (host, port) = node.rsplit_once(':')?;
            Some((host.to_owned(), port.parse().ok()?))
        });
        let Some((host, port)) = address else {
            return Ok(command.query_async(&mut cluster).await?);
        };
        let node = RoutingInfo::SingleNode(SingleNodeRoutingInfo::ByAddress { host, port });
        let reply = cluster.route_command(command, node).await?.extract_error()?;
        Ok(redis::from_redis_value(reply).map_err(RedisError::from)?)
    }

    /// Tries the command with which `customers redis empty` looks for keys, on each master.
    pub(super) async fn try_scan(&self) -> Result<(), RedisClientError> {
        let scan = scan(&self.scan_pattern(), 0, 1);
        if self.is_cluster() {
            return self.ask_masters::<redis::Value>(scan).await.map(drop);
        }
        self.limited(self.ask::<redis::Value>(None, scan)).await.map(drop)
    }

    /// Sends each master of the cluster what comes before a call to a slot that moves. It has no effect on a
    /// call to another slot.
    pub(super) async fn try_asking(&self) -> Result<(), RedisClientError> {
        self.ask_masters::<redis::Value>(redis::cmd("ASKING")).await.map(drop)
    }

    /// The answers of the masters of the cluster, by address; `None` for a single server.
    async fn ask_masters<T: FromRedisValue>(
        &self,
        command: Cmd,
    ) -> Result<Option<HashMap<String, T>>, RedisClientError> {
        if !self.is_cluster() {
            return Ok(None);
        }
        let asking = async {
            let Connection::Cluster(mut cluster) = self.connection().await? else {
                return Ok(None);
            };
            let all = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
            let reply = cluster.route_command(command, all).await?.extract_error()?;
            Ok(Some(redis::from_redis_value(reply).map_err(RedisError::from)?))
        };
        self.limited(asking).await
    }
}

/// Looks for keys; `count` is how many the server looks at for one answer.
pub(super) fn scan(pattern: &str, cursor: u64, count: u32) -> Cmd {
    let mut scan = redis::cmd("SCAN");
    scan.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(count);
    scan
}
