//! Searches: a page of those customers that match, in one of four orders. There are two ways to find them, and a page
//! takes the one that reads less: all words with the prefix, from the index of words, or all customers in the order of
//! the list, until the page is full.

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::postgres::PgRow;
use sqlx::{Postgres, QueryBuilder, Row as _};

use super::folding::{Prefix, sort_key};
use super::projection::CustomerSearch;
use crate::projections::customers::{Customers, Row};
use crate::projections::mark::Mark;
use crate::projections::reader::Reader;
use crate::projections::table::TableProjection;

/// How many words are as fast to read as one row of the list is to test.
const WORDS_PER_ROW: f64 = 3.0;

/// How many times as many rows are tested as words are counted: six times those that a page tests on average.
const TESTED: i64 = 2;

/// The bytes of a row of the table, about.
const ROW_BYTES: f64 = 200.0;

/// Which customers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// A word of the name begins with it.
    pub name: Option<Prefix>,
    /// Both included.
    pub born_from: Option<NaiveDate>,
    pub born_to: Option<NaiveDate>,
}

/// The order of a list; ties by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// Youngest first.
    Dob,
    /// By the folded name.
    Name,
    /// Newest first, as by the last change.
    Created,
    Updated,
}

/// What a customer is sorted by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    Day(NaiveDate),
    Name(String),
    Time(DateTime<Utc>),
}

/// A page to read.
#[derive(Debug, Clone)]
pub struct Page {
    pub filter: Filter,
    pub sort: Sort,
    /// The last customer of the page before.
    pub after: Option<(Key, i64)>,
    pub limit: i64,
}

/// What was read, in one snapshot.
#[derive(Debug)]
pub struct Found<T> {
    pub found: T,
    /// The mark of the search.
    pub mark: Mark,
    /// The position that the projection `customers` shows.
    pub present: i64,
}

impl Sort {
    /// The expression of an order, and its direction.
    fn column(self) -> (&'static str, &'static str) {
        match self {
            Self::Dob => ("dob", "desc"),
            Self::Name => ("sort_name", "asc"),
            Self::Created => ("created_at", "desc"),
            Self::Updated => ("updated_at", "desc"),
        }
    }

    /// What the customer is sorted by.
    #[must_use]
    pub fn key(self, row: &Row) -> Key {
        match self {
            Self::Dob => Key::Day(row.dob),
            Self::Name => Key::Name(sort_key(&row.name)),
            Self::Created => Key::Time(row.created_at),
            Self::Updated => Key::Time(row.updated_at),
        }
    }
}

