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
}
