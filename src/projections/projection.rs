//! The interface of a projection: code that follows the log and keeps a table.

use std::time::Duration;

use async_trait::async_trait;

use super::checksum::Checksum;
use crate::events::log::{DecodeError, StoredEvent};
use crate::postgres::Connection;

/// A projection as the projector, rebuilds and checks use it. Implemented for every
/// [`TableProjection`](super::table::TableProjection).
///
/// Its statements name the table without a schema: a rebuild fills another table of the same name.
#[async_trait]
pub trait Projection: Send + Sync {
    /// Its name in the table `projections`, in commands and in responses.
    fn name(&self) -> &'static str;

    /// Raised when its table, or what it writes there, changes. A new version keeps a table of its
    /// own beside that of the old one, and has a row of its own in the table `projections`.
    fn version(&self) -> i32;

    /// How long events may wait to be applied while no request waits for them: a page of many costs PostgreSQL
    /// little more than a page of one.
    fn pace(&self) -> Duration;

    /// The table that only this projection writes to, as its row in `projection_tables` names it.
    fn table(&self) -> &'static str;

    /// The columns of the table's primary key; the first is the customer's id.
    fn key(&self) -> &'static [&'static str];

    /// Applies a page of events, in the order of their positions, each exactly once. Runs in the
    /// transaction that moves the checkpoint.
    async fn apply(&self, db: &mut Connection, page: &[StoredEvent])
    -> Result<(), ProjectionError>;

    /// Copies the rows that whole streams fold to into a table that has no row of these customers
    /// and no index. Returns the checksum of those rows.
    async fn backfill(
        &self,
        db: &mut Connection,
        streams: &[StoredEvent],
    ) -> Result<Checksum, ProjectionError>;

    /// The checksum of all rows of the table.
    async fn checksum(&self, db: &mut Connection) -> Result<Checksum, ProjectionError>;

    /// Compares the rows that whole streams fold to with the table's rows of the same customers.
    /// Returns the number of rows that the streams fold to, and a text on the first difference.
    async fn compare(
        &self,
        db: &mut Connection,
        streams: &[StoredEvent],
    ) -> Result<(i64, Option<String>), ProjectionError>;
}

/// Why events could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum ProjectionError {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error("position {position}: {source}")]
    Decode { position: i64, source: DecodeError },
    #[error("the projection {0} has no row in the table projections")]
    NotRegistered(&'static str),
    #[error("a later attempt at the rebuild holds the fencing token")]
    Fenced,
}

impl ProjectionError {
    /// Whether the cause is an event and not the state of the database, so that a retry fails in the
    /// same way: the event cannot be decoded, or PostgreSQL refuses its values (SQLSTATE 22 and 23).
    pub(super) fn is_event_error(&self) -> bool {
        match self {
            Self::Decode { .. } => true,
            Self::Database(error) => error
                .as_database_error()
                .and_then(sqlx::error::DatabaseError::code)
                .is_some_and(|code| code.starts_with("22") || code.starts_with("23")),
            Self::NotRegistered(_) | Self::Fenced => false,
        }
    }
}
