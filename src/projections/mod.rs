//! WHAT PEOPLE LOOK AT. Projections follow the log and keep read tables.
//!
//! A new projection is one file with one `impl Projection`, its tables in a migration, and one line
//! in [`ALL`](crate::projections::ALL). The write path knows none of them.

#![deny(clippy::wildcard_enum_match_arm)]

/// The customers as they are now, youngest first.
pub mod customers;

/// Every state that a customer was ever in.
pub mod customer_history;

/// Follows the log, page by page.
pub mod projector;

/// Replays the log into a projection; compares a projection with the log.
pub mod rebuild;

use async_trait::async_trait;
use sqlx::PgConnection;

use crate::events::log::{DecodeError, StoredEvent};

/// Every projection there is.
pub static ALL: [&'static dyn Projection; 2] =
    [&customers::Customers, &customer_history::CustomerHistory];

/// Code that follows the log, and the table that it keeps.
#[async_trait]
pub trait Projection: Send + Sync {
    /// Its row in the table `projections`, and its name in commands and answers.
    fn name(&self) -> &'static str;

    /// Raised when its tables or what it writes there changes. A new version keeps tables of its own,
    /// beside those of the old one, and has a row of its own in the table `projections`.
    fn version(&self) -> i32;

    /// The tables that it keeps and nobody else writes.
    fn tables(&self) -> &'static [&'static str];

    /// Takes over a page of events, in the order of their positions, none twice and none left out.
    /// Runs in the transaction that moves the checkpoint.
    async fn apply(
        &self,
        db: &mut PgConnection,
        page: &[StoredEvent],
    ) -> Result<(), ProjectionError>;

    /// Empties the tables, for a rebuild.
    async fn clear(&self, db: &mut PgConnection) -> Result<(), ProjectionError>;

    /// The first difference between the tables and a fold of the log up to `checkpoint`, in words.
    /// Runs in one REPEATABLE READ transaction.
    async fn difference(
        &self,
        db: &mut PgConnection,
        checkpoint: i64,
    ) -> Result<Option<String>, ProjectionError>;
}

/// The projection of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static dyn Projection> {
    ALL.into_iter().find(|projection| projection.name() == name)
}

/// What signs the cursors of lists: the same for all processes of an installation.
///
/// # Errors
/// When PostgreSQL cannot be asked.
pub async fn cursor_key(db: impl sqlx::PgExecutor<'_>) -> Result<String, sqlx::Error> {
    sqlx::query_scalar!("select key from cursor_keys").fetch_one(db).await
}

/// Why a page could not be taken over.
#[derive(Debug, thiserror::Error)]
pub enum ProjectionError {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error("position {position}: {source}")]
    Decode { position: i64, source: DecodeError },
    #[error("the projection {0} has no row in the table projections")]
    Unknown(&'static str),
}
