//! Selects events of the log by what they are about and what has caused them.

use super::stored_event::StoredEvent;
use crate::events::customer::CUSTOMER;
use crate::events::values::CustomerId;

/// Selects events; an absent member matches every event, and several are met together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Customers or accounts.
    pub aggregate_type: Option<&'static str>,
    /// One of these types; any without one.
    pub event_types: Vec<String>,
    pub customer: Option<CustomerId>,
    pub actor: Option<String>,
    /// The request that has caused the event.
    pub request_id: Option<String>,
    /// The session that has caused it.
    pub session: Option<String>,
    /// Leaves out the events of accounts, whatever else is asked for.
    pub only_customers: bool,
}

impl Filter {
    /// Whether it matches every event.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it leaves out the events of accounts and no others.
    #[must_use]
    pub fn is_of_customers(&self) -> bool {
        *self == Self { only_customers: true, ..Self::default() }
    }

    /// Whether it selects the event. Metadata that cannot be read have no origin.
    #[must_use]
    pub fn matches(&self, event: &StoredEvent) -> bool {
        let is_customer = event.aggregate_type == CUSTOMER;
        let is_of_type = |kind| event.aggregate_type == kind;
        (is_customer || !self.only_customers)
            && self.aggregate_type.is_none_or(is_of_type)
            && (self.event_types.is_empty() || self.event_types.contains(&event.event_type))
            && self.customer.is_none_or(|id| event.customer() == Some(id))
            && self.matches_origin(event)
    }

    fn matches_origin(&self, event: &StoredEvent) -> bool {
        let Self { actor, request_id, session, .. } = self;
        if actor.is_none() && request_id.is_none() && session.is_none() {
            return true;
        }
        let Ok(metadata) = event.metadata() else { return false };
        let is = |asked: &Option<String>, of: &Option<String>| asked.is_none() || asked == of;
        is(actor, &metadata.actor)
            && is(request_id, &metadata.request_id)
            && is(session, &metadata.session)
    }
}
