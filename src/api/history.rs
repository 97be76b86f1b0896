//! Who changed a customer, when, from where and why: also after its deletion.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::Serialize;

use super::Api;
use super::error::ApiError;
use super::extract::{CustomerPath, Params, page_limit, plain_number};
use super::freshness;
use super::guard::{Allowed, Auditor};
use crate::clock;
use crate::commands::history::{self, Change};

/// A page of a customer's history, oldest first.
#[derive(Serialize)]
pub struct Page {
    customer_id: i64,
    history: Vec<Entry>,
    /// The version to ask for `after` next; null when this is the last page.
    next: Option<i64>,
}

/// One change. What is not known is null.
#[derive(Serialize)]
struct Entry {
    version: i64,
    position: i64,
    event: &'static str,
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

/// `GET /customers/{id}/history?limit=&after=`
pub(super) async fn show(
    allowed: Allowed<Auditor>,
    State(api): State<Api>,
    path: CustomerPath,
    params: Params,
    headers: HeaderMap,
) -> Result<Json<Page>, ApiError> {
    let Allowed { .. } = allowed;
    let [limit, after] = params.only(["limit", "after"])?;
    let limit = page_limit(limit.as_deref())?;
    let after = after.map_or(Ok(0), |after| plain_number("after", &after))?;
    freshness::wait(&api, &headers).await?;
    let id = path.id()?;
    let changes = history::load(api.read(), id).await?;
    if changes.is_empty() {
        return Err(ApiError::NoCustomer);
    }
    let behind = changes.iter().filter(|change| change.version > after).count();
    let history: Vec<Entry> = changes
        .into_iter()
        .filter(|change| change.version > after)
        .take(limit)
        .map(Entry::from)
        .collect();
    let next = history.last().filter(|_| behind > history.len()).map(|entry| entry.version);
    Ok(Json(Page { customer_id: id.get(), history, next }))
}

impl From<Change> for Entry {
    fn from(change: Change) -> Self {
        let mut metadata = change.metadata;
        Self {
            version: change.version,
            position: change.position,
            event: change.event,
            at: clock::rfc3339(change.at),
            actor: metadata.remove("actor"),
            role: metadata.remove("role"),
            request_id: metadata.remove("request_id"),
            ip: metadata.remove("ip"),
            user_agent: metadata.remove("user_agent"),
            reason: metadata.remove("reason"),
            changes: change
                .fields
                .into_iter()
                .map(|field| FieldEntry { field: field.field, from: field.from, to: field.to })
                .collect(),
        }
    }
}
