//! A cache of aggregates that this process has appended to lately, so that a command need not load them.
//! Other processes append, too, so an entry may be stale: only an append may rely on it, because the log
//! checks the sequence. A refusal or an empty decision is made only on a state loaded from the log.

use chrono::{DateTime, Utc};
use quick_cache::sync::Cache;

use super::aggregate::LastEventAggregate;
use crate::events::log::Appended;
use crate::events::log::read::LastEvent;

/// How many aggregates are cached, at some 300 bytes each.
const CAPACITY: usize = 50_000;

/// An aggregate after its last event.
#[derive(Debug, Clone)]
pub struct Loaded<A> {
    pub aggregate: A,
    pub last: Appended,
    /// The time of its first event.
    pub created_at: DateTime<Utc>,
}

impl<A: LastEventAggregate> From<LastEvent<A::Event>> for Loaded<A> {
    fn from(last: LastEvent<A::Event>) -> Self {
        let LastEvent { event, position, sequence, recorded_at, created_at } = last;
        let aggregate = A::after(sequence, event);
        Self { aggregate, last: Appended { position, sequence, recorded_at }, created_at }
    }
}

/// The cache of one process.
pub struct AggregateCache<A: LastEventAggregate>(Cache<A::Id, Loaded<A>>);

impl<A: LastEventAggregate> Default for AggregateCache<A> {
    fn default() -> Self {
        Self(Cache::new(CAPACITY))
    }
}

impl<A: LastEventAggregate> AggregateCache<A> {
    pub fn get(&self, id: A::Id) -> Option<Loaded<A>> {
        self.0.get(&id)
    }

    pub fn insert(&self, id: A::Id, loaded: Loaded<A>) {
        self.0.insert(id, loaded);
    }

    pub fn remove(&self, id: A::Id) {
        self.0.remove(&id);
    }
}
