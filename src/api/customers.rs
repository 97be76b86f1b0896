//! Create, read, update and delete customers, on the new paths and on those of the original service. A
//! request is parsed here, decided in `commands`, and answered when the read table shows the result.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;

use super::as_of;
use super::body::Body;
use super::coalesced;
use super::conditions;
use super::customer_json::Customer;
use super::error::ApiError;
use super::guard::{Authorized, Editor, Viewer};
use super::headers as header_values;
use super::list_position;
use super::pool_choice::Source;
use super::query::{CustomerPath, Params};
use super::read_your_writes;
use super::reason::with_reasons;
use super::state::Api;
use crate::clock;
use crate::commands::customer;
use crate::commands::{CustomerCommand, ExternalIdChange, IfMatch, Origin, Written};
use crate::events::customer::CustomerValues;
use crate::events::external_id::ExternalId;
use crate::events::metadata::Metadata;
use crate::events::values::{CustomerId, DateOfBirth, Name};

/// The header of a response that is replayed for an `Idempotency-Key`.
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The response to a deletion.
#[derive(Serialize)]
struct Deleted {
    msg: String,
    id: CustomerId,
}

/// `GET /customers/{id}`, `?version=N`, `?as_of=T`
pub(super) async fn show(
    authorized: Authorized<Viewer>,
    State(api): State<Api>,
    source: Source,
    path: CustomerPath,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (row, past) = match params.only(["version", "as_of"])? {
        [None, None] => (
            match read_your_writes::wait_for_present(&api, source, &headers).await? {
                None => coalesced::customer(&api, source, path.id()?).await?,
                position => {
                    coalesced::find(&api, source, position, &[path.id()?]).await?.pop().flatten()
                }
            },
            None,
        ),
        [Some(_), Some(_)] => {
            return Err(ApiError::malformed("as_of", "conflicts with version"));
        }
        [version, as_of] => {
            as_of::require_auditor(&authorized.principal)?;
            as_of::find(&api, source, &headers, &path, version.as_deref(), as_of).await?
        }
    };
    let row = row.ok_or(ApiError::NoCustomer)?;
    let answer = (etag(row.version), Json(Customer::from(&row))).into_response();
    Ok(match past {
        Some(past) => list_position::of_past(answer, &past),
        None => answer,
    })
}

/// `POST /customers`
pub(super) async fn create(
    authorized: Authorized<Editor>,
    State(api): State<Api>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    create_with(StatusCode::CREATED, authorized, &api, params, &headers, body).await
}

/// `POST /customers/create`: the path and the status of the original service.
pub(super) async fn legacy_create(
    authorized: Authorized<Editor>,
    State(api): State<Api>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    create_with(StatusCode::OK, authorized, &api, params, &headers, body).await
}

async fn create_with(
    status: StatusCode,
    authorized: Authorized<Editor>,
    api: &Api,
    params: Params,
    headers: &HeaderMap,
    mut body: Body,
) -> Result<Response, ApiError> {
    params.none()?;
    let (name, dob) = name_and_dob(api, &mut body);
    let external_id = body.optional_text("external_id", ExternalId::parse);
    let reason = body.reason();
    let (name, dob) = body.finish((name, dob))?;
    let origin = origin(authorized.metadata(), headers, reason)?;
    let written = api.bus.create(CustomerValues { name, dob, external_id }, origin).await?;
    created(api, headers, status, &written).await
}

