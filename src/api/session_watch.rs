//! Watches the session of a request that is at work for longer than a moment: a stream, an import, a long
//! list. Whatever ends the session ends its work.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::state::Api;
use crate::auth::Principal;
use crate::events::values::Role;

/// How long the work goes on while Redis does not answer.
const UNCHECKED_MAX: Duration = Duration::from_secs(15);

/// The watch, for as long as it is held.
pub(super) struct SessionWatch {
    ended: CancellationToken,
    _watching: AbortOnDropHandle<Option<()>>,
}

impl SessionWatch {
    /// Checks every `interval` that the session is open and its role covers `role`.
    pub(super) fn start(api: &Api, principal: Principal, role: Role, interval: Duration) -> Self {
        let ended = api.stopping.child_token();
        let (token, watched) = (ended.clone(), api.clone());
        let watching = async move {
            let mut checked_at = Instant::now();
            loop {
                tokio::time::sleep(interval).await;
                let is_open = match watched.auth.role_of(&principal).await {
                    Ok(current) => {
                        checked_at = Instant::now();
                        current.is_some_and(|current| current.covers(role))
                    }
                    Err(error) => {
                        tracing::warn!(%error, "session watch: check failed, retrying");
                        checked_at.elapsed() < UNCHECKED_MAX
                    }
                };
                if !is_open {
                    return token.cancel();
                }
            }
        };
        let watching = AbortOnDropHandle::new(api.tasks.spawn_until_shutdown(watching));
        Self { ended, _watching: watching }
    }

    /// Cancelled when the session has ended, or the process stops.
    pub(super) fn ended(&self) -> &CancellationToken {
        &self.ended
    }
}
