//! Searches: customers by words of their names, by dates of birth and by external ids, in four orders, page by page;
//! and how many there are.

use axum::Json;
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, NaiveDate, Utc};
use rapidhash::v3::rapidhash_v3;
use serde::{Deserialize, Serialize};

use super::cursor;
use super::customer_page::{PageOf, page_response};
use super::error::ApiError;
use super::list_position::Shown;
use super::pool_choice::{PoolKind, Source};
use super::query::page_limit;
use super::read_your_writes;
use super::state::Api;
use crate::events::external_id::ExternalId;
use crate::events::values::NAME_MAX_CHARS;
use crate::projections::customer_search::{
    self, CustomerSearch, Filter, Found, Key, Page, Prefix, Sort,
};
use crate::projections::customers::{self, Customers, Row};
use crate::projections::reader::Reader;
use crate::projections::{Mark, mark_of};

/// The parameters of a search, as the client wrote them.
#[derive(Debug, Default)]
pub(super) struct Parameters {
    pub(super) name: Option<String>,
    pub(super) born_from: Option<String>,
    pub(super) born_to: Option<String>,
    pub(super) sort: Option<String>,
    pub(super) external_id: Option<String>,
    pub(super) count: Option<String>,
    pub(super) limit: Option<String>,
    pub(super) after: Option<String>,
}

/// A search, parsed.
struct Search {
    filter: Filter,
    external_id: Option<ExternalId>,
    sort: Sort,
}

/// The last customer of a page. A cursor is of one search only.
#[derive(Serialize, Deserialize)]
struct Cursor {
    #[serde(rename = "q")]
    search: u64,
    #[serde(rename = "k")]
    key: String,
    #[serde(rename = "i")]
    id: i64,
}

impl Parameters {
    /// Whether there are any besides those of a page.
    pub(super) fn are_given(&self) -> bool {
        self.given().next().is_some()
    }

    /// Those of a search, in the order in which a link has them.
    fn given(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let all = [
            ("name", &self.name),
            ("born_from", &self.born_from),
            ("born_to", &self.born_to),
            ("external_id", &self.external_id),
            ("sort", &self.sort),
            ("count", &self.count),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)))
    }

    fn parse(&self) -> Result<Search, ApiError> {
        let name = self.name.as_deref().map(prefix).transpose()?;
        let born_from = self.born_from.as_deref().map(|text| day("born_from", text)).transpose()?;
        let born_to = self.born_to.as_deref().map(|text| day("born_to", text)).transpose()?;
        if born_from.zip(born_to).is_some_and(|(from, to)| from > to) {
            return Err(ApiError::malformed("born_from", "must not be after born_to"));
        }
        let external_id = self.external_id.as_deref().map(|text| {
            ExternalId::parse(text).map_err(|error| ApiError::malformed("external_id", error.0))
        });
        let sort = match self.sort.as_deref() {
            None | Some("dob") => Sort::Dob,
            Some("name") => Sort::Name,
            Some("created") => Sort::Created,
            Some("updated") => Sort::Updated,
            Some(_) => {
                let shape = "must be one of dob, name, created, updated";
                return Err(ApiError::malformed("sort", shape));
            }
        };
        let filter = Filter { name, born_from, born_to };
        Ok(Search { filter, external_id: external_id.transpose()?, sort })
    }

    /// Whether only the number is asked for.
    fn counts(&self) -> Result<bool, ApiError> {
        match self.count.as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => {
                let others = [("sort", &self.sort), ("limit", &self.limit), ("after", &self.after)];
                match others.into_iter().find(|(_, value)| value.is_some()) {
                    Some((name, _)) => Err(ApiError::malformed(name, "conflicts with count")),
                    None => Ok(true),
                }
            }
            Some(_) => Err(ApiError::malformed("count", "must be true or false")),
        }
    }

    /// What tells this search from another one.
    fn hash(&self) -> u64 {
        let given: Vec<_> = self.given().collect();
        rapidhash_v3(format!("{given:?}").as_bytes())
    }
}

/// `GET /customers?name=&born_from=&born_to=&external_id=&sort=&limit=&after=`, and `?count=true`
pub(super) async fn search(
    api: &Api,
    source: Source,
    headers: &HeaderMap,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let search = parameters.parse()?;
    if parameters.counts()? {
        let named = read_your_writes::wait_for_present(api, source, headers).await?;
        return count(api, source, named, &search).await;
    }
    let limit = i64::try_from(page_limit(parameters.limit.as_deref())?).unwrap_or(i64::MAX);
    let after = match parameters.after.as_deref() {
        None => None,
        Some(text) => {
            let cursor: Cursor = cursor::verify(&api.cursor_key, text)?;
            let key = (cursor.search == parameters.hash()).then(|| key(search.sort, cursor.key));
            let key = key.flatten().ok_or_else(cursor::of_another_list)?;
            Some((key, cursor.id))
        }
    };
    let named = read_your_writes::wait_for_present(api, source, headers).await?;
    let (mut rows, mark) = if let Some(external_id) = &search.external_id {
        of_external_id(api, source, named, external_id, &search).await?
    } else {
        // The additional row shows whether there is another page.
        let filter = search.filter.clone();
        let page = Page { filter, sort: search.sort, after, limit: limit + 1 };
        let mut freshness = Freshness { api, source, least: named, rounds: 0 };
        loop {
            let mut db = freshness.reader().await?;
            let read = customer_search::page(&mut db, &page).await?;
            if let Some(shown) = freshness.accept(read) {
                break shown;
            }
        }
    };
    let keep = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = rows.len() > keep;
    rows.truncate(keep);
    let next = match rows.last().filter(|_| has_more) {
        None => None,
        Some(row) => {
            let (search, key) = (parameters.hash(), key_text(search.sort.key(row)));
            Some(cursor::sign(&Cursor { search, key, id: row.id }, &api.cursor_key)?)
        }
    };
    let mut link = vec![("limit", limit.to_string())];
    link.extend(parameters.given().map(|(name, value)| (name, value.to_owned())));
    let answer = page_response(api, PageOf { rows: &rows, next, link });
    Ok(Shown::Present(mark).tell(answer))
}

