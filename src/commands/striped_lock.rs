//! A striped lock: commands of the same aggregate, or with the same idempotency key, run one at a time.

use std::hash::{BuildHasher as _, Hash, RandomState};

use tokio::sync::{Mutex, MutexGuard};

/// The number of mutexes. Two keys may share one; that costs a wait and nothing else.
const STRIPES: usize = 1024;

/// The locks of one process.
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
    /// Locks the stripe of a key.
    pub async fn lock(&self, key: impl Hash) -> MutexGuard<'_, ()> {
        let hash = self.hasher.hash_one(key);
        let index = usize::try_from(hash % STRIPES as u64).unwrap_or(0);
        self.stripes[index].lock().await
    }
}
