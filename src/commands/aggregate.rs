//! What the bus needs of an aggregate beyond cqrs-es's `Aggregate`.

use std::fmt::Display;
use std::hash::Hash;
use std::str::FromStr;

use cqrs_es::Aggregate;

use super::refusal::Refusal;
use crate::events::external_id::ExternalId;

/// An aggregate whose events each carry the whole state after them, so that a decision needs only the last
/// event.
pub trait LastEventAggregate:
    Aggregate<Services = (), Error = Refusal, Command: Clone + Send + Sync, Event: Send + Sync>
    + Clone
    + 'static
{
    /// Its `aggregate_id` in the log, as text.
    type Id: Copy + Eq + Hash + Display + FromStr + Send + Sync + 'static;

    /// The aggregate after its event number `sequence`.
    fn after(sequence: i64, last: Self::Event) -> Self;

    /// The number of its events; 0 before the first.
    fn sequence(&self) -> i64;

    /// The SHA-256 of a command and its target (`None`: a new aggregate); equal for equal requests.
    fn fingerprint(command: &Self::Command, id: Option<Self::Id>) -> Vec<u8>;

    /// The external id, which no other aggregate of its type may have.
    fn external_id(&self) -> Option<&ExternalId> {
        None
    }
}

/// A source of ids for new aggregates.
pub trait IdSource<Id>: Send + Sync + 'static {
    /// Returns an id that no process has received before.
    fn next(&self) -> impl Future<Output = Result<Id, sqlx::Error>> + Send;

    /// Called after an id turned out to be taken.
    fn discard(&self, taken: Id) -> impl Future<Output = ()> + Send;
}
