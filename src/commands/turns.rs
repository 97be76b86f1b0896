//! One at a time: what concerns the same customer, or the same key, waits for its turn.

use std::hash::{BuildHasher as _, Hash, RandomState};

use tokio::sync::{Mutex, MutexGuard};

/// How many different ones can be at work at once in this process. Two may share a turn; that costs
/// them a wait and nothing else.
const TURNS: usize = 1024;

/// Of one process.
pub struct Turns {
    turns: Vec<Mutex<()>>,
    hasher: RandomState,
}

impl Default for Turns {
    fn default() -> Self {
        let turns = std::iter::repeat_with(Mutex::default).take(TURNS).collect();
        Self { turns, hasher: RandomState::new() }
    }
}

impl Turns {
    /// Waits for the turn of what `whose` names.
    pub async fn of(&self, whose: impl Hash) -> MutexGuard<'_, ()> {
        let hash = self.hasher.hash_one(whose);
        let index = usize::try_from(hash % TURNS as u64).unwrap_or(0);
        self.turns[index].lock().await
    }
}
