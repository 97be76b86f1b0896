//! The change history of a customer: actor, time, origin and reason of each change, folded from its
//! stream, which postgres-es loads.

use chrono::{DateTime, Utc};
use cqrs_es::EventStore as _;
use cqrs_es::persist::PersistedEventStore;
use postgres_es::PostgresEventRepository;

use super::customer::{Customer, State};
use crate::events::log::read;
use crate::events::upcast;
use crate::events::values::CustomerId;
use crate::postgres::Pool;

/// One change of a customer.
#[derive(Debug, Clone)]
pub struct Change {
    pub version: i64,
    pub position: i64,
    /// The name of the event.
    pub event: &'static str,
    pub at: DateTime<Utc>,
    /// As [`crate::events::metadata::Metadata`].
    pub metadata: std::collections::HashMap<String, String>,
    /// The fields that the event changed.
    pub fields: Vec<FieldChange>,
}

/// One field of one change; `from` is `None` for the create, `to` is `None` for the deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldChange {
    pub field: &'static str,
    pub from: Option<String>,
    pub to: Option<String>,
}

/// All changes of the customer, oldest first; empty when it was never created.
pub async fn load(pool: &Pool, id: CustomerId) -> Result<Vec<Change>, HistoryError> {
    let store = PersistedEventStore::<_, Customer>::new_event_store(PostgresEventRepository::new(
        pool.once().clone(),
    ))
    .with_upcasters(upcast::upcasters());
    let envelopes = store.load_events(&id.to_string()).await?;
    // Read after the events, so each loaded event has its position here.
    let positions = read::positions(pool, id).await?;

    let mut customer = Customer::default();
    let mut changes = Vec::with_capacity(envelopes.len());
    for (envelope, (position, at)) in envelopes.into_iter().zip(positions) {
        let event = envelope.payload.event_type();
        let before = fields(&customer.state);
        customer.apply(envelope.payload);
        let after = fields(&customer.state);
        changes.push(Change {
            version: customer.version,
            position,
            event,
            at,
            metadata: envelope.metadata,
            fields: difference(before, after),
        });
    }
    Ok(changes)
}

/// The fields of a customer by name, as the API writes them.
type Fields = [(&'static str, Option<String>); 3];

fn fields(state: &State) -> Fields {
    let values = match state {
        State::Present(values) => Some(values),
        State::Unknown | State::Deleted => None,
    };
    let external_id = values.and_then(|values| values.external_id.as_ref());
    [
        ("name", values.map(|values| values.name.to_string())),
        ("dob", values.map(|values| values.dob.to_string())),
        ("external_id", external_id.map(ToString::to_string)),
    ]
}

fn difference(before: Fields, after: Fields) -> Vec<FieldChange> {
    before
        .into_iter()
        .zip(after)
        .filter(|((_, from), (_, to))| from != to)
        .map(|((field, from), (_, to))| FieldChange { field, from, to })
        .collect()
}

/// Why a history cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    #[error("cannot load the stream: {0}")]
    Stream(#[from] cqrs_es::AggregateError<super::refusal::Refusal>),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}
