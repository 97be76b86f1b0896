//! Asks the Sentinels for the master: all of them at once, because one that was cut off from the others may
//! still name the old master. The newest answer (`config-epoch`) counts.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use redis::{AsyncConnectionConfig, RedisError};

use super::server::RedisServer;
use crate::clock;
use crate::config::redis_url::Host;

/// How long one Sentinel may take to answer.
const SENTINEL_LIMIT: Duration = Duration::from_millis(200);

/// How long the other Sentinels may take after the first answer.
const OTHERS_LIMIT: Duration = Duration::from_millis(50);

/// The master that the Sentinels name. The error is that of the last one if none names it.
pub(super) async fn find_master(
    server: &RedisServer,
    sentinels: &[Host],
    name: &str,
) -> Result<Host, String> {
    let mut asking: FuturesUnordered<_> =
        sentinels.iter().map(|sentinel| ask(server, sentinel, name)).collect();
    let (mut newest, mut failure) = (None, "there is none".to_owned());
    loop {
        let limit = if newest.is_some() { OTHERS_LIMIT } else { SENTINEL_LIMIT * 2 };
        match clock::within(limit, asking.next()).await.flatten() {
            Some(Ok((epoch, master))) => {
                let is_newer = newest.as_ref().is_none_or(|(known, _)| *known < epoch);
                newest = if is_newer { Some((epoch, master)) } else { newest };
            }
            Some(Err(error)) => failure = error,
            None => break,
        }
    }
    let failed = || format!("no Sentinel names the master {name}: {failure}");
    newest.map(|(_, master)| master).ok_or_else(failed)
}

/// The configuration epoch and the master that a Sentinel knows.
async fn ask(server: &RedisServer, sentinel: &Host, name: &str) -> Result<(u64, Host), String> {
    let at = format!("{}:{}", sentinel.name, sentinel.port);
    let asking = async {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(SENTINEL_LIMIT))
            .set_response_timeout(Some(SENTINEL_LIMIT));
        let client = server.sentinel_client(sentinel)?;
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        let mut command = redis::cmd("SENTINEL");
        command.arg("MASTER").arg(name).query_async(&mut connection).await
    };
    let answer: Result<HashMap<String, String>, RedisError> =
        clock::within(SENTINEL_LIMIT, asking).await.ok_or(format!("{at} does not answer"))?;
    let fields = answer.map_err(|error| format!("{at}: {error}"))?;
    let field = |name: &str| fields.get(name).cloned().unwrap_or_default();
    let port = field("port").parse().map_err(|_| format!("{at} names no port"))?;
    Ok((field("config-epoch").parse().unwrap_or(0), Host { name: field("ip"), port }))
}
