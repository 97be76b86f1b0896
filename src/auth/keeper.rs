//! Keeps Redis true to the log, whatever becomes of it. What ended is in the log before anybody is told
//! so. Each process follows those events and does in Redis again what they say: what Redis missed
//! while it was away is done as soon as it is back. When another run of Redis answers (it was
//! restarted, perhaps from an older dump, or a replica that lagged has taken over), no token is
//! believed before all that ended in the longest life of a token has been done again.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::sync::Mutex;

use super::ending::{Ending, end_sessions};
use super::store::StoreError;
use super::token::{LEEWAY_SECONDS, LIFETIME_MAX_SECONDS};
use super::{AuthError, Inner};
use crate::clock;
use crate::events::account::{AccountEvent, CloseCause};
use crate::events::log::{StoredEvent, read};
use crate::events::metadata::Metadata;
use crate::events::values::Username;

/// How often the log is looked at: what ended is done in Redis by whoever ended it, so this is for
/// what that process could not do.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The same while something is to be done and cannot be.
const TRY_AGAIN: Duration = Duration::from_millis(250);

/// After how many looks in a row that fail Redis is connected to anew, whatever it says: what answers may
/// not be what it was.
const LOOKS: u32 = 8;

/// The longest that a request waits for an answer that is believed.
const ANSWER_LIMIT: Duration = Duration::from_millis(450);

/// How far back events matter: sessions are gone from Redis by themselves after that.
const KEPT_SECONDS: i64 = LIFETIME_MAX_SECONDS + 2 * LEEWAY_SECONDS;

/// How many events are read at a time, and how many are done in Redis at once.
const PAGE: i64 = 1000;
const AT_ONCE: usize = 32;

/// What this process knows of the runs of Redis.
#[derive(Default)]
pub(super) struct Keeper {
    /// Those that were told all that ended, with commas between them: one, or the masters of a cluster.
    /// An earlier one that comes back has missed what ended meanwhile, and is told again.
    believed: RwLock<Arc<str>>,
    /// Whoever holds it does events.
    done: Mutex<Done>,
    /// Whoever holds it tells another run what has ended.
    turn: Arc<Mutex<()>>,
}

/// Positions up to which events were done in the believed runs, and up to which a note of that is in
/// Redis.
#[derive(Default)]
struct Done {
    position: i64,
    noted: i64,
    /// Runs that are not believed yet, and up to where they were told.
    begun: Option<(String, i64)>,
}

