//! Upcasting: converts events that an older program wrote to the current version. The log is never
//! rewritten: an event keeps the version in which it was written, and when it is read, each step here
//! converts one event type from one version to the next.
//!
//! **A new version of an event:** change the struct, add a step here and its golden file under
//! `tests/golden`. The step raises the version that this program writes; no other code depends on versions.

use cqrs_es::persist::{EventUpcaster, SerializedEvent};
use serde_json::{Map, Value};

/// The version of every event type without a step.
const FIRST: &str = "1";

/// Converts one event type from one version to the next.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    event_type: &'static str,
    from: &'static str,
    to: &'static str,
    change: fn(&mut Map<String, Value>),
}

/// All steps; those of one event type are in the order of their versions.
pub const STEPS: [Step; 1] = [
    // No release had version 0: it lets tests run the upcast before the first event needs one.
    Step { event_type: "CustomerCreated", from: "0", to: "1", change: customer_created_1 },
];

fn customer_created_1(payload: &mut Map<String, Value>) {
    rename(payload, "full_name", "name");
    rename(payload, "born", "dob");
}

fn rename(payload: &mut Map<String, Value>, from: &str, to: &str) {
    if let Some(value) = payload.remove(from) {
        payload.insert(to.to_owned(), value);
    }
}

/// The current version of an event type, which this program writes.
#[must_use]
pub fn current_version(event_type: &str) -> &'static str {
    let last = STEPS.iter().rev().find(|step| step.event_type == event_type);
    last.map_or(FIRST, |step| step.to)
}

/// The payload in the current version; `None` if no steps lead there, because a newer program wrote it.
#[must_use]
pub fn upcast(event_type: &str, event_version: &str, mut payload: Value) -> Option<Value> {
    let mut version = event_version;
    for step in STEPS.iter().filter(|step| step.event_type == event_type) {
        if step.from == version {
            (step.change)(payload.as_object_mut()?);
            version = step.to;
        }
    }
    (version == current_version(event_type)).then_some(payload)
}

/// The steps as upcasters of cqrs-es.
#[must_use]
pub fn upcasters() -> Vec<Box<dyn EventUpcaster>> {
    STEPS.into_iter().map(|step| Box::new(step) as Box<dyn EventUpcaster>).collect()
}

impl EventUpcaster for Step {
    fn can_upcast(&self, event_type: &str, event_version: &str) -> bool {
        (event_type, event_version) == (self.event_type, self.from)
    }

    fn upcast(&self, mut event: SerializedEvent) -> SerializedEvent {
        if let Some(payload) = event.payload.as_object_mut() {
            (self.change)(payload);
        }
        self.to.clone_into(&mut event.event_version);
        event
    }
}
