//! What the user of Redis must be allowed, and what of it is missing: a user of Redis (ACL) whose permissions
//! lack one command would otherwise open sessions that no request can use.

use redis::{RedisError, Script};

use super::client::{RedisClient, RedisClientError};
use super::scripts;

/// The commands that the service sends. [`IN_SCRIPTS`] are those within its scripts.
const SENT: [&str; 2] = ["evalsha", "script|load"];

/// What a Redis Cluster is sent besides: `asking` while a slot moves from one node to another.
const IN_A_CLUSTER: [&str; 3] = ["asking", "cluster|slots", "ping"];

/// What `customers redis empty` sends, and the service does not.
const FOR_THE_OPERATOR: &str = "scan";

/// What is sent on each new connection if the URL names another database than 0.
const IN_ANOTHER_DATABASE: &str = "select";

/// The commands within the scripts.
const IN_SCRIPTS: [&str; 19] = [
    "del",
    "exists",
    "expire",
    "get",
    "hdel",
    "hget",
    "hmget",
    "hset",
    "incr",
    "info",
    "set",
    "time",
    "ttl",
    "zadd",
    "zcard",
    "zrange",
    "zrangebyscore",
    "zrem",
    "zremrangebyscore",
];

/// The rules of `ACL SETUSER` for a user that may do what the program needs and nothing else.
#[must_use]
pub fn acl_rules(prefix: &str, database: i64) -> String {
    let select = (database != 0).then_some(&IN_ANOTHER_DATABASE);
    let commands = SENT.iter().chain(&IN_A_CLUSTER).chain([&FOR_THE_OPERATOR]);
    let commands = commands.chain(&IN_SCRIPTS).chain(select);
    let commands: Vec<_> = commands.map(|command| format!("+{command}")).collect();
    format!("resetkeys ~{prefix}:* resetchannels -@all {}", commands.join(" "))
}

/// Finds the permissions that are missing.
#[derive(Clone)]
pub(in crate::auth) struct RedisPermissions {
    client: RedisClient,
    missing: Script,
}

impl RedisPermissions {
    pub(in crate::auth) fn new(client: RedisClient) -> Self {
        Self { client, missing: Script::new(scripts::MISSING_PERMISSIONS) }
    }

    /// Fails with [`RedisClientError::Forbidden`] unless the server of this tag lets the user do all that
    /// the service needs. Fails at once while the circuit is open.
    pub(in crate::auth) async fn check(&self, tag: &str) -> Result<(), RedisClientError> {
        self.check_with(tag, false).await
    }

    /// The same, even while the circuit is open.
    pub(in crate::auth) async fn check_bypassing_breaker(
        &self,
        tag: &str,
    ) -> Result<(), RedisClientError> {
        self.check_with(tag, true).await
    }

    async fn check_with(&self, tag: &str, bypasses: bool) -> Result<(), RedisClientError> {
        let mut script = self.missing.prepare_invoke();
        for kind in ["text", "hash", "sorted"] {
            script.key(self.client.key(tag, &format!("permissions:{kind}")));
        }
        let answer: Result<Vec<String>, _> = if bypasses {
            self.client.run_bypassing_breaker(&script).await
        } else {
            self.client.run(&script).await
        };
        let missing = match answer {
            Err(RedisClientError::Redis(error)) => vec![self.missing_outside(error)?],
            answer => self.describe(&answer?),
        };
        forbid(&missing)
    }

    /// Fails with [`RedisClientError::Forbidden`] unless the user may load scripts, follow a slot of a cluster
    /// to another node, and look for keys. [`Self::check`] sees none of these: its script may be loaded, no
    /// slot may move, and the service itself looks for no keys.
    pub(in crate::auth) async fn check_outside_scripts(&self) -> Result<(), RedisClientError> {
        let mut missing = vec![];
        for answer in [
            self.client.load(&self.missing).await,
            self.client.try_asking().await,
            self.client.try_scan().await,
        ] {
            match answer {
                Err(RedisClientError::Redis(error)) => missing.push(self.missing_outside(error)?),
                answer => answer?,
            }
        }
        forbid(&missing)
    }

    /// The rule that is missing if a command was refused before the script ran; another error otherwise.
    fn missing_outside(&self, error: RedisError) -> Result<String, RedisError> {
        let text = error.to_string();
        if text.contains("keys used as arguments") || text.contains("permissions to access a key") {
            return Ok(self.keys_rule());
        }
        match text.split_once("permissions to run the '") {
            Some((_, rest)) => Ok(format!("+{}", rest.split('\'').next().unwrap_or_default())),
            None => Err(error),
        }
    }

    fn keys_rule(&self) -> String {
        format!("~{}", self.client.key_pattern())
    }

    /// The rules that are missing, for pairs of command and reason.
    fn describe(&self, pairs: &[String]) -> Vec<String> {
        let mut described: Vec<String> = vec![];
        for pair in pairs.chunks_exact(2) {
            let command = pair[0].to_lowercase();
            let rule = match pair[1].as_str() {
                "keys" => self.keys_rule(),
                "unknown" => format!("{command} (unknown to this server: renamed or disabled)"),
                _ => format!("+{command}"),
            };
            if !described.contains(&rule) {
                described.push(rule);
            }
        }
        described
    }
}

/// Fails with these rules unless there are none.
fn forbid(missing: &[String]) -> Result<(), RedisClientError> {
    if missing.is_empty() { Ok(()) } else { Err(RedisClientError::Forbidden(missing.join(" "))) }
}

/// Whether Redis refused something for lack of a permission.
pub(in crate::auth) fn is_forbidden(error: &RedisError) -> bool {
    let text = error.to_string();
    text.contains("NOPERM")
        || text.contains("NoPerm")
        || text.contains("permissions to ")
        || text.contains("The user executing the script can't")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_of_a_script_is_tried_and_in_the_rules() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/auth/redis/scripts");
        let mut used = std::collections::BTreeSet::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
            for call in text.split("redis.call(").skip(1) {
                used.insert(call.trim_start().split('\'').nth(1).unwrap().to_lowercase());
            }
        }
        let tried = scripts::MISSING_PERMISSIONS.split("\ntry('").skip(1);
        let tried = tried.map(|call| call.split('\'').next().unwrap().to_lowercase()).collect();
        assert_eq!(used, tried);
        assert_eq!(used, IN_SCRIPTS.map(str::to_owned).into());
    }
}
