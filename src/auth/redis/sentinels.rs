//! Asks the Sentinels for the master: all of them at once, because one that was cut off from the others may
//! still name the old master. The newest answer (`config-epoch`) counts, and one that is older than an answer
//! of before does not.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use redis::{AsyncConnectionConfig, RedisError};
use tokio::time::Instant;

use super::server::RedisServer;
use crate::clock;
use crate::config::redis_url::Host;

/// How long one Sentinel may take to answer.
const SENTINEL_LIMIT: Duration = Duration::from_millis(200);

/// How long the other Sentinels may take after most of them have answered.
const OTHERS_LIMIT: Duration = Duration::from_millis(50);

/// How long most of the Sentinels must name an older epoch, and none the known one, until they are believed:
/// they were set up anew, and count from 0 again. After a failover they tell each other within seconds.
const SET_UP_ANEW: Duration = Duration::from_secs(10);

/// The master that the service follows.
#[derive(Clone)]
pub(super) struct Master {
    pub host: Host,
    /// The configuration epoch: each failover has a higher one.
    epoch: u64,
    /// When a Sentinel last named this epoch.
    named_at: Instant,
}

/// What the Sentinels say with the newest epoch.
pub(super) struct Named {
    epoch: u64,
    /// In the order of the answers. More than one if Sentinels spell the address differently.
    hosts: Vec<Host>,
    /// Whether most of the Sentinels have answered.
    by_most: bool,
}

impl Master {
    /// The master to follow after these answers; the known one stays unless they are newer.
    pub(super) fn next(known: Option<&Self>, named: Named, now: Instant) -> Self {
        let Named { epoch, mut hosts, by_most } = named;
        if let Some(known) = known
            && epoch < known.epoch
        {
            if !by_most || now - known.named_at < SET_UP_ANEW {
                tracing::debug!(epoch, known = known.epoch, "redis: an older master is ignored");
                return known.clone();
            }
            tracing::warn!(epoch, known = known.epoch, "redis: the Sentinels were set up anew");
        }
        let known = known.map(|known| &known.host).filter(|host| hosts.contains(host));
        let host = known.cloned().unwrap_or_else(|| hosts.swap_remove(0));
        Self { host, epoch, named_at: now }
    }
}

/// The master that the Sentinels name. The error is that of the last one if none names it.
pub(super) async fn find_master(
    server: &RedisServer,
    sentinels: &[Host],
    name: &str,
) -> Result<Named, String> {
    let mut asking: FuturesUnordered<_> =
        sentinels.iter().map(|sentinel| ask(server, sentinel, name)).collect();
    let (mut answers, mut failure) = (vec![], "there is none".to_owned());
    loop {
        let by_most = answers.len() * 2 > sentinels.len();
        let limit = if by_most { OTHERS_LIMIT } else { SENTINEL_LIMIT * 2 };
        match clock::within(limit, asking.next()).await.flatten() {
            Some(Ok(answer)) => answers.push(answer),
            Some(Err(error)) => failure = error,
            None => break,
        }
    }
    let by_most = answers.len() * 2 > sentinels.len();
    let Some(epoch) = answers.iter().map(|(epoch, _)| *epoch).max() else {
        return Err(format!("no Sentinel names the master {name}: {failure}"));
    };
    let newest = answers.into_iter().filter(|(of, _)| *of == epoch);
    Ok(Named { epoch, hosts: newest.map(|(_, host)| host).collect(), by_most })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> Host {
        Host { name: name.to_owned(), port: 6379 }
    }

    fn named(epoch: u64, hosts: &[&str], by_most: bool) -> Named {
        Named { epoch, hosts: hosts.iter().map(|name| host(name)).collect(), by_most }
    }

    #[test]
    fn the_newest_epoch_is_followed_and_an_older_one_only_if_it_stays() {
        let began = Instant::now();
        let mut known: Option<Master> = None;
        for (after, answer, expected) in [
            (0, named(0, &["a"], false), "a"),
            (1, named(3, &["b"], false), "b"),
            (2, named(2, &["a"], true), "b"),
            (3, named(3, &["b"], false), "b"),
            // The same master by two names.
            (4, named(3, &["b.example", "b"], true), "b"),
            (5, named(3, &["b.example"], true), "b.example"),
            // One alone is never believed, however long.
            (60, named(2, &["a"], false), "b.example"),
            (61, named(3, &["b.example"], true), "b.example"),
            (62, named(0, &["c"], true), "b.example"),
            (70, named(0, &["c"], true), "b.example"),
            (71, named(0, &["c"], true), "c"),
            (72, named(1, &["d"], false), "d"),
        ] {
            let next = Master::next(known.as_ref(), answer, began + Duration::from_secs(after));
            assert_eq!(next.host, host(expected), "after {after} s");
            known = Some(next);
        }
    }
}
