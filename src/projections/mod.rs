//! WHAT PEOPLE LOOK AT. Projections follow the log and keep read tables.
//!
//! A new projection is one file with one `impl Projection`, its tables in a migration, and one line
//! in [`ALL`](crate::projections::ALL). The write path knows none of them.

#![deny(clippy::wildcard_enum_match_arm)]

/// The customers as they are now, youngest first.
pub mod customers;

/// Every state that a customer was ever in.
pub mod customer_history;

/// How far a projection is, and who may move that.
pub mod checkpoint;

/// Follows the log, page by page.
pub mod projector;

/// Customers whose events cannot be taken over.
pub mod parked;

/// Where each projection stands.
pub mod status;

/// Replays the log into a projection while the old tables are served, and the way back.
pub mod rebuild;

/// One rebuild of a projection at a time.
mod run;

/// Work that gives way to requests.
mod aside;

/// The parts in which a rebuild is filled.
mod parts;

/// Whether a rebuild is alone.
pub mod others;

/// Compares a projection with the log.
pub mod verify;

/// Rows and checkpoint of one moment.
pub mod snapshot;

/// Customer by customer through the log.
mod streams;

/// Many rows at once.
mod copy;

/// What holds of all tables.
mod tables;

use std::ops::AddAssign;

use async_trait::async_trait;
use chrono::NaiveDate;
use sqlx::PgConnection;

use crate::events::log::{DecodeError, StoredEvent};

/// Every projection there is.
pub static ALL: [&'static dyn Projection; 2] =
    [&customers::Customers, &customer_history::CustomerHistory];

/// Code that follows the log, and the tables that it keeps. Its statements name the tables without
/// a schema: a rebuild fills others of the same names.
#[async_trait]
pub trait Projection: Send + Sync {
    /// Its row in the table `projections`, and its name in commands and answers.
    fn name(&self) -> &'static str;

    /// Raised when its tables or what it writes there changes. A new version keeps tables of its own,
    /// beside those of the old one, and has a row of its own in the table `projections`.
    fn version(&self) -> i32;

    /// The tables that it keeps and nobody else writes: those of its rows in `projection_tables`.
    fn tables(&self) -> &'static [&'static str];

    /// Takes over a page of events, in the order of their positions, none twice and none left out.
    /// Runs in the transaction that moves the checkpoint.
    async fn apply(
        &self,
        db: &mut PgConnection,
        page: &[StoredEvent],
    ) -> Result<(), ProjectionError>;

    /// Copies what whole streams lead to into tables that hold nothing of them yet and have no
    /// indexes. Tells what it copied, as [`Projection::tally`] does of the tables.
    async fn fill(
        &self,
        db: &mut PgConnection,
        streams: &[StoredEvent],
    ) -> Result<Tally, ProjectionError>;

    /// The rows of the tables and a sum over what stands in them.
    async fn tally(&self, db: &mut PgConnection) -> Result<Tally, ProjectionError>;

    /// Compares what whole streams lead to with the tables' rows of their customers: how many rows
    /// they lead to, and the first difference in words.
    async fn compare(
        &self,
        db: &mut PgConnection,
        streams: &[StoredEvent],
    ) -> Result<(i64, Option<String>), ProjectionError>;
}

/// Rows, and a sum over what stands in them that does not depend on their order: enough to notice
/// what is missing, doubled or mixed up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub rows: i64,
    pub checksum: i128,
}

impl Tally {
    /// Of values and the factors by which they enter the sum.
    fn of_row<const N: usize>(values: [(i64, i64); N]) -> Self {
        let parts = values.map(|(value, factor)| i128::from(value) * i128::from(factor));
        Self { rows: 1, checksum: parts.into_iter().sum() }
    }

    /// As PostgreSQL sums it; the sum as text, as it has no bounds there.
    fn of_table(rows: i64, checksum: &str) -> Result<Self, sqlx::Error> {
        let checksum =
            checksum.parse().map_err(|error| sqlx::Error::Decode(Box::new(error) as _))?;
        Ok(Self { rows, checksum })
    }
}

/// As a [`Tally`] counts dates: in days from the first one that PostgreSQL counts from.
fn days(date: NaiveDate) -> i64 {
    const ZERO: NaiveDate = NaiveDate::from_ymd_opt(2000, 1, 1).expect("a date");
    (date - ZERO).num_days()
}

/// As a [`Tally`] counts texts: in bytes.
fn length(text: Option<&str>) -> i64 {
    text.map_or(0, |text| i64::try_from(text.len()).unwrap_or(i64::MAX))
}

impl AddAssign for Tally {
    fn add_assign(&mut self, more: Self) {
        self.rows += more.rows;
        self.checksum += more.checksum;
    }
}

/// Where the tables of a projection stand (migration 0008).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Served.
    Public,
    /// Filled by a rebuild.
    Shadow,
    /// Replaced by the last rebuild.
    Previous,
}

impl Place {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Shadow => "shadow",
            Self::Previous => "previous",
        }
    }

    /// From here on the statements of the transaction mean the tables in this place.
    async fn enter(self, transaction: &mut PgConnection) -> Result<(), sqlx::Error> {
        let path = match self {
            Self::Public => "public",
            Self::Shadow => "shadow, public",
            Self::Previous => "previous, public",
        };
        sqlx::query!("select set_config('search_path', $1, true)", path)
            .fetch_one(transaction)
            .await?;
        Ok(())
    }
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

/// Why events could not be taken over.
#[derive(Debug, thiserror::Error)]
pub enum ProjectionError {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error("position {position}: {source}")]
    Decode { position: i64, source: DecodeError },
    #[error("the projection {0} has no row in the table projections")]
    Unknown(&'static str),
    #[error("another process goes on with the rebuild")]
    TakenOver,
}

impl ProjectionError {
    /// Whether it lies in an event and not in the database's state, so that trying again leads to
    /// the same: it cannot be read, or PostgreSQL refuses what it says (SQLSTATE 22 and 23).
    fn is_of_an_event(&self) -> bool {
        match self {
            Self::Decode { .. } => true,
            Self::Database(error) => error
                .as_database_error()
                .and_then(sqlx::error::DatabaseError::code)
                .is_some_and(|code| code.starts_with("22") || code.starts_with("23")),
            Self::Unknown(_) | Self::TakenOver => false,
        }
    }
}
