//! A projection of one table, defined by its row: how whole streams fold to rows, how a row is
//! encoded, how a page changes the table. Backfill, checksum and comparison follow from that.

use std::collections::BTreeMap;
use std::fmt::Debug;

use async_trait::async_trait;
use sqlx::FromRow;
use sqlx::postgres::PgRow;

use super::checksum::Checksum;
use super::projection::{Projection, ProjectionError};
use super::stream_reader::customers_of;
use crate::events::log::StoredEvent;
use crate::postgres::Connection;
use crate::postgres::copy::{CopyEncoder, copy_in, copy_out};

/// A row of a projection's table.
pub trait TableRow: for<'r> FromRow<'r, PgRow> + PartialEq + Debug + Send + Unpin {
    const TABLE: &'static str;

    /// All columns, in the order in which [`TableRow::encode`] writes them.
    const COLUMNS: &'static [&'static str];

    /// The columns of the primary key; the first is the customer's id.
    const KEY: &'static [&'static str];

    /// The row's name for operators, unique in the table: `customer 7`.
    fn label(&self) -> String;

    /// Writes the row's fields, one per column.
    fn encode(&self, row: &mut CopyEncoder) -> Result<(), sqlx::Error>;
}

/// Code that follows the log and keeps one table.
pub trait TableProjection: Send + Sync + 'static {
    /// See [`Projection::name`].
    const NAME: &'static str;

    /// See [`Projection::version`].
    const VERSION: i32;

    type Row: TableRow;

    /// The rows that whole streams fold to. Events of accounts are skipped.
    fn fold(streams: &[StoredEvent]) -> Result<Vec<Self::Row>, ProjectionError>;

    /// See [`Projection::apply`].
    fn apply_page(
        db: &mut Connection,
        page: &[StoredEvent],
    ) -> impl Future<Output = Result<(), ProjectionError>> + Send;
}

#[async_trait]
impl<P: TableProjection> Projection for P {
    fn name(&self) -> &'static str {
        P::NAME
    }

    fn version(&self) -> i32 {
        P::VERSION
    }

    fn table(&self) -> &'static str {
        P::Row::TABLE
    }

    fn key(&self) -> &'static [&'static str] {
        P::Row::KEY
    }

    async fn apply(
        &self,
        db: &mut Connection,
        page: &[StoredEvent],
    ) -> Result<(), ProjectionError> {
        P::apply_page(db, page).await
    }

    async fn backfill(
        &self,
        db: &mut Connection,
        streams: &[StoredEvent],
    ) -> Result<Checksum, ProjectionError> {
        let (mut rows, mut checksum) = (CopyEncoder::default(), Checksum::default());
        for row in P::fold(streams)? {
            let start = rows.len();
            rows.row(P::Row::COLUMNS.len());
            row.encode(&mut rows)?;
            checksum.add(rows.since(start));
        }
        let (table, columns) = (P::Row::TABLE, P::Row::COLUMNS.join(", "));
        let statement = format!("copy {table} ({columns}) from stdin (format binary)");
        copy_in(db, &statement, rows).await?;
        Ok(checksum)
    }

    async fn checksum(&self, db: &mut Connection) -> Result<Checksum, ProjectionError> {
        let (table, columns) = (P::Row::TABLE, P::Row::COLUMNS.join(", "));
        let statement = format!("copy (select {columns} from {table}) to stdout (format binary)");
        let mut checksum = Checksum::default();
        copy_out(db, &statement, |row| checksum.add(row)).await?;
        Ok(checksum)
    }

    async fn compare(
        &self,
        db: &mut Connection,
        streams: &[StoredEvent],
    ) -> Result<(i64, Option<String>), ProjectionError> {
        let expected = P::fold(streams)?;
        let count = i64::try_from(expected.len()).unwrap_or(i64::MAX);
        let statement = format!(
            "select {} from {} where {} = any($1)",
            P::Row::COLUMNS.join(", "),
            P::Row::TABLE,
            P::Row::KEY[0]
        );
        let found: Vec<P::Row> =
            sqlx::query_as(&statement).bind(customers_of(streams)).fetch_all(db).await?;
        let found: BTreeMap<String, P::Row> =
            found.into_iter().map(|row| (row.label(), row)).collect();
        Ok((count, first_difference(expected, found)))
    }
}

fn first_difference<R: TableRow>(
    expected: Vec<R>,
    mut found: BTreeMap<String, R>,
) -> Option<String> {
    for row in expected {
        let label = row.label();
        match found.remove(&label) {
            None => return Some(format!("{label}: in the log, not in the table")),
            Some(other) if other != row => {
                return Some(format!("{label}: the table has {other:?}, the log has {row:?}"));
            }
            Some(_) => {}
        }
    }
    found.into_keys().next().map(|label| format!("{label}: in the table, not in the log"))
}