/// How the customers of a page are found.
#[derive(Clone, Copy)]
enum Way<'q> {
    /// In the order of the list.
    InOrder,
    /// In the order of the list, those with the prefix among the first so many.
    Tested(&'q Prefix, i64),
    /// By all words with the prefix.
    ByWords(&'q Prefix),
}

/// The customers of a page.
pub async fn page(db: &mut Reader, page: &Page) -> Result<Found<Vec<Row>>, sqlx::Error> {
    let Some(prefix) = &page.filter.name else { return read(db, page, Way::InOrder).await };
    // Names with one prefix stand together in the order of names, far from its begin perhaps.
    if page.sort != Sort::Name
        && let Some(tested) = worth_testing(db, prefix, page.limit).await?
    {
        let found = read(db, page, Way::Tested(prefix, tested)).await?;
        // Those with the prefix may stand together in this order, too: then there are too few.
        if i64::try_from(found.found.len()).is_ok_and(|number| number >= page.limit) {
            return Ok(found);
        }
    }
    read(db, page, Way::ByWords(prefix)).await
}

async fn read(db: &mut Reader, page: &Page, way: Way<'_>) -> Result<Found<Vec<Row>>, sqlx::Error> {
    let (column, direction) = page.sort.column();
    let order = format!(" order by {column} {direction}, customer_id limit ");
    let mut query = with_checkpoints();
    query.push(" left join lateral (");
    query.push(match way {
        Way::InOrder => "select * from customer_search where place = 1",
        Way::Tested(..) => "select * from (select * from customer_search where place = 1",
        Way::ByWords(_) => "select s.* from (select customer_id from customer_search where ",
    });
    if let Way::ByWords(prefix) = way {
        push_words(&mut query, prefix);
    }
    push_days(&mut query, &page.filter);
    push_after(&mut query, page);
    query.push(&order);
    match way {
        Way::InOrder => {
            query.push_bind(page.limit);
        }
        Way::Tested(prefix, tested) => {
            query.push_bind(tested).push(") tested where strpos(marked, ");
            query.push_bind(&prefix.marked).push(") > 0").push(&order).push_bind(page.limit);
        }
        Way::ByWords(_) => {
            query.push_bind(page.limit).push(
                ") of_page join customer_search s
                     on s.customer_id = of_page.customer_id and s.place = 1",
            );
        }
    }
    query.push(format!(") found on true order by found.{column} {direction}, found.customer_id"));
    let rows = query.build().fetch_all(db).await?;
    found(&rows, |row| {
        Ok(Some(Row {
            id: match row.try_get::<Option<i64>, _>("customer_id")? {
                None => return Ok(None),
                Some(id) => id,
            },
            name: row.try_get("name")?,
            dob: row.try_get("dob")?,
            external_id: row.try_get("external_id")?,
            version: row.try_get("version")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
        }))
    })
}

/// How many customers match.
pub async fn count(db: &mut Reader, filter: &Filter) -> Result<Found<i64>, sqlx::Error> {
    let mut query = with_checkpoints();
    query.push(" left join lateral (select count(*) as number from customer_search where ");
    match &filter.name {
        Some(prefix) => push_words(&mut query, prefix),
        None => {
            query.push("place = 1");
        }
    }
    push_days(&mut query, filter);
    query.push(") found on true");
    let rows = query.build().fetch_all(db).await?;
    let counted = found(&rows, |row| row.try_get::<i64, _>("number").map(Some))?;
    let Found { found, mark, present } = counted;
    Ok(Found { found: found.into_iter().sum(), mark, present })
}

/// How many customers are worth testing for the prefix in the order of the list; `None` if it takes less time to read
/// all words with the prefix. With `words` of `rows`, every so many rows has it, and a page tests some
/// `limit * rows / words` rows. No more words are counted than decide it, and some times as many rows may be tested.
async fn worth_testing(
    db: &mut Reader,
    prefix: &Prefix,
    limit: i64,
) -> Result<Option<i64>, sqlx::Error> {
    let mut query = QueryBuilder::new("with bound as (select floor(sqrt(");
    query.push("pg_relation_size('served.customer_search') / ").push_bind(ROW_BYTES);
    query.push(" * ").push_bind(WORDS_PER_ROW).push(" * ").push_bind(limit);
    query.push("))::bigint as number) select bound.number as bound, (select count(*) from (");
    query.push("select from customer_search where ");
    push_words(&mut query, prefix);
    query.push(" limit bound.number + 1) counted) as words from bound");
    let row = query.build().fetch_one(db).await?;
    let (bound, words): (i64, i64) = (row.try_get("bound")?, row.try_get("words")?);
    Ok((words > bound).then_some(bound * TESTED))
}

/// A query for what comes with the checkpoints of both projections, in one snapshot: one row without a customer at
/// least.
fn with_checkpoints<'q>() -> QueryBuilder<'q, Postgres> {
    let mut query = QueryBuilder::new("select of.*, found.* from (select ");
    let of_projection =
        |query: &mut QueryBuilder<'_, Postgres>, what: &str, name: &'static str, version: i32| {
            query.push(format!("(select {what} from projections where name = ")).push_bind(name);
            query.push(" and version = ").push_bind(version).push(")");
        };
    of_projection(&mut query, "checkpoint", CustomerSearch::NAME, CustomerSearch::VERSION);
    query.push(" as checkpoint, ");
    of_projection(&mut query, "xmin::text::bigint", CustomerSearch::NAME, CustomerSearch::VERSION);
    query.push(" as change, ");
    of_projection(&mut query, "checkpoint", Customers::NAME, Customers::VERSION);
    query.push(" as present, (select id from log_identities where ended_at is null) as log) of");
    query
}

fn found<T>(
    rows: &[PgRow],
    of_row: impl Fn(&PgRow) -> Result<Option<T>, sqlx::Error>,
) -> Result<Found<Vec<T>>, sqlx::Error> {
    let first = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    let found = rows.iter().filter_map(|row| of_row(row).transpose()).collect::<Result<_, _>>()?;
    let mark = Mark {
        version: CustomerSearch::VERSION,
        position: first.try_get("checkpoint")?,
        change: first.try_get("change")?,
        log: first.try_get("log")?,
    };
    Ok(Found { found, mark, present: first.try_get("present")? })
}

/// The words with the prefix, one of each name.
fn push_words<'q>(query: &mut QueryBuilder<'q, Postgres>, prefix: &'q Prefix) {
    query.push("word >= ").push_bind(&prefix.folded);
    if let Some(end) = prefix.end() {
        query.push(" and word < ").push_bind(end);
    }
    query.push(" and shared < ").push_bind(prefix.length);
}

fn push_days(query: &mut QueryBuilder<'_, Postgres>, filter: &Filter) {
    if let Some(day) = filter.born_from {
        query.push(" and dob >= ").push_bind(day);
    }
    if let Some(day) = filter.born_to {
        query.push(" and dob <= ").push_bind(day);
    }
}

/// Those after the last customer of the page before.
fn push_after<'q>(query: &mut QueryBuilder<'q, Postgres>, page: &'q Page) {
    let Some((key, id)) = &page.after else { return };
    let (column, direction) = page.sort.column();
    let beyond = if direction == "desc" { "<" } else { ">" };
    // The first condition is for the index.
    query.push(format!(" and {column} {beyond}= "));
    push_key(query, key);
    query.push(format!(" and ({column} {beyond} "));
    push_key(query, key);
    query.push(" or customer_id > ").push_bind(*id).push(")");
}

fn push_key<'q>(query: &mut QueryBuilder<'q, Postgres>, key: &'q Key) {
    match key {
        Key::Day(day) => query.push_bind(*day),
        Key::Name(name) => query.push_bind(name),
        Key::Time(time) => query.push_bind(*time),
    };
}
