//! The history of a customer: actor, time, address and reason of each change, also after its deletion.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;

use super::error::ApiError;
use super::event_filter::Span;
use super::events::set_next;
use super::guard::{Auditor, Authorized};
use super::pool_choice::{PoolKind, Source};
use super::query::{CustomerPath, Params, page_limit, plain_number};
use super::read_your_writes;
use super::state::Api;
use crate::clock;
use crate::projections::customer_history::{self, CustomerHistory, Version};

/// A page of a customer's history, oldest first.
#[derive(Serialize)]
pub struct Page {
    customer_id: i64,
    history: Vec<Entry>,
    /// The value of `after` for the next page; null on the last page.
    next: Option<i64>,
}

/// One change; unknown values are null.
#[derive(Serialize)]
struct Entry {
    version: i64,
    position: i64,
    event: String,
    at: String,
    actor: Option<String>,
    role: Option<String>,
    request_id: Option<String>,
    ip: Option<String>,
    user_agent: Option<String>,
    reason: Option<String>,
    changes: Vec<FieldEntry>,
}

#[derive(Serialize)]
struct FieldEntry {
    field: &'static str,
    from: Option<String>,
    to: Option<String>,
}

/// `GET /customers/{id}/history?limit=&after=&from=&to=`
pub(super) async fn show(
    _: Authorized<Auditor>,
    State(api): State<Api>,
    source: Source,
    path: CustomerPath,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let [limit_text, after, from, to] = params.only(["limit", "after", "from", "to"])?;
    let limit = page_limit(limit_text.as_deref())?;
    let mut after = after.map_or(Ok(0), |after| plain_number("after", &after))?;
    let (before, last) = Span::parse(from.as_deref(), to.as_deref())?.bounds();
    let position = read_your_writes::wait_for_past(&api, source, &headers).await?;
    let id = path.id()?;
    let mut db =
        read_your_writes::reader(&api, source, PoolKind::Short, &CustomerHistory, position).await?;
    if let Some(before) = before {
        after = after.max(customer_history::version_at(&mut db, id, before).await?);
    }
    // Includes the state before the page, to which the first change is compared, and one state after it,
    // which shows whether there is another page.
    let mut end = after.saturating_add(i64::try_from(limit).unwrap_or(i64::MAX)).saturating_add(1);
    if let Some(last) = last {
        end = end.min(customer_history::version_at(&mut db, id, last).await?);
    }
    let states = customer_history::versions(&mut db, id, after, end).await?;
    if states.is_empty() && customer_history::versions(&mut db, id, 1, 1).await?.is_empty() {
        return Err(ApiError::NoCustomer);
    }
    let mut history: Vec<Entry> = vec![];
    let mut before = None;
    for state in states {
        if state.version > after {
            history.push(Entry::of(before.as_ref(), &state));
        }
        before = Some(state);
    }
    let more = history.len() > limit;
    history.truncate(limit);
    let next = history.last().filter(|_| more).map(|entry| entry.version);
    let mut response = Json(Page { customer_id: id.get(), history, next }).into_response();
    if let Some(next) = next {
        let others = [("limit", &limit_text), ("from", &from), ("to", &to)];
        let others = others.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?)));
        let path = format!("{}/customers/{id}/history", api.public_path);
        set_next(&mut response, &path, next, others);
    }
    Ok(response)
}

impl Entry {
    /// The change from one state to the next.
    fn of(before: Option<&Version>, state: &Version) -> Self {
        let fields = |state: &Version| {
            [
                ("name", state.name.clone()),
                ("dob", state.dob.map(|dob| dob.to_string())),
                ("external_id", state.external_id.clone()),
            ]
        };
        let nothing = [("name", None), ("dob", None), ("external_id", None)];
        let from = before.map_or(nothing, fields);
        let changes = from
            .into_iter()
            .zip(fields(state))
            .filter(|((_, from), (_, to))| from != to)
            .map(|((field, from), (_, to))| FieldEntry { field, from, to })
            .collect();
        Self {
            version: state.version,
            position: state.position,
            event: state.event_type.clone(),
            at: clock::rfc3339(state.valid_from),
            actor: state.actor.clone(),
            role: state.role.clone(),
            request_id: state.request_id.clone(),
            ip: state.ip.clone(),
            user_agent: state.user_agent.clone(),
            reason: state.reason.clone(),
            changes,
        }
    }
}
