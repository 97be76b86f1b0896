//! Refusals: business rules that reject a command. Nothing was appended.

/// Why a command is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Never created, or deleted.
    #[error("no such customer")]
    NotFound,
    /// The command does not apply to the customer's version.
    #[error("the customer is at version {current}")]
    VersionMismatch { current: i64 },
    /// A create for an id that is taken. For a new customer the bus retries with another id instead.
    #[error("the customer exists already")]
    Exists,
    /// Another customer has the external id.
    #[error("the external id is that of customer {customer}")]
    ExternalIdTaken { customer: i64 },
    /// The customer has the external id no more. The bus looks for the customer that has it.
    #[error("the customer has another external id")]
    ExternalIdMoved,
    /// A restore of a version that the customer does not have.
    #[error("the customer has no such version")]
    NoSuchVersion,
    /// A restore of the version that a deletion has left.
    #[error("the version is a deletion")]
    VersionDeleted,
}