impl Keeper {
    fn believed(&self) -> Arc<str> {
        Arc::clone(&self.believed.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn believe(&self, runs: &str) {
        *self.believed.write().unwrap_or_else(PoisonError::into_inner) = runs.into();
    }
}

impl Inner {
    /// Asks Redis, and believes only a run of it that knows what has ended. What is asked is given the
    /// runs that are believed; any other does nothing.
    pub(super) async fn believed<T, F>(
        self: &Arc<Self>,
        ask: impl Fn(Arc<str>) -> F,
    ) -> Result<T, AuthError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let asking = async {
            let run = match ask(self.keeper.believed()).await {
                Err(StoreError::AnotherRun(run)) => run,
                answer => return Ok(answer?),
            };
            self.settled(run).await?;
            match ask(self.keeper.believed()).await {
                Err(StoreError::AnotherRun(_)) => Err(AuthError::Unsettled),
                answer => Ok(answer?),
            }
        };
        clock::within(ANSWER_LIMIT, asking).await.unwrap_or(Err(AuthError::Unsettled))
    }

    /// Waits until that run is believed. One task at a time sees to it, and goes on when nobody waits.
    async fn settled(self: &Arc<Self>, run: String) -> Result<(), AuthError> {
        let turn = Arc::clone(&self.keeper.turn).lock_owned().await;
        let auth = Arc::clone(self);
        let settling = async move {
            let _turn = turn;
            auth.settle(run).await
        };
        tokio::spawn(settling).await?
    }

    /// Whether Redis is believed and takes writes.
    pub(super) async fn ready(self: &Arc<Self>) -> Result<(), AuthError> {
        let auth = &**self;
        self.believed(|runs: Arc<str>| async move { auth.runs.ready(&runs).await }).await
    }

    /// Does again all that ended in the longest life of a token.
    async fn settle(&self, run: String) -> Result<(), AuthError> {
        let mut done = self.keeper.done.lock().await;
        let before = self.keeper.believed();
        if before.contains(&run) {
            return Ok(());
        }
        // Those that answer now. A master that another one has taken the place of is none of them.
        let runs = self.runs.of_masters().await?.unwrap_or_else(|| vec![run.clone()]);
        if !runs.contains(&run) {
            return Err(AuthError::Unsettled);
        }
        let within = runs.join(",");
        let mut position = match &done.begun {
            Some((of, position)) if *of == within => *position,
            _ => {
                let mut start = i64::MAX;
                for new in runs.iter().filter(|run| !before.contains(run.as_str())) {
                    start = start.min(self.untold(new, done.position).await?);
                }
                start
            }
        };
        let start = position;
        let caught_up = self.catch_up(&mut position, &within).await;
        done.begun = Some((within.clone(), position));
        caught_up?;
        // Nothing may come between these: what was done in these runs was not done in those before.
        done.position = position.max(done.position);
        done.noted = 0;
        done.begun = None;
        self.keeper.believe(&within);
        tracing::info!(runs = within, start, position, "Redis knows what has ended");
        if let Ok(false) = self.runs.keeps().await {
            tracing::warn!("Redis ends sessions when it is full: set maxmemory-policy noeviction");
        }
        Ok(())
    }

    /// A position behind which lies all that a run may not have been told.
    async fn untold(&self, run: &str, done: i64) -> Result<i64, AuthError> {
        Ok(match self.runs.told(run).await? {
            // Nor is anything left out that this process has not done on other nodes.
            Some(position) if done > 0 => position.min(done),
            Some(position) => position,
            None => read::position_before(self.accounts.pool(), KEPT_SECONDS).await?,
        })
    }

    /// Follows the log for ever.
    pub(super) async fn follow(self: Arc<Self>) {
        let mut failed = 0_u32;
        loop {
            let looked = Arc::clone(&self).look().await;
            let pause = if looked.is_ok() { LOOK_EVERY } else { TRY_AGAIN };
            match looked {
                Ok(()) => failed = 0,
                Err(error) => {
                    if failed == 0 {
                        tracing::warn!(%error, "Redis does not know what has ended");
                    }
                    failed = failed.saturating_add(1);
                    if matches!(error, AuthError::Store(_)) && failed.is_multiple_of(LOOKS) {
                        self.runs.reconnect();
                    }
                }
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Does what is new in the log, in whichever of the runs answer.
    async fn look(self: Arc<Self>) -> Result<(), AuthError> {
        let met = self.meet().await;
        if let Err(AuthError::Store(StoreError::Replica)) = met {
            self.runs.reconnect();
        }
        let told = match self.tell_news().await {
            Err(AuthError::Store(StoreError::AnotherRun(run))) => self.settled(run).await,
            told => told,
        };
        met.and(told)
    }

    /// Finds out which runs answer, also those of a cluster's nodes that nobody asks for anything.
    async fn meet(self: &Arc<Self>) -> Result<(), AuthError> {
        let Some(runs) = self.runs.of_masters().await? else {
            let auth = &**self;
            let known = |runs: Arc<str>| async move { auth.runs.known(&runs).await };
            return self.believed(known).await;
        };
        let believed = self.keeper.believed();
        match runs.into_iter().find(|run| !believed.contains(run.as_str())) {
            Some(unknown) => self.settled(unknown).await,
            None => Ok(()),
        }
    }

    /// Does what has come to the log in the runs that are believed.
    async fn tell_news(&self) -> Result<(), AuthError> {
        let mut done = self.keeper.done.lock().await;
        let runs = self.keeper.believed();
        if runs.is_empty() {
            return Ok(());
        }
        self.catch_up(&mut done.position, &runs).await?;
        if done.position > done.noted {
            self.runs.tell(done.position, &runs).await?;
            done.noted = done.position;
        }
        Ok(())
    }

    /// Does what the events behind a position say in these runs, page by page to the end of the log: one
    /// that fails, for a node that is away, is in the way of no other. The position stays in front of it.
    async fn catch_up(&self, position: &mut i64, runs: &str) -> Result<(), AuthError> {
        let mut read_to = *position;
        let mut failure = None;
        loop {
            let page = read::of_sessions(self.accounts.pool(), read_to, PAGE).await?;
            let Some(last) = page.last().map(|event| event.position) else { break };
            // Each of them leads to the same in any order and however often it is done.
            let mut doing =
                stream::iter(page).map(|event| self.redo(event, runs)).buffer_unordered(AT_ONCE);
            while let Some(redone) = doing.next().await {
                match redone {
                    Ok(()) => {}
                    // Something can be done about this one.
                    Err(error @ AuthError::Store(StoreError::AnotherRun(_))) => {
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

    async fn redo(&self, stored: StoredEvent, runs: &str) -> Result<(), AuthError> {
        let Ok(username) = Username::parse(&stored.aggregate_id) else { return Ok(()) };
        let event = match stored.decode::<AccountEvent>() {
            Ok(event) => event,
            // Written by a newer program, which does it itself.
            Err(error) => {
                tracing::warn!(position = stored.position, %error, "cannot be read");
                return Ok(());
            }
        };
        let cause = match event {
            AccountEvent::SessionBound { session } => {
                return Ok(self.sessions.bind(&username, &session, runs).await?);
            }
            AccountEvent::SessionClosed { session, jti, .. }
            | AccountEvent::TokenReplayDetected { session, jti, .. } => {
                return Ok(self.sessions.close(&username, &session, &jti, runs).await?);
            }
            AccountEvent::PasswordChanged {} => CloseCause::PasswordChanged,
            AccountEvent::RoleChanged { .. } => CloseCause::RoleChanged,
            AccountEvent::AccountDisabled {} => CloseCause::AccountDisabled,
            AccountEvent::AccountAdded { .. }
            | AccountEvent::SessionOpened { .. }
            | AccountEvent::LoginThrottled { .. } => return Ok(()),
        };
        // The session in which a password was changed knows of the change if that came to its end; if
        // not, it is over with the others.
        let ending = Ending { except: None, cause, position: stored.position, runs };
        // Who changed the account ended the sessions, whoever carries that out.
        let metadata = stored.metadata().unwrap_or_else(|_| Metadata::of_program("customers"));
        end_sessions(&self.sessions, &self.accounts, &username, ending, metadata).await
    }
}
