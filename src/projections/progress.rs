//! The progress of a projector in this process, and the requests that wait for it.

use std::collections::BTreeMap;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

/// The state that this process last read from the database.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Progress {
    pub(super) checkpoint: i64,
    /// Events of some customers up to the checkpoint are not applied.
    pub(super) has_parked: bool,
}

/// The last progress, and the requests that wait until a position is applied. Each is woken once.
#[derive(Default)]
pub(super) struct ProgressBoard {
    state: Mutex<State>,
    /// Wakes the projector when a request begins to wait.
    demanded: Notify,
}

#[derive(Default)]
struct State {
    progress: Progress,
    /// By the position that they wait for.
    waiting: BTreeMap<i64, Vec<oneshot::Sender<()>>>,
}

impl ProgressBoard {
    pub(super) fn progress(&self) -> Progress {
        self.state().progress
    }

    /// Shows the progress, and wakes the requests that have waited for it.
    pub(super) fn show(&self, progress: Progress) {
        let reached = {
            let mut state = self.state();
            state.progress = progress;
            let later = state.waiting.split_off(&progress.checkpoint.saturating_add(1));
            mem::replace(&mut state.waiting, later)
        };
        for waiting in reached.into_values().flatten() {
            // A request that has given up is gone.
            let _ = waiting.send(());
        }
    }

    /// Waits until the position is applied; `false` if it is not after `limit`.
    pub(super) async fn wait_for(&self, position: i64, limit: Duration) -> bool {
        let reached = {
            let mut state = self.state();
            if state.progress.checkpoint >= position {
                return true;
            }
            let (sender, receiver) = oneshot::channel();
            state.waiting.entry(position).or_default().push(sender);
            receiver
        };
        self.demanded.notify_one();
        let mut waiting = Waiting { board: self, position, reached };
        matches!(timeout(limit, &mut waiting.reached).await, Ok(Ok(())))
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.state().waiting.is_empty()
    }

    /// Waits until a request begins to wait, after the last one that was seen.
    pub(super) async fn demanded(&self) {
        self.demanded.notified().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that waits. Leaves the board when it is dropped.
struct Waiting<'b> {
    board: &'b ProgressBoard,
    position: i64,
    reached: oneshot::Receiver<()>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.reached.close();
        let mut state = self.board.state();
        if let Some(waiting) = state.waiting.get_mut(&self.position) {
            waiting.retain(|sender| !sender.is_closed());
            if waiting.is_empty() {
                state.waiting.remove(&self.position);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const LONG: Duration = Duration::from_mins(1);

    fn at(checkpoint: i64) -> Progress {
        Progress { checkpoint, has_parked: false }
    }

    #[tokio::test]
    async fn each_position_wakes_those_who_wait_for_it_and_no_others() {
        let board = Arc::new(ProgressBoard::default());
        let wait = |position| {
            let board = Arc::clone(&board);
            tokio::spawn(async move { board.wait_for(position, LONG).await })
        };
        let (three, seven, also_seven) = (wait(3), wait(7), wait(7));
        while board.state().waiting.values().flatten().count() < 3 {
            tokio::task::yield_now().await;
        }
        board.show(at(2));
        assert_eq!(board.state().waiting.len(), 2);
        board.show(at(3));
        assert!(three.await.unwrap());
        assert!(!seven.is_finished() && board.has_waiting());
        // Another position, the highest of all.
        board.show(at(i64::MAX));
        assert!(seven.await.unwrap() && also_seven.await.unwrap() && !board.has_waiting());
        assert!(board.wait_for(i64::MAX, LONG).await);
    }

    #[tokio::test]
    async fn who_gives_up_leaves_nothing_behind() {
        let board = ProgressBoard::default();
        assert!(!board.wait_for(i64::MAX, Duration::from_millis(1)).await);
        assert!(!board.has_waiting());
    }
}
