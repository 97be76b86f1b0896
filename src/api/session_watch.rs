//! Watches the session of a request that is at work for longer than a moment: a stream, an import, a long
//! list. Whatever ends the session ends its work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::error::ApiError;
use super::state::Api;
use crate::auth::Principal;
use crate::events::values::Role;

/// How long the work goes on while Redis does not answer.
const UNCHECKED_MAX: Duration = Duration::from_secs(15);

/// The watch, for as long as it is held.
pub(super) struct SessionWatch {
    api: Api,
    ended: CancellationToken,
    /// The session was not found to have ended, but could not be checked for too long.
    is_unchecked: Arc<AtomicBool>,
    _watching: AbortOnDropHandle<Option<()>>,
}

impl SessionWatch {
    /// Checks every `interval` that the session is open and its role covers `role`.
    pub(super) fn start(api: &Api, principal: Principal, role: Role, interval: Duration) -> Self {
        let (ended, is_unchecked) = (CancellationToken::new(), Arc::new(AtomicBool::new(false)));
        let (token, watched, unchecked) = (ended.clone(), api.clone(), Arc::clone(&is_unchecked));
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
                        let is_recent = checked_at.elapsed() < UNCHECKED_MAX;
                        unchecked.store(!is_recent, Ordering::Relaxed);
                        is_recent
                    }
                };
                if !is_open {
                    return token.cancel();
                }
            }
        };
        let watching = AbortOnDropHandle::new(api.tasks.spawn_until_shutdown(watching));
        Self { api: api.clone(), ended, is_unchecked, _watching: watching }
    }

    /// Cancelled when the session has ended.
    pub(super) fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// Why the work has to end.
    pub(super) fn error(&self) -> ApiError {
        if self.api.stopping.is_cancelled() {
            ApiError::Unavailable("the process is stopping".to_owned())
        } else if self.is_unchecked.load(Ordering::Relaxed) {
            ApiError::Unavailable("the session cannot be checked".to_owned())
        } else {
            ApiError::Unauthenticated
        }
    }
}