/// The answer to a create.
pub(super) async fn created(
    api: &Api,
    headers: &HeaderMap,
    status: StatusCode,
    written: &Written,
) -> Result<Response, ApiError> {
    let mut response = shown(api, headers, status, written).await?;
    let location = HeaderValue::from_str(&format!("{}/customers/{}", api.public_path, written.id));
    if let Ok(location) = location {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// `PUT /customers/{id}`
pub(super) async fn update(
    authorized: Authorized<Editor>,
    State(api): State<Api>,
    path: CustomerPath,
    mut params: Params,
    headers: HeaderMap,
    mut body: Body,
) -> Result<Response, ApiError> {
    let if_match = params.compared(&headers)?;
    params.none()?;
    let (name, dob) = name_and_dob(&api, &mut body);
    let external_id = external_id_change(&mut body);
    let reason = body.reason();
    let (name, dob) = body.finish((name, dob))?;
    let origin = origin(authorized.metadata(), &headers, reason)?;
    let command = CustomerCommand::Update { name, dob, external_id, if_match };
    overwrite(origin, &api, &headers, path.id()?, command).await
}

/// `POST /customers/update`: the path of the original service, with the id in the body.
pub(super) async fn legacy_update(
    authorized: Authorized<Editor>,
    State(api): State<Api>,
    mut params: Params,
    headers: HeaderMap,
    mut body: Body,
) -> Result<Response, ApiError> {
    let if_match = params.compared(&headers)?;
    params.none()?;
    let id = body.customer_id("id");
    let (name, dob) = name_and_dob(&api, &mut body);
    let external_id = external_id_change(&mut body);
    let reason = body.reason();
    let (id, name, dob) = body.finish((id, name, dob))?;
    let origin = origin(authorized.metadata(), &headers, reason)?;
    let command = CustomerCommand::Update { name, dob, external_id, if_match };
    overwrite(origin, &api, &headers, id, command).await
}

async fn overwrite(
    origin: Origin,
    api: &Api,
    headers: &HeaderMap,
    id: CustomerId,
    command: CustomerCommand,
) -> Result<Response, ApiError> {
    conditions::require_if_match(headers, api.require_if_match)?;
    let written = api.bus.change(id, command, origin).await?;
    shown(api, headers, StatusCode::OK, &written).await
}

/// `DELETE /customers/{id}`
pub(super) async fn delete(
    authorized: Authorized<Editor>,
    State(api): State<Api>,
    path: CustomerPath,
    mut params: Params,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let if_match = params.compared(&headers)?;
    params.none()?;
    let origin = origin(authorized.metadata(), &headers, None)?;
    remove(origin, &api, &headers, path.id()?, if_match).await
}

/// `DELETE /customers/delete?id=n`: the path of the original service.
pub(super) async fn legacy_delete(
    authorized: Authorized<Editor>,
    State(api): State<Api>,
    mut params: Params,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let if_match = params.compared(&headers)?;
    let [id] = params.only(["id"])?;
    let id = id.ok_or_else(|| ApiError::malformed("id", "is required"))?;
    let id = CustomerId::parse(&id).map_err(|error| ApiError::malformed("id", error.0))?;
    let origin = origin(authorized.metadata(), &headers, None)?;
    remove(origin, &api, &headers, id, if_match).await
}

async fn remove(
    origin: Origin,
    api: &Api,
    headers: &HeaderMap,
    id: CustomerId,
    if_match: IfMatch,
) -> Result<Response, ApiError> {
    conditions::require_if_match(headers, api.require_if_match)?;
    let command = CustomerCommand::Delete { if_match };
    let written = api.bus.change(id, command, origin).await?;
    let deleted = Deleted { msg: format!("customer {id} deleted"), id };
    Ok(with_position(api, headers, Json(deleted).into_response(), &written).await)
}

pub(super) fn name_and_dob(api: &Api, body: &mut Body) -> (Option<Name>, Option<DateOfBirth>) {
    let today = api.clock.today();
    (body.text("name", Name::parse), body.text("dob", |text| DateOfBirth::parse(text, today)))
}

/// What becomes of the external id: it stays if the body does not name it.
pub(super) fn external_id_change(body: &mut Body) -> ExternalIdChange {
    let external_id = body.nullable_text("external_id", ExternalId::parse);
    external_id.map_or(ExternalIdChange::Keep, ExternalIdChange::Set)
}

/// The customer after the command, with its version and its position.
pub(super) async fn shown(
    api: &Api,
    headers: &HeaderMap,
    status: StatusCode,
    written: &Written,
) -> Result<Response, ApiError> {
    let customer::State::Present(values) = &written.aggregate.state else {
        return Err(ApiError::Internal("the write returned no customer".to_owned()));
    };
    let customer = Customer {
        id: written.id.get(),
        name: values.name.as_str(),
        dob: values.dob.to_string(),
        external_id: values.external_id.as_ref().map(ExternalId::as_str),
        version: written.version(),
        created_at: clock::rfc3339(written.created_at),
        updated_at: clock::rfc3339(written.updated_at),
    };
    let response = (status, etag(written.version()), Json(customer)).into_response();
    Ok(with_position(api, headers, response, written).await)
}

/// Sets the headers for the position of the write and for a replayed response.
async fn with_position(
    api: &Api,
    headers: &HeaderMap,
    mut response: Response,
    written: &Written,
) -> Response {
    read_your_writes::set_position(api, headers, &mut response, written.id, written.position).await;
    if written.replayed {
        response.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

/// Metadata, reason and idempotency key of a write.
pub(super) fn origin(
    metadata: Metadata,
    headers: &HeaderMap,
    reason: Option<String>,
) -> Result<Origin, ApiError> {
    let key = header_values::idempotency_key(headers)?;
    Ok(Origin { metadata: with_reasons(metadata, headers, reason)?, key })
}

fn etag(version: i64) -> [(HeaderName, String); 1] {
    [(header::ETAG, format!("\"{version}\""))]
}
