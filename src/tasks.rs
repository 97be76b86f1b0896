//! Background tasks of a process: started here, so that its shutdown waits for all of them. One that runs
//! for as long as the process does is supervised: if it ends or panics, it is started again.

use std::any::Any;
use std::borrow::Cow;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The pause before a task is started again; doubled with each failure in a row, up to the longest.
const RESTART_PAUSE: Duration = Duration::from_millis(100);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(10);

/// A task that has run for so long has come back.
const STABLE_AFTER: Duration = Duration::from_secs(5);

/// A task that has failed so many times in a row is down until it has come back.
const FAILURES_DOWN: u32 = 3;

/// Counts the restarts of each task.
const RESTARTS: &str = "customers_task_restarts_total";

/// Starts tasks and ends them together. Clones share them.
#[derive(Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    shutdown: CancellationToken,
    supervised: Arc<Mutex<Vec<Supervised>>>,
}

impl Tasks {
    /// Starts a task that runs to its end; shutdown waits for it.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.tracker.spawn(task)
    }

    /// What shutdown waits for.
    #[must_use]
    pub fn tracker(&self) -> &TaskTracker {
        &self.tracker
    }

    /// Starts a task that shutdown drops, wherever it is; its output is `None` then.
    pub fn spawn_until_shutdown<F>(&self, task: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.tracker.spawn(self.shutdown.clone().run_until_cancelled_owned(task))
    }

    /// Starts a task that never ends by itself; shutdown drops it. If it ends or panics, it is started
    /// again.
    pub fn supervise<F, T>(&self, name: impl Into<Cow<'static, str>>, mut task: F)
    where
        F: FnMut() -> T + Send + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        self.supervise_until_done(name, move || {
            let run = task();
            async move {
                run.await;
                Ended::Unexpectedly
            }
        });
    }

    /// Starts a task that may run out of work, because what it works for has ended before shutdown.
    pub fn supervise_until_done<F, T>(&self, name: impl Into<Cow<'static, str>>, task: F)
    where
        F: FnMut() -> T + Send + 'static,
        T: Future<Output = Ended> + Send + 'static,
    {
        let supervised = Supervised::new(name);
        self.watch(supervised.clone());
        self.spawn_until_shutdown(async move { supervised.run(task).await });
    }

    /// Counts a supervised task that was started elsewhere among those of the process.
    pub fn watch(&self, supervised: Supervised) {
        // Registers its series, so that it is there before the first restart.
        metrics::counter!(RESTARTS, "task" => supervised.name()).increment(0);
        self.list().push(supervised);
    }

    /// The names of the supervised tasks that are running, or will be in a moment, and of those that are
    /// down.
    #[must_use]
    pub fn running_and_down(&self) -> (Vec<String>, Vec<String>) {
        let all = self.list();
        let (down, running): (Vec<_>, Vec<_>) =
            all.iter().filter(|task| !task.is_done()).partition(|task| task.is_down());
        let names = |tasks: Vec<&Supervised>| tasks.iter().map(|task| task.name()).collect();
        (names(running), names(down))
    }

    fn list(&self) -> MutexGuard<'_, Vec<Supervised>> {
        self.supervised.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cancelled by [`Tasks::shut_down`].
    #[must_use]
    pub fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// Drops the tasks that run until shutdown, and waits for the others, at most for `limit`; whether
    /// all have ended.
    pub async fn shut_down(&self, limit: Duration) -> bool {
        self.shutdown.cancel();
        self.tracker.close();
        tokio::time::timeout(limit, self.tracker.wait()).await.is_ok()
    }
}

/// How a supervised task has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It has nothing left to do.
    Done,
    /// It is started again.
    Unexpectedly,
}

/// A task that is started again when it ends unexpectedly or panics. Clones share its state.
#[derive(Clone)]
pub struct Supervised(Arc<Inner>);

struct Inner {
    name: Cow<'static, str>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// In a row: a task that was stable begins at 0 again.
    failures: u32,
    /// `None` before the first start, and while it waits to be started again.
    running_since: Option<Instant>,
    is_done: bool,
}

impl State {
    fn is_stable(&self) -> bool {
        self.running_since.is_some_and(|since| since.elapsed() >= STABLE_AFTER)
    }
}

impl Supervised {
    #[must_use]
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self(Arc::new(Inner { name: name.into(), state: Mutex::default() }))
    }

    #[must_use]
    pub fn name(&self) -> String {
        self.0.name.to_string()
    }

    /// Whether the task has failed several times in a row and has not come back.
    #[must_use]
    pub fn is_down(&self) -> bool {
        let state = self.state();
        state.failures >= FAILURES_DOWN && !state.is_stable()
    }

    /// Whether the task has nothing left to do.
    fn is_done(&self) -> bool {
        self.state().is_done
    }

    /// Runs the task until it is done. Each restart is logged and counted, as
    /// `customers_task_restarts_total`.
    pub async fn run<F, T>(&self, mut task: F)
    where
        F: FnMut() -> T,
        T: Future<Output = Ended>,
    {
        loop {
            self.state().running_since = Some(Instant::now());
            let running = AssertUnwindSafe(async { task().await });
            let cause = match running.catch_unwind().await {
                Ok(Ended::Done) => {
                    self.state().is_done = true;
                    return;
                }
                Ok(Ended::Unexpectedly) => "it has ended".to_owned(),
                Err(panic) => format!("it panicked: {}", panic_message(&*panic)),
            };
            let failures = self.failed();
            let doubled = RESTART_PAUSE.saturating_mul(1 << (failures - 1).min(10));
            let pause = doubled.min(RESTART_PAUSE_MAX);
            metrics::counter!(RESTARTS, "task" => self.name()).increment(1);
            tracing::error!(
                task = self.name(),
                cause,
                failures,
                ?pause,
                "task: failed, starting again"
            );
            tokio::time::sleep(pause).await;
        }
    }

    /// Returns the number of failures in a row.
    fn failed(&self) -> u32 {
        let mut state = self.state();
        let earlier = if state.is_stable() { 0 } else { state.failures };
        *state = State { failures: earlier.saturating_add(1), ..State::default() };
        state.failures
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The message of a panic.
#[must_use]
pub fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic without a message".to_owned())
}
