//! Lists of customers, youngest first. Rows are read at the speed of PostgreSQL and sent at the speed of
//! the client; in between they are kept in memory, or in a spool file if they are many. So a slow client
//! holds no snapshot, and memory stays flat.

use std::pin::pin;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use chrono::NaiveDate;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};

use super::as_of::{self, AsOf, Past};
use super::body::json_answer;
use super::coalesced;
use super::cursor::Cursor;
use super::customer_json::Customer;
use super::customer_page::{PageOf, page_response};
use super::error::ApiError;
use super::guard::{Authorized, Requirement as _, Viewer};
use super::list_position::Shown;
use super::long_answer::{Holds, LongAnswer};
use super::pool_choice::{PoolKind, Source};
use super::query::{Params, page_limit, plain_number};
use super::read_your_writes;
use super::search;
use super::session_watch::SessionWatch;
use super::state::Api;
use crate::projections::customer_history::{self, CustomerHistory};
use crate::projections::customers::{self, Customers, Row};
use crate::projections::{Projection, mark_of};

/// The largest list, in customers, that uses the pool for short queries.
const SHORT_MAX: i64 = 1000;

/// How many long lists one account may have at work, from the query to the end of the answer.
pub const PER_ACCOUNT: usize = 2;

/// How long a long list waits for one of them.
const SLOT_LIMIT: Duration = Duration::from_secs(4);

/// How long a long list waits for the query of another one of its account. One query at a time: each
/// occupies a core and a connection.
const QUERY_LIMIT: Duration = Duration::from_secs(5);

/// How often a long list checks that its session is still open: with the time for the check, it ends within
/// 5 s.
const CHECK_INTERVAL: Duration = Duration::from_secs(4);

/// The query of a list, parsed.
struct ListQuery {
    selection: Selection,
    /// The last customer of the page before.
    after: Option<Cursor>,
    as_of: Option<AsOf>,
}

/// The customers of a list.
enum Selection {
    All,
    Youngest(i64),
    Page(i64),
}

impl ListQuery {
    fn parse(api: &Api, params: Params) -> Result<Asked, ApiError> {
        let [
            numbers,
            number,
            limit,
            after,
            as_of,
            name,
            born_from,
            born_to,
            sort,
            external_id,
            count,
        ] = params.only([
            "numbers",
            "number",
            "limit",
            "after",
            "as_of",
            "name",
            "born_from",
            "born_to",
            "sort",
            "external_id",
            "count",
        ])?;
        let search = search::Parameters {
            name,
            born_from,
            born_to,
            sort,
            external_id,
            count,
            limit: None,
            after: None,
        };
        if search.are_given() {
            let others = [("numbers", &numbers), ("number", &number), ("as_of", &as_of)];
            return match others.into_iter().find(|(_, value)| value.is_some()) {
                Some((other, _)) => Err(ApiError::malformed(other, "conflicts with a search")),
                None => Ok(Asked::Search(search::Parameters { limit, after, ..search })),
            };
        }
        let selection = Selection::parse(numbers, number, limit.as_deref(), after.is_some())?;
        let as_of = as_of.map(AsOf::parse).transpose()?;
        let after = after.map(|after| Cursor::verify(&api.cursor_key, &after)).transpose()?;
        Ok(Asked::List(Self { selection, after, as_of }))
    }
}

/// What a request asks for.
enum Asked {
    List(ListQuery),
    Search(search::Parameters),
}

impl Selection {
    fn parse(
        numbers: Option<String>,
        number: Option<String>,
        limit: Option<&str>,
        has_after: bool,
    ) -> Result<Self, ApiError> {
        let number = match (numbers, number) {
            (Some(_), Some(_)) => {
                return Err(ApiError::malformed("number", "conflicts with numbers"));
            }
            (Some(text), None) => Some(plain_number("numbers", &text)?),
            (None, Some(text)) => Some(plain_number("number", &text)?),
            (None, None) => None,
        };
        match (number, limit.is_some() || has_after) {
            (Some(_), true) => {
                Err(ApiError::malformed("numbers", "conflicts with limit and after"))
            }
            (Some(number), false) => Ok(Self::Youngest(number)),
            (None, true) => Ok(Self::Page(i64::try_from(page_limit(limit)?).unwrap_or(i64::MAX))),
            (None, false) => Ok(Self::All),
        }
    }

    /// How many rows to read; `None` for all.
    fn rows(&self) -> Option<i64> {
        match self {
            Self::All => None,
            Self::Youngest(number) => Some(*number),
            // The additional row shows whether there is another page.
            Self::Page(limit) => Some(limit + 1),
        }
    }
}

/// `GET /customers`, with `numbers=n` or `limit=&after=`, and `as_of=T`; or a search
pub(super) async fn list(
    authorized: Authorized<Viewer>,
    State(api): State<Api>,
    source: Source,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    match ListQuery::parse(&api, params)? {
        Asked::List(query) => listed(authorized, api, source, query, headers).await,
        Asked::Search(parameters) => search::search(&api, source, &headers, parameters).await,
    }
}

