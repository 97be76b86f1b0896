//! One at a time: what concerns the same customer, or the same key, waits for its turn.

use std::hash::{BuildHasher as _, Hash, RandomState};

use tokio::sync::{Mutex, MutexGuard};

/// How many different ones can be at work at once in this process. Two may share a turn; that costs
/// them a wait and nothing else.
const STRIPES: usize = 1024;

/// Of one process.
pub struct StripedLock {
    stripes: Vec<Mutex<()>>,
    hasher: RandomState,
}

impl Default for StripedLock {
    fn default() -> Self {
        let stripes = std::iter::repeat_with(Mutex::default).take(STRIPES).collect();
        Self { stripes, hasher: RandomState::new() }
    }
}

impl StripedLock {
    /// Waits for the turn of what `whose` names.
    pub async fn lock(&self, key: impl Hash) -> MutexGuard<'_, ()> {
        let hash = self.hasher.hash_one(key);
        let index = usize::try_from(hash % STRIPES as u64).unwrap_or(0);
        self.stripes[index].lock().await
    }
}
