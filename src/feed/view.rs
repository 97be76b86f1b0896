//! What a reader is shown of the log.

use crate::events::log::StoredEvent;
use crate::events::metadata::Metadata;

/// What a reader is shown of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum View {
    /// Everything.
    #[default]
    Whole,
    /// For subscribers: without the addresses and agents of clients. Their filters leave out the events of accounts
    /// ([`Filter::only_customers`](crate::events::log::filter::Filter::only_customers)).
    Customers,
}

impl View {
    /// The event as this reader is shown it.
    #[must_use]
    pub fn of(self, event: StoredEvent) -> StoredEvent {
        match self {
            Self::Whole => event,
            Self::Customers => {
                let metadata = without_origin(&event);
                StoredEvent { metadata, ..event }
            }
        }
    }
}

/// The metadata without address and agent. Members that this program does not know are left out, because they may say
/// where the change came from, too; and all of them, if they cannot be read.
fn without_origin(event: &StoredEvent) -> String {
    let metadata = event.metadata().unwrap_or_default();
    let shown = Metadata { ip: None, user_agent: None, ..metadata };
    serde_json::to_string(&shown).expect("texts always serialise")
}
