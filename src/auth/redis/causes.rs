//! Why calls to Redis fail: each cause once in the log, with what to do about it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::{AsyncConnectionConfig, RedisError, Value};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::server::RedisServer;
use crate::config::redis_url::{Host, Topology};

/// How long the same cause is not logged again.
const SILENCE: Duration = Duration::from_mins(1);

/// How often Redis is asked why it refuses.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// How long the search for a cause may take. No request waits for it.
pub(super) const DIAGNOSIS_LIMIT: Duration = Duration::from_secs(2);

/// How long a server has to complain about a new client before the client says anything.
const GREETING_LIMIT: Duration = Duration::from_millis(50);

const CLOSED_AFTER_HANDSHAKE: &str = "Redis closed the connection after the TLS handshake";

/// How many causes are remembered; one that contains an address or an id may vary.
const REMEMBERED: usize = 32;

/// The causes that were logged, and whether Redis answers.
#[derive(Default)]
pub(super) struct Causes {
    is_failing: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    logged: HashMap<String, Instant>,
    asked: Option<Instant>,
    /// Since when Redis has not answered well.
    since: Option<Instant>,
}

impl Causes {
    /// Records a failure; whether its cause must be logged.
    pub(super) fn failed(&self, cause: &str) -> bool {
        self.is_failing.store(true, Ordering::Relaxed);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.since.get_or_insert_with(Instant::now);
        state.logged.retain(|_, at| at.elapsed() < SILENCE);
        if state.logged.contains_key(cause) || state.logged.len() >= REMEMBERED {
            return false;
        }
        state.logged.insert(cause.to_owned(), Instant::now());
        true
    }

    /// Whether Redis may be asked for the cause of a failure: once per second.
    pub(super) fn may_ask(&self) -> bool {
        self.is_failing.store(true, Ordering::Relaxed);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.since.get_or_insert_with(Instant::now);
        let may_ask = state.asked.is_none_or(|at| at.elapsed() >= ASK_EVERY);
        if may_ask {
            state.asked = Some(Instant::now());
        }
        may_ask
    }

    /// Records an answer. If it is the first one after failures that were logged: how long there was none.
    pub(super) fn answered(&self) -> Option<Duration> {
        if !self.is_failing.load(Ordering::Relaxed)
            || !self.is_failing.swap(false, Ordering::Relaxed)
        {
            return None;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.since.take().map(|since| since.elapsed())
    }
}

/// Connects as a new client does, step by step, and fails with what Redis says.
pub(super) async fn diagnose(server: &RedisServer, host: &Host) -> Result<(), RedisError> {
    if !server.url.is_tls {
        // Over maxclients and in protected mode a Redis complains and closes the connection at once.
        let mut stream = TcpStream::connect((host.name.as_str(), host.port)).await?;
        let mut greeting = [0; 512];
        let reading = tokio::time::timeout(GREETING_LIMIT, stream.read(&mut greeting)).await;
        if let Ok(Ok(length @ 1..)) = reading {
            let text = String::from_utf8_lossy(&greeting[..length]).trim().to_owned();
            return Err(std::io::Error::other(text).into());
        }
    }
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(DIAGNOSIS_LIMIT));
    let client = server.anonymous_client(host)?;
    // With TLS 1.3 a server refuses the client's certificate after the handshake.
    let explained = |error: RedisError| {
        if error.is_connection_dropped() && server.url.is_tls {
            std::io::Error::other(CLOSED_AFTER_HANDSHAKE).into()
        } else {
            error
        }
    };
    let connecting = client.get_multiplexed_async_connection_with_config(&config);
    let mut connection = connecting.await.map_err(explained)?;
    if server.url.is_tls {
        let answer = redis::cmd("PING").query_async::<()>(&mut connection).await;
        // An error reply of Redis has a code, and means that the connection stands.
        if let Err(error) = answer
            && error.code().is_none()
        {
            return Err(explained(error));
        }
    }
    let words = server.auth_words();
    if !words.is_empty() {
        redis::cmd("AUTH").arg(words).query_async::<()>(&mut connection).await?;
    }
    if matches!(server.url.topology, Topology::Cluster(_)) {
        redis::cmd("PING").query_async::<()>(&mut connection).await?;
        redis::cmd("CLUSTER").arg("SLOTS").query_async::<Value>(&mut connection).await?;
    }
    Ok(())
}

const CLIENT_CERTIFICATE: &str = "Redis wants a certificate of an authority that it knows: check \
                                  CUSTOMERS_REDIS_CERT and CUSTOMERS_REDIS_KEY";

/// What to do about a failure, by what Redis, the TLS library or the system says.
const ADVICE: [(&str, &str); 22] = [
    (
        "no Sentinel names",
        "check the Sentinels and the name of the master in REDIS_URL, and \
         CUSTOMERS_REDIS_SENTINEL_USER and CUSTOMERS_REDIS_SENTINEL_PASSWORD",
    ),
    ("WRONGPASS", "check user and password in REDIS_URL, and that the user is on (ACL LIST)"),
    ("AUTH failed", "check user and password in REDIS_URL"),
    ("without any password configured", "remove the password from REDIS_URL"),
    ("NOAUTH", "give user and password in REDIS_URL"),
    ("Authentication required", "give user and password in REDIS_URL"),
    ("max number of clients", "raise maxclients, or close connections of other clients"),
    ("protected mode", "set a password in Redis and in REDIS_URL"),
    ("unknown to this server", "remove rename-command from redis.conf"),
    ("The user executing the script can't", "`customers doctor` names the permission"),
    ("no permissions to", "grant it: docs/operations.md, Redis, has the ACL SETUSER line"),
    ("lacks", "grant them: docs/operations.md, Redis, has the ACL SETUSER line"),
    ("UnknownIssuer", "CUSTOMERS_REDIS_CA must name the authority that signed Redis's certificate"),
    ("BadSignature", "CUSTOMERS_REDIS_CA must name the authority that signed Redis's certificate"),
    ("xpired", "renew the certificate of Redis"),
    ("not valid for name", "REDIS_URL must name a host that the certificate of Redis names"),
    (
        "no answer within",
        "check that Redis runs, and REDIS_URL: the port must be one that speaks TLS (tls-port) exactly \
         if it begins with rediss",
    ),
    ("corrupt message", "Redis does not speak TLS on this port: use redis://, or its tls-port"),
    ("received fatal alert", CLIENT_CERTIFICATE),
    (CLOSED_AFTER_HANDSHAKE, CLIENT_CERTIFICATE),
    ("DB index is out of range", "Redis has fewer databases than REDIS_URL names"),
    (
        "cluster support disabled",
        "REDIS_URL names several nodes, but Redis is no cluster: name one",
    ),
];

/// What to do about a failure with this text.
pub(super) fn advice(failure: &str) -> &'static str {
    let found = ADVICE.iter().find(|(text, _)| failure.contains(text));
    found.map_or("check that Redis runs, and REDIS_URL", |(_, advice)| advice)
}
