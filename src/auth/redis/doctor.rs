//! What `customers doctor` checks in Redis: that the service can use it, and that it keeps sessions.

use super::causes::advice;
use super::client::{RedisClient, RedisClientError, is_vague};
use super::epoch::RedisEpochs;
use super::permissions::{RedisPermissions, acl_rules};
use crate::check::Check;
use crate::config::{Config, ConfigError};
use crate::tasks::Tasks;

/// In a cluster each node has users of its own. With so many tags each of a few masters has one.
const TAGS_IN_A_CLUSTER: usize = 64;

/// The first check.
pub const ANSWERS: &str = "Redis answers and takes writes";

/// Makes all checks that are possible; the later ones are left out if Redis does not answer.
pub async fn inspect(config: &Config) -> Result<Vec<Check>, ConfigError> {
    let client = RedisClient::new(config, &Tasks::default())?;
    let permissions = RedisPermissions::new(client.clone());
    let tags = if client.is_cluster() { TAGS_IN_A_CLUSTER } else { 1 };
    let (mut failure, mut lacking) = (None, vec![]);
    if client.is_cluster()
        && let Some(cause) = client.diagnose().await
    {
        failure = Some(format!("{cause}: {}", advice(&cause)));
    }
    for tag in 0..=tags {
        if failure.is_some() {
            break;
        }
        let checked = match tag {
            0 => permissions.check_loading().await,
            tag => permissions.check_bypassing_breaker(&format!("ready{tag}")).await,
        };
        match checked {
            Ok(()) => {}
            Err(RedisClientError::Forbidden(missing)) => {
                lacking.push(missing);
            }
            Err(error) => {
                let hidden = if is_vague(&error) { client.diagnose().await } else { None };
                let cause = hidden.unwrap_or_else(|| error.to_string());
                failure = Some(format!("{cause}: {}", advice(&cause)));
            }
        }
    }
    let is_reached = failure.is_none();
    let mut checks = vec![Check::new(ANSWERS, failure)];
    if !is_reached {
        return Ok(checks);
    }
    lacking.sort();
    lacking.dedup();
    let rules = acl_rules(&config.redis_prefix);
    let advice = format!("missing: {}; grant: ACL SETUSER <user> {rules}", lacking.join(" "));
    let advice = (!lacking.is_empty()).then_some(advice);
    checks.push(Check::new("the user of Redis has the permissions it needs", advice));
    let advice = match RedisEpochs::new(client).is_noeviction().await {
        Ok(true) => None,
        Ok(false) => Some("set maxmemory-policy to noeviction".to_owned()),
        Err(error) => Some(format!("cannot read maxmemory-policy: {error}")),
    };
    checks.push(Check::new("Redis keeps sessions when it is full", advice));
    Ok(checks)
}
