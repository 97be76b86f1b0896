//! A word of a customer's name: one row of `customer_search`.

use chrono::{DateTime, NaiveDate, Utc};

use super::folding::FoldedName;
use crate::postgres::copy::CopyEncoder;
use crate::projections::customers::Row;
use crate::projections::table::TableRow;

/// One word of one customer's name, with what the customers that are found by it are sorted by. The first word of a
/// name has the other values of the customer, too.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Word {
    pub customer_id: i64,
    /// The number of the word in the name, from 1.
    pub place: i16,
    /// The name from this word on, folded.
    #[sqlx(rename = "word")]
    pub rest: String,
    /// How many of its first characters the name has from an earlier word on, too.
    pub shared: i16,
    /// The name, folded.
    pub sort_name: String,
    pub dob: NaiveDate,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// The name, folded, with a mark before each word.
    pub marked: Option<String>,
    pub name: Option<String>,
    pub external_id: Option<String>,
    pub version: Option<i64>,
}

impl Word {
    /// The words of a customer's name.
    pub(super) fn all(row: &Row) -> impl Iterator<Item = Self> {
        let FoldedName { whole, marked, words } = FoldedName::new(&row.name);
        let marked = std::iter::once(Some(marked)).chain(std::iter::repeat(None));
        (1..).zip(words).zip(marked).map(move |((place, (word, shared)), marked)| {
            let is_first = place == 1;
            Self {
                customer_id: row.id,
                place,
                rest: word,
                shared,
                sort_name: whole.clone(),
                dob: row.dob,
                created_at: row.created_at,
                updated_at: row.updated_at,
                marked,
                name: is_first.then(|| row.name.clone()),
                external_id: row.external_id.clone().filter(|_| is_first),
                version: is_first.then_some(row.version),
            }
        })
    }
}

impl TableRow for Word {
    const TABLE: &'static str = "customer_search";
    const COLUMNS: &'static [&'static str] = &[
        "customer_id",
        "place",
        "word",
        "shared",
        "sort_name",
        "dob",
        "created_at",
        "updated_at",
        "marked",
        "name",
        "external_id",
        "version",
    ];
    const KEY: &'static [&'static str] = &["customer_id", "place"];

    fn label(&self) -> String {
        format!("customer {}, word {}", self.customer_id, self.place)
    }

    fn encode(&self, row: &mut CopyEncoder) -> Result<(), sqlx::Error> {
        row.field(self.customer_id)?;
        row.field(self.place)?;
        row.field(self.rest.as_str())?;
        row.field(self.shared)?;
        row.field(self.sort_name.as_str())?;
        row.field(self.dob)?;
        row.field(self.created_at)?;
        row.field(self.updated_at)?;
        row.field(self.marked.as_deref())?;
        row.field(self.name.as_deref())?;
        row.field(self.external_id.as_deref())?;
        row.field(self.version)
    }
}
