//! The reconciler: keeps Redis consistent with the log. An event that ends or binds a session is in the
//! log before the client is answered. Each process follows those events and applies their effects to
//! Redis again, so that Redis gets the effects that it missed while it was unreachable. When Redis is in
//! a new epoch (it was restarted, perhaps from an older dump, or a replica that lagged was promoted), no
//! token is accepted until the events of the longest token lifetime are applied again: only then the
//! epoch is trusted.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::sync::Mutex;

use super::account::Accounts;
use super::error::AuthError;
use super::redis::client::RedisClientError;
use super::redis::epoch::RedisEpochs;
use super::redis::permissions::{RedisPermissions, is_forbidden};
use super::revocation::{Revocation, revoke, revoke_key};
use super::session::Sessions;
use super::token::{LEEWAY_SECONDS, LIFETIME_MAX_SECONDS};
use crate::clock;
use crate::events::account::{AccountEvent, CloseCause};
use crate::events::log::{StoredEvent, read};
use crate::events::metadata::Metadata;
use crate::events::values::Username;
use crate::tasks::Tasks;

/// How often the log is read. The process that ends a session also applies that to Redis itself; the
/// reconciler does it again in case that failed.
const INTERVAL: Duration = Duration::from_secs(1);

/// The pause after a failure.
const RETRY: Duration = Duration::from_millis(250);

/// After how many consecutive failures the connection to Redis is replaced, even if Redis answers: the
/// address may resolve to another server by now.
const FAILURES_BEFORE_RECONNECT: u32 = 8;

/// How long a request waits for an answer in a trusted epoch.
const ANSWER_LIMIT: Duration = Duration::from_millis(450);

/// How far back events matter: sessions expire in Redis after that.
const RELEVANT_SECONDS: i64 = LIFETIME_MAX_SECONDS + 2 * LEEWAY_SECONDS;

/// How many events are read at a time, and how many are applied to Redis at once.
const PAGE: i64 = 1000;
const CONCURRENCY: usize = 32;

/// Applies the log to Redis, and holds the trusted epochs of this process.
pub(super) struct Reconciler {
    sessions: Sessions,
    epochs: RedisEpochs,
    permissions: RedisPermissions,
    accounts: Accounts,
    tasks: Tasks,
    /// The epochs that have the effects of the log, separated by commas: one, or those of the masters of
    /// a cluster. An earlier epoch that comes back has missed events and is caught up again.
    trusted: RwLock<Arc<str>>,
    /// Held while events are applied.
    progress: Mutex<Progress>,
    /// Held while an epoch catches up.
    catching_up: Arc<Mutex<()>>,
}

/// How far the effects of the log are applied.
#[derive(Default)]
struct Progress {
    /// The position up to which they are applied in the trusted epochs.
    position: i64,
    /// The position that is recorded in Redis.
    recorded: i64,
    /// Epochs that catch up, and the position that they have reached.
    pending: Option<(String, i64)>,
}

impl Reconciler {
    pub(super) fn new(
        sessions: Sessions,
        epochs: RedisEpochs,
        accounts: Accounts,
        permissions: RedisPermissions,
        tasks: Tasks,
    ) -> Self {
        Self {
            sessions,
            epochs,
            permissions,
            accounts,
            tasks,
            trusted: RwLock::default(),
            progress: Mutex::default(),
            catching_up: Arc::default(),
        }
    }