async fn listed(
    authorized: Authorized<Viewer>,
    api: Api,
    source: Source,
    query: ListQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (shown, past) = if let Some(as_of) = query.as_of {
        as_of::require_auditor(&authorized.principal)?;
        let past = as_of.resolve(&api, source, &headers).await?;
        (Some(past.position), Some(past))
    } else {
        (read_your_writes::wait_for_present(&api, source, &headers).await?, None)
    };
    let position = past.as_ref().map(|past| past.position);
    if query.after.is_some_and(|after| after.position != position) {
        return Err(ApiError::malformed("after", "belongs to a list of another moment"));
    }
    let after = query.after.map(|after| (after.dob, after.id));
    if shown.is_none()
        && let Some(answer) = short_list(&api, source, &query.selection, after).await?
    {
        return Ok(answer);
    }
    let number = query.selection.rows();
    let is_short = position.is_none() && number.is_some_and(|number| number <= SHORT_MAX);
    let kind = if is_short { PoolKind::Short } else { PoolKind::Long };
    // The query's slot is held until the rows are read.
    let (holds, query_slot) = match kind {
        PoolKind::Short => (None, None),
        PoolKind::Long => {
            let principal = authorized.principal;
            let slot = api.account_lists.take(principal.username(), SLOT_LIMIT).await?;
            let query_slot = api.account_queries.take(principal.username(), QUERY_LIMIT).await?;
            let watch = SessionWatch::start(&api, principal, Viewer::ROLE, CHECK_INTERVAL);
            (Some(Holds { slot, watch }), Some(query_slot))
        }
    };
    let projection: &dyn Projection =
        if position.is_some() { &CustomerHistory } else { &Customers };
    // A snapshot in any case, for the mark of its rows.
    let shown = shown.or(Some(0));
    let mut db = read_your_writes::reader(&api, source, kind, projection, shown).await?;
    let tasks = api.tasks.clone();
    let reading = async move {
        let state = match past {
            None => Shown::Present(mark_of(&Customers, &mut db).await?),
            Some(past) => Shown::Past(past),
        };
        if let Some(unchanged) = state.unchanged(&headers) {
            return Ok(unchanged);
        }
        let rows = match position {
            Some(position) => {
                customer_history::youngest_at(&mut db, position, after, number).left_stream()
            }
            None => customers::youngest(&mut db, after, number).right_stream(),
        };
        let answer = if let Selection::Page(limit) = query.selection {
            let rows: Vec<Row> = rows.try_collect().await?;
            page(&api, rows, limit, state.past())
        } else {
            whole(&api, rows, holds).await
        };
        drop(query_slot);
        answer.map(|answer| state.tell(answer))
    };
    match kind {
        PoolKind::Short => reading.await,
        // To its end, even if the client disconnects: until then the query occupies its connection, and so
        // its slot.
        PoolKind::Long => {
            let read = tasks.spawn_until_shutdown(reading).await;
            let stopped = || ApiError::Unavailable("the process is stopping".to_owned());
            read.map_err(|error| ApiError::Internal(error.to_string()))?.ok_or_else(stopped)?
        }
    }
}

/// A short list of the present, in one round trip; `None` if it is none.
async fn short_list(
    api: &Api,
    source: Source,
    selection: &Selection,
    after: Option<(NaiveDate, i64)>,
) -> Result<Option<Response>, ApiError> {
    let (answer, mark) = match *selection {
        Selection::Youngest(number @ ..=SHORT_MAX) => {
            let list = coalesced::youngest(api, source, number).await?;
            (json_answer(list.json), list.mark)
        }
        Selection::Page(limit @ ..SHORT_MAX) => {
            let kind = PoolKind::Short;
            let mut db = read_your_writes::reader(api, source, kind, &Customers, None).await?;
            let (mark, rows) = customers::youngest_with_mark(&mut db, after, limit + 1).await?;
            (page(api, rows, limit, None)?, mark)
        }
        Selection::All | Selection::Youngest(_) | Selection::Page(_) => return Ok(None),
    };
    Ok(Some(Shown::Present(mark).tell(answer)))
}

/// All rows, in one response that may be spooled to disk.
async fn whole(
    api: &Api,
    rows: impl Stream<Item = Result<Row, sqlx::Error>>,
    holds: Option<Holds>,
) -> Result<Response, ApiError> {
    let mut rows = pin!(rows);
    let mut answer = LongAnswer::new(api);
    let mut count: u64 = 0;
    while let Some(row) = rows.try_next().await? {
        if let Some(Holds { watch, .. }) = &holds {
            if watch.ended().is_cancelled() {
                return Err(watch.error());
            }
            answer.give_way().await;
        }
        if count > 0 {
            answer.pending.push(b',');
        }
        serde_json::to_writer(&mut answer.pending, &Customer::from(&row))
            .map_err(|error| ApiError::Internal(error.to_string()))?;
        count += 1;
        answer.spill().await?;
    }
    answer.pending.extend_from_slice(b"]}");
    let head = format!("{{\"number\":{count},\"customers\":[");
    answer.into_response(head, holds).await
}

/// A page, and a link to the next one (RFC 8288, section 3).
fn page(
    api: &Api,
    mut rows: Vec<Row>,
    limit: i64,
    past: Option<&Past>,
) -> Result<Response, ApiError> {
    let keep = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = rows.len() > keep;
    rows.truncate(keep);
    let next = match rows.last().filter(|_| has_more) {
        Some(row) => {
            let position = past.map(|past| past.position);
            Some(Cursor { dob: row.dob, id: row.id, position }.sign(&api.cursor_key)?)
        }
        None => None,
    };
    let mut link = vec![("limit", limit.to_string())];
    link.extend(past.map(|past| ("as_of", past.text.clone())));
    Ok(page_response(api, PageOf { rows: &rows, next, link }))
}
