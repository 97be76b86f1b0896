//! What a pool measures: connections, and the waits for them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use metrics::{Gauge, Histogram};

/// The waits for the connections of a pool. Clones share them.
#[derive(Clone)]
pub(super) struct PoolMetrics {
    label: &'static str,
    waiting: Arc<AtomicUsize>,
    seconds: Histogram,
}

impl PoolMetrics {
    /// `name` is what `pg_stat_activity` shows.
    pub(super) fn new(name: &'static str) -> Self {
        let label = name.strip_prefix("customers ").unwrap_or(name);
        let seconds = metrics::histogram!("customers_pool_wait_seconds", "pool" => label);
        Self { label, waiting: Arc::default(), seconds }
    }

    /// A wait begins; it ends when the guard is dropped.
    pub(super) fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting { metrics: self, began: Instant::now() }
    }

    /// The use of the pool, of whose connections so many are open and so many of those idle.
    pub(super) fn usage(&self, max: u32, open: u32, idle: usize) -> Usage {
        let idle = u32::try_from(idle).unwrap_or(u32::MAX);
        let waiting = u32::try_from(self.waiting.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        Usage { label: self.label, max, in_use: open.saturating_sub(idle), idle, waiting }
    }
}

/// A statement that waits for a connection.
pub(super) struct Waiting<'a> {
    metrics: &'a PoolMetrics,
    began: Instant,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.metrics.waiting.fetch_sub(1, Ordering::Relaxed);
        self.metrics.seconds.record(self.began.elapsed().as_secs_f64());
    }
}

/// The use of a pool at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    label: &'static str,
    max: u32,
    in_use: u32,
    idle: u32,
    waiting: u32,
}

impl Usage {
    /// Shows them as gauges; pools of one name together.
    pub fn show(usages: impl IntoIterator<Item = Self>) {
        let mut pools: BTreeMap<&'static str, Self> = BTreeMap::new();
        for usage in usages {
            let none = Self { max: 0, in_use: 0, idle: 0, waiting: 0, ..usage };
            let sum = pools.entry(usage.label).or_insert(none);
            sum.max += usage.max;
            sum.in_use += usage.in_use;
            sum.idle += usage.idle;
            sum.waiting += usage.waiting;
        }
        for (pool, Self { max, in_use, idle, waiting, .. }) in pools {
            let of_state = |state: &'static str| -> Gauge {
                metrics::gauge!("customers_pool_connections", "pool" => pool, "state" => state)
            };
            of_state("in_use").set(f64::from(in_use));
            of_state("idle").set(f64::from(idle));
            metrics::gauge!("customers_pool_connections_max", "pool" => pool).set(f64::from(max));
            metrics::gauge!("customers_pool_waiting", "pool" => pool).set(f64::from(waiting));
        }
    }
}
