//! Runs of Redis: which one answers, whether it knows what has ended, and a note in it of how far it does.

use std::collections::BTreeSet;

use redis::Script;

use super::scripts;
use super::store::{Store, StoreError};

/// Any run of Redis that answers, for what is done again in every run that is believed.
pub const ANY_RUN: &str = "*";

/// What is asked of a run, and noted in it.
pub struct Runs {
    store: Store,
    known: Script,
    ready: Script,
    tell: Script,
    told: Script,
    keeps: Script,
}

impl Runs {
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self {
            store,
            known: behind_run(scripts::KNOWN),
            ready: behind_run(scripts::READY),
            tell: behind_run(scripts::TELL),
            told: Script::new(scripts::TOLD),
            keeps: Script::new(scripts::KEEPS),
        }
    }

    /// Whether Redis is believed and takes writes. Asked whatever became of other calls.
    pub(super) async fn ready(&self, believed: &str) -> Result<(), StoreError> {
        let key = self.store.key("ready", "ready");
        let answer = self.store.run_anyway(self.ready.key(key).arg(believed)).await?;
        taken_apart(answer).map(drop)
    }

    /// Whether the run of Redis that answers is believed. Asked whatever became of other calls.
    pub(super) async fn known(&self, believed: &str) -> Result<(), StoreError> {
        let key = self.store.key("ready", "ready");
        let answer = self.store.run_anyway(self.known.key(key).arg(believed)).await?;
        taken_apart(answer).map(drop)
    }

    /// The runs of a cluster's masters; `None` if it is no cluster.
    pub(super) async fn of_masters(&self) -> Result<Option<Vec<String>>, StoreError> {
        let run = |said: &String| {
            let id = said.lines().find_map(|line| line.strip_prefix("master_replid:"));
            id.map(|id| id.trim().to_owned())
        };
        let runs = self.store.masters().await?.map(|said| {
            // In one order, however they came.
            said.iter().filter_map(run).collect::<BTreeSet<_>>().into_iter().collect()
        });
        Ok(runs)
    }

    /// Looks for Redis anew.
    pub(super) fn reconnect(&self) {
        self.store.reconnect();
    }

    /// Notes that the run of Redis that answers was told what ended up to a position.
    pub(super) async fn tell(&self, position: i64, believed: &str) -> Result<(), StoreError> {
        let key = self.store.key("ready", "told");
        let answer = self.store.run(self.tell.key(key).arg(position).arg(believed)).await?;
        taken_apart(answer).map(drop)
    }

    /// Up to which position some process has told that run; `None` if none has, or nobody knows.
    pub(super) async fn told(&self, run: &str) -> Result<Option<i64>, StoreError> {
        let key = self.store.key("ready", "told");
        let note: String = self.store.run(&self.told.key(key)).await?;
        let position = note.split_once(' ').filter(|(of, _)| *of == run);
        Ok(position.and_then(|(_, position)| position.parse().ok()))
    }

    /// Whether Redis keeps what it is given when it is full: one that makes room for it ends sessions,
    /// and forgets who has to wait.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn keeps(&self) -> Result<bool, StoreError> {
        let key = self.store.key("ready", "ready");
        self.store.run(&self.keeps.key(key)).await
    }
}

/// A script that does its work only in the runs that its last argument names.
pub(super) fn behind_run(script: &str) -> Script {
    Script::new(&[scripts::RUN, script].concat())
}

/// A word and what belongs to it, if a run of Redis says so in which the script may do its work.
pub(super) fn taken_apart(
    answer: Vec<Option<String>>,
) -> Result<(String, impl Iterator<Item = String>), StoreError> {
    let mut answer = answer.into_iter().map(Option::unwrap_or_default);
    let (run, word) = (answer.next().unwrap_or_default(), answer.next().unwrap_or_default());
    match word.as_str() {
        "replica" => Err(StoreError::Replica),
        "unknown" => Err(StoreError::AnotherRun(run)),
        _ => Ok((word, answer)),
    }
}
