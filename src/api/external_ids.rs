//! Customers by the ids that other systems have for them.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;

use super::body::Body;
use super::conditions;
use super::customers::{created, name_and_dob, origin, shown};
use super::error::ApiError;
use super::guard::{Authorized, Editor};
use super::query::{Params, PathName};
use super::state::Api;
use crate::events::customer::CustomerValues;
use crate::events::external_id::ExternalId;
use crate::events::values::ValueError;

/// `PUT /customers/external/{external_id}`
pub(super) async fn put(
    authorized: Authorized<Editor>,
    State(api): State<Api>,
    PathName(external_id): PathName,
    mut params: Params,
    headers: HeaderMap,
    mut body: Body,
) -> Result<Response, ApiError> {
    let if_match = params.compared(&headers)?;
    params.none()?;
    let (name, dob) = name_and_dob(&api, &mut body);
    let reason = body.reason();
    let named = body.optional_text("external_id", ExternalId::parse);
    let parsed = external_id.ok_or(ValueError("must be UTF-8"));
    let parsed = parsed.and_then(|text| ExternalId::parse(&text)).and_then(|id| match &named {
        Some(named) if *named != id => Err(ValueError("must be that of the address")),
        Some(_) | None => Ok(id),
    });
    let external_id = body.checked("external_id", parsed);
    let (name, dob, external_id) = body.finish((name, dob, external_id))?;
    // A create names no version, but that there is none.
    if !headers.contains_key(header::IF_NONE_MATCH) {
        conditions::require_if_match(&headers, api.require_if_match)?;
    }
    let origin = origin(authorized.metadata(), &headers, reason)?;
    // `If-Match`, also `*`, is of a customer that is there (RFC 9110, section 13.1.1).
    let may_create = !headers.contains_key(header::IF_MATCH);
    let values = CustomerValues { name, dob, external_id: Some(external_id) };
    let (written, is_new) = api.bus.put(values, if_match, may_create, origin).await?;
    if is_new {
        created(&api, &headers, StatusCode::CREATED, &written).await
    } else {
        shown(&api, &headers, StatusCode::OK, &written).await
    }
}
