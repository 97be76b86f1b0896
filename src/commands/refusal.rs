//! A business "no". Nothing was appended; asking again changes nothing by itself.

/// Why a command is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Never created, or deleted.
    #[error("there is no such customer")]
    NotFound,
    /// The customer is at another version than `If-Match` asked for.
    #[error("the customer is at version {current}")]
    VersionMismatch { current: i64 },
    /// A create met a customer of the same id; the bus takes another id then.
    #[error("the customer exists already")]
    Exists,
}
