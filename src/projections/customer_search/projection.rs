//! The projection that keeps the words of all names.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::word::Word;
use crate::events::log::StoredEvent;
use crate::postgres::Connection;
use crate::projections::customers::row_of;
use crate::projections::last_changes;
use crate::projections::projection::ProjectionError;
use crate::projections::table::{TableProjection, copy_many};

/// Keeps the table `customer_search`.
pub struct CustomerSearch;

impl TableProjection for CustomerSearch {
    const NAME: &'static str = "customer_search";
    const VERSION: i32 = 1;
    /// No write waits for it, and a search makes it go on at once.
    const PACE: Duration = Duration::from_millis(250);
    type Row = Word;

    fn fold(streams: &[StoredEvent]) -> Result<Vec<Word>, ProjectionError> {
        let changes = last_changes::fold(streams)?;
        let rows = changes.iter().filter_map(|(id, change)| row_of(*id, change));
        Ok(rows.flat_map(|row| Word::all(&row).collect::<Vec<_>>()).collect())
    }

    async fn apply_page(db: &mut Connection, page: &[StoredEvent]) -> Result<(), ProjectionError> {
        let changes = last_changes::fold(page)?;
        let later: Vec<i64> =
            changes.iter().filter(|(_, change)| !change.is_new()).map(|(id, _)| *id).collect();
        let created_at = if later.is_empty() {
            HashMap::new()
        } else {
            sqlx::query!("delete from customer_search where customer_id = any($1)", &later)
                .execute(&mut *db)
                .await?;
            times_of_creation(db, &later).await?
        };
        let mut words = vec![];
        for (id, change) in &changes {
            if let Some(mut row) = row_of(*id, change) {
                row.created_at = created_at.get(id).copied().unwrap_or(row.created_at);
                words.extend(Word::all(&row));
            }
        }
        if !copy_many(db, &words).await? {
            insert(db, &words).await?;
        }
        Ok(())
    }
}

/// The times of the customers' first events.
async fn times_of_creation(
    db: &mut Connection,
    ids: &[i64],
) -> Result<HashMap<i64, DateTime<Utc>>, sqlx::Error> {
    let rows = sqlx::query!(
        "select asked.id as \"id!\", e.recorded_at
         from unnest($1::bigint[]) as asked (id)
         join events e
           on e.aggregate_type = 'customer' and e.aggregate_id = asked.id::text and e.sequence = 1",
        ids
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.recorded_at)).collect())
}

async fn insert(db: &mut Connection, words: &[Word]) -> Result<(), sqlx::Error> {
    fn all<T>(words: &[Word], of: impl Fn(&Word) -> T) -> Vec<T> {
        words.iter().map(of).collect()
    }
    if words.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "insert into customer_search (
             customer_id, place, word, shared, sort_name, dob, created_at, updated_at, marked, name,
             external_id, version
         )
         select * from unnest(
             $1::bigint[], $2::smallint[], $3::text[], $4::smallint[], $5::text[], $6::date[],
             $7::timestamptz[], $8::timestamptz[], $9::text[], $10::text[], $11::text[], $12::bigint[])",
        &all(words, |word| word.customer_id),
        &all(words, |word| word.place),
        &all(words, |word| word.rest.clone()),
        &all(words, |word| word.shared),
        &all(words, |word| word.sort_name.clone()),
        &all(words, |word| word.dob),
        &all(words, |word| word.created_at),
        &all(words, |word| word.updated_at),
        &all(words, |word| word.marked.clone()) as &[Option<String>],
        &all(words, |word| word.name.clone()) as &[Option<String>],
        &all(words, |word| word.external_id.clone()) as &[Option<String>],
        &all(words, |word| word.version) as &[Option<i64>],
    )
    .execute(db)
    .await?;
    Ok(())
}