    pub(super) fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    fn trusted(&self) -> Arc<str> {
        Arc::clone(&self.trusted.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn trust(&self, epochs: &str) {
        *self.trusted.write().unwrap_or_else(PoisonError::into_inner) = epochs.into();
    }

    /// Makes a call, with the trusted epochs as its argument. In another epoch the call does nothing, and
    /// is repeated once after that epoch is trusted.
    pub(super) async fn with_trust<T, F>(
        self: &Arc<Self>,
        call: impl Fn(Arc<str>) -> F,
    ) -> Result<T, AuthError>
    where
        F: Future<Output = Result<T, RedisClientError>>,
    {
        let calling = async {
            let epoch = match call(self.trusted()).await {
                Err(RedisClientError::UnknownEpoch(epoch)) => epoch,
                answer => return Ok(answer?),
            };
            self.wait_until_trusted(epoch).await?;
            match call(self.trusted()).await {
                Err(RedisClientError::UnknownEpoch(_)) => Err(AuthError::CatchingUp),
                answer => Ok(answer?),
            }
        };
        clock::within(ANSWER_LIMIT, calling).await.unwrap_or(Err(AuthError::CatchingUp))
    }

    /// Waits until the epoch is trusted. One task at a time catches up, and continues even if its caller
    /// is dropped.
    async fn wait_until_trusted(self: &Arc<Self>, epoch: String) -> Result<(), AuthError> {
        let guard = Arc::clone(&self.catching_up).lock_owned().await;
        let reconciler = Arc::clone(self);
        let catching_up = async move {
            let _guard = guard;
            reconciler.catch_up(epoch).await
        };
        self.tasks.spawn_until_shutdown(catching_up).await?.unwrap_or(Err(AuthError::CatchingUp))
    }

    /// Fails unless Redis is in a trusted epoch and accepts writes.
    pub(super) async fn ready(self: &Arc<Self>) -> Result<(), AuthError> {
        let epochs = &self.epochs;
        self.with_trust(|trusted: Arc<str>| async move { epochs.ready(&trusted).await }).await
    }

    /// Applies the events of the longest token lifetime to the epoch, and trusts it.
    async fn catch_up(&self, epoch: String) -> Result<(), AuthError> {
        let mut progress = self.progress.lock().await;
        let trusted = self.trusted();
        if trusted.contains(&epoch) {
            return Ok(());
        }
        // The epochs that answer now; a master that was replaced is not among them.
        let current = self.epochs.of_masters().await?.unwrap_or_else(|| vec![epoch.clone()]);
        if !current.contains(&epoch) {
            return Err(AuthError::CatchingUp);
        }
        let epochs = current.join(",");
        let mut position = match &progress.pending {
            Some((pending, position)) if *pending == epochs => *position,
            _ => {
                let mut start = i64::MAX;
                for new in current.iter().filter(|epoch| !trusted.contains(epoch.as_str())) {
                    start = start.min(self.start_position(new, progress.position).await?);
                }
                start
            }
        };
        let start = position;
        let applied = self.apply_events(&mut position, &epochs).await;
        progress.pending = Some((epochs.clone(), position));
        applied?;
        // No await in between: position and trusted epochs change together, because the earlier epochs
        // lack the effects that were applied here.
        progress.position = position.max(progress.position);
        progress.recorded = 0;
        progress.pending = None;
        self.trust(&epochs);
        tracing::info!(epochs, start, position, "reconciler: Redis caught up with the log");
        if let Ok(false) = self.epochs.is_noeviction().await {
            tracing::warn!("redis: maxmemory-policy is not noeviction, a full Redis ends sessions");
        }
        Ok(())
    }

    /// The position after which an epoch may lack effects.
    async fn start_position(&self, epoch: &str, applied: i64) -> Result<i64, AuthError> {
        Ok(match self.epochs.read_position(epoch).await? {
            // Effects that this process has not applied on other nodes must not be skipped either.
            Some(position) if applied > 0 => position.min(applied),
            Some(position) => position,
            None => read::position_before(self.accounts.pool(), RELEVANT_SECONDS).await?,
        })
    }

    /// Reconciles periodically; never returns.
    pub(super) async fn follow(self: Arc<Self>) {
        let mut failures = 0_u32;
        loop {
            let reconciled = self.reconcile().await;
            let pause = if reconciled.is_ok() { INTERVAL } else { RETRY };
            match reconciled {
                Ok(()) => failures = 0,
                Err(error) => {
                    if failures == 0 {
                        tracing::warn!(%error, "reconciler: applying the log failed, retrying");
                    }
                    failures = failures.saturating_add(1);
                    let is_redis = matches!(error, AuthError::Redis(_));
                    if is_redis && failures.is_multiple_of(FAILURES_BEFORE_RECONNECT) {
                        self.epochs.reconnect();
                    }
                }
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Applies the new events of the log in the trusted epochs that answer.
    async fn reconcile(self: &Arc<Self>) -> Result<(), AuthError> {
        self.epochs.follow_master().await;
        let checked = self.check_epochs().await;
        if let Err(AuthError::Redis(RedisClientError::Replica)) = checked {
            self.epochs.reconnect();
        }
        let applied = match self.apply_new_events().await {
            Err(AuthError::Redis(RedisClientError::UnknownEpoch(epoch))) => {
                self.wait_until_trusted(epoch).await
            }
            applied => applied,
        };
        match checked.and(applied) {
            // Names what is missing.
            Err(AuthError::Redis(RedisClientError::Redis(error))) if is_forbidden(&error) => {
                self.permissions.check("ready").await?;
                Err(RedisClientError::Redis(error).into())
            }
            reconciled => reconciled,
        }
    }

    /// Checks the epochs that answer, including those of cluster nodes that get no requests.
    async fn check_epochs(self: &Arc<Self>) -> Result<(), AuthError> {
        let Some(epochs) = self.epochs.of_masters().await? else {
            let epochs = &self.epochs;
            let is_trusted = |trusted: Arc<str>| async move { epochs.is_trusted(&trusted).await };
            return self.with_trust(is_trusted).await;
        };
        let trusted = self.trusted();
        match epochs.into_iter().find(|epoch| !trusted.contains(epoch.as_str())) {
            Some(unknown) => self.wait_until_trusted(unknown).await,
            None => Ok(()),
        }
    }

    async fn apply_new_events(&self) -> Result<(), AuthError> {
        let mut progress = self.progress.lock().await;
        let trusted = self.trusted();
        if trusted.is_empty() {
            return Ok(());
        }
        self.apply_events(&mut progress.position, &trusted).await?;
        if progress.position > progress.recorded {
            self.epochs.write_position(progress.position, &trusted).await?;
            progress.recorded = progress.position;
        }
        Ok(())
    }

    /// Applies the events after a position in these epochs, page by page to the end of the log. An event
    /// that fails because a node is unreachable does not block the other epochs; the position stays
    /// before it.
    async fn apply_events(&self, position: &mut i64, epochs: &str) -> Result<(), AuthError> {
        let mut read_to = *position;
        let mut failure = None;
        loop {
            let page = read::of_sessions(self.accounts.pool(), read_to, PAGE).await?;
            let Some(last) = page.last().map(|event| event.position) else { break };
            // The effects of events commute and are idempotent.
            let mut applying = stream::iter(page)
                .map(|event| self.apply_event(event, epochs))
                .buffer_unordered(CONCURRENCY);
            while let Some(applied) = applying.next().await {
                match applied {
                    Ok(()) => {}
                    // The caller handles this error.
                    Err(error @ AuthError::Redis(RedisClientError::UnknownEpoch(_))) => {
                        failure = Some(error);
                    }
                    Err(error) => failure = failure.or(Some(error)),
                }
            }
            read_to = last;
            if failure.is_none() {
                *position = read_to;
            }
        }
        failure.map_or(Ok(()), Err)
    }

    async fn apply_event(&self, stored: StoredEvent, epochs: &str) -> Result<(), AuthError> {
        let Ok(username) = Username::stored(&stored.aggregate_id) else { return Ok(()) };
        let event = match stored.decode::<AccountEvent>() {
            Ok(event) => event,
            // A newer version of the program wrote the event, and applies it itself.
            Err(error) => {
                tracing::warn!(position = stored.position, %error, "reconciler: event skipped");
                return Ok(());
            }
        };
        let cause = match event {
            AccountEvent::SessionBound { session } => {
                return Ok(self.sessions.bind(&username, &session, epochs).await?);
            }
            AccountEvent::SessionClosed { session, jti, .. }
            | AccountEvent::TokenReplayDetected { session, jti, .. } => {
                self.sessions.close(&username, &session, &jti, epochs).await?;
                return Ok(());
            }
            AccountEvent::ServiceKeyRevoked { client_id } => {
                let metadata = metadata_of(&stored);
                let (sessions, accounts) = (&self.sessions, &self.accounts);
                return revoke_key(sessions, accounts, &username, client_id, epochs, metadata)
                    .await;
            }
            AccountEvent::PasswordChanged {} => CloseCause::PasswordChanged,
            AccountEvent::RoleChanged { .. } => CloseCause::RoleChanged,
            AccountEvent::AccountDisabled {} => CloseCause::AccountDisabled,
            AccountEvent::AccountAdded { .. }
            | AccountEvent::AccountEnabled {}
            | AccountEvent::PasswordRehashed {}
            | AccountEvent::SessionOpened { .. }
            | AccountEvent::LoginThrottled { .. }
            | AccountEvent::ServiceKeyAdded { .. } => return Ok(()),
        };
        let metadata = metadata_of(&stored);
        // The process that changed the password may not have told Redis yet which session stays open.
        let session = metadata.session.clone().filter(|_| cause == CloseCause::PasswordChanged);
        let previous = match session {
            Some(_) => self.accounts.change_before(&username, stored.position).await?,
            None => 0,
        };
        let except = session.as_deref().map(|sid| (sid, previous));
        let revocation = Revocation { cause, position: stored.position, except, epochs };
        revoke(&self.sessions, &self.accounts, &username, revocation, metadata).await
    }
}

/// The metadata of the events that follow from this one: their actor is its actor.
fn metadata_of(stored: &StoredEvent) -> Metadata {
    stored.metadata().unwrap_or_else(|_| Metadata::of_program("customers"))
}
