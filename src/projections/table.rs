//! A projection of one table, defined by its row: how whole streams fold to rows, how a row is
//! encoded, how a page changes the table. Backfill, checksum and comparison follow from that.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::FromRow;
use sqlx::postgres::PgRow;

use super::checksum::Checksum;
use super::projection::{Projection, ProjectionError};
use super::stream_reader::customers_of;
use crate::events::log::StoredEvent;
use crate::postgres::Connection;
use crate::postgres::copy::{CopyEncoder, copy_in, copy_out};

/// How many rows COPY needs to be faster than a statement, in spite of its round trips.
const COPY_MIN: usize = 200;

/// A row of a projection's table.
pub trait TableRow: for<'r> FromRow<'r, PgRow> + PartialEq + Debug + Send + Sync + Unpin {
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

    /// See [`Projection::pace`].
    const PACE: Duration = Duration::from_millis(20);

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

    fn pace(&self) -> Duration {
        P::PACE
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
        let mut checksum = Checksum::default();
        copy_rows(db, &P::fold(streams)?, |row| checksum.add(row)).await?;
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

/// Adds rows with new keys by COPY, if there are so many that it is faster than a statement. Returns whether it
/// did: PostgreSQL refuses it for a table whose policies apply to the service, and calls no rule on insert for it.
pub(super) async fn copy_many<R: TableRow>(
    db: &mut Connection,
    rows: &[R],
) -> Result<bool, sqlx::Error> {
    if rows.len() < COPY_MIN {
        return Ok(false);
    }
    let takes_copy = sqlx::query_scalar!(
        r#"select not row_security_active($1::text) and not exists (
               select from pg_rewrite where ev_class = $1::text::regclass and ev_type = '3'
           ) as "takes_copy!""#,
        R::TABLE
    );
    if !takes_copy.fetch_one(&mut *db).await? {
        return Ok(false);
    }
    copy_rows(db, rows, |_| {}).await?;
    Ok(true)
}

/// Adds rows by COPY. `each` gets the bytes of each row.
async fn copy_rows<R: TableRow>(
    db: &mut Connection,
    rows: &[R],
    mut each: impl FnMut(&[u8]),
) -> Result<(), sqlx::Error> {
    let mut encoded = CopyEncoder::default();
    for row in rows {
        let start = encoded.len();
        encoded.row(R::COLUMNS.len());
        row.encode(&mut encoded)?;
        each(encoded.since(start));
    }
    let (table, columns) = (R::TABLE, R::COLUMNS.join(", "));
    copy_in(db, &format!("copy {table} ({columns}) from stdin (format binary)"), encoded).await
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