/// The number of those who match.
async fn count(
    api: &Api,
    source: Source,
    named: Option<i64>,
    search: &Search,
) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct Counted {
        number: i64,
    }
    let (number, position) = if let Some(external_id) = &search.external_id {
        let (rows, mark) = of_external_id(api, source, named, external_id, search).await?;
        (i64::try_from(rows.len()).unwrap_or(i64::MAX), mark.position)
    } else if search.filter == Filter::default() {
        let kind = PoolKind::Short;
        let mut db = read_your_writes::reader(api, source, kind, &Customers, named).await?;
        api.customer_count.read(&mut db).await?
    } else {
        let mut freshness = Freshness { api, source, least: named, rounds: 0 };
        loop {
            let mut db = freshness.reader().await?;
            let read = customer_search::count(&mut db, &search.filter).await?;
            if let Some((number, mark)) = freshness.accept(read) {
                break (number, mark.position);
            }
        }
    };
    let headers = [(read_your_writes::EVENT_POSITION, position.to_string())];
    Ok((headers, Json(Counted { number })).into_response())
}

/// How often a search is read until it shows what it has to. On the primary the second time does, but after a crash of
/// PostgreSQL; a replica follows within 250 ms, or is given up.
const ROUNDS_MAX: usize = 25;

/// Sees to it that a search shows all that the projection `customers` shows, as a list does, and the position that the
/// request names.
struct Freshness<'a> {
    api: &'a Api,
    source: Source,
    /// The position that must be shown, as soon as it is known.
    least: Option<i64>,
    rounds: usize,
}

impl Freshness<'_> {
    /// A reader for the next attempt, when the position may be shown.
    async fn reader(&mut self) -> Result<Reader, ApiError> {
        let Self { api, source, least, .. } = *self;
        self.rounds += 1;
        if self.rounds > ROUNDS_MAX {
            return Err(ApiError::PositionNotShown);
        }
        match (source, least) {
            (Source::Primary, Some(least)) => {
                read_your_writes::wait_for(&api.search, least).await?;
            }
            (Source::Replica, _) if self.rounds > 1 => {
                tokio::time::sleep(read_your_writes::POLL).await;
            }
            (Source::Primary, None) | (Source::Replica, _) => {}
        }
        read_your_writes::reader(api, source, PoolKind::Short, &CustomerSearch, None).await
    }

    /// What was read with its position, if that is enough.
    fn accept<T>(&mut self, read: Found<T>) -> Option<(T, Mark)> {
        let least = *self.least.get_or_insert(read.present);
        (read.mark.position >= least).then_some((read.found, read.mark))
    }
}

/// The customers with the external id of those that match: one, if the projection is between two positions at most.
async fn of_external_id(
    api: &Api,
    source: Source,
    named: Option<i64>,
    external_id: &ExternalId,
    search: &Search,
) -> Result<(Vec<Row>, Mark), ApiError> {
    let (kind, named) = (PoolKind::Short, named.or(Some(0)));
    // A snapshot, for the mark of its rows.
    let mut db = read_your_writes::reader(api, source, kind, &Customers, named).await?;
    let mark = mark_of(&Customers, &mut db).await?;
    let mut rows = customers::of_external_id(&mut db, external_id).await?;
    let Filter { name, born_from, born_to } = &search.filter;
    rows.retain(|row| {
        name.as_ref().is_none_or(|prefix| prefix.is_in(&row.name))
            && born_from.is_none_or(|day| row.dob >= day)
            && born_to.is_none_or(|day| row.dob <= day)
    });
    Ok((rows, mark))
}

fn prefix(text: &str) -> Result<Prefix, ApiError> {
    if text.chars().count() > NAME_MAX_CHARS {
        return Err(ApiError::malformed("name", "must have at most 128 characters"));
    }
    if text.contains('\0') {
        return Err(ApiError::malformed("name", "must have no NUL"));
    }
    Prefix::new(text).ok_or_else(|| ApiError::malformed("name", "must not be empty"))
}

fn day(name: &str, text: &str) -> Result<NaiveDate, ApiError> {
    let shaped = text.len() == 10 && text.bytes().next().is_some_and(|byte| byte.is_ascii_digit());
    let day = shaped.then(|| text.parse().ok()).flatten();
    day.ok_or_else(|| ApiError::malformed(name, "must be a real date written YYYY-MM-DD"))
}

fn key_text(key: Key) -> String {
    match key {
        Key::Day(day) => day.to_string(),
        Key::Name(name) => name,
        Key::Time(time) => time.timestamp_micros().to_string(),
    }
}

fn key(sort: Sort, text: String) -> Option<Key> {
    match sort {
        Sort::Dob => text.parse().ok().map(Key::Day),
        Sort::Name => Some(Key::Name(text)),
        Sort::Created | Sort::Updated => {
            DateTime::<Utc>::from_timestamp_micros(text.parse().ok()?).map(Key::Time)
        }
    }
}
