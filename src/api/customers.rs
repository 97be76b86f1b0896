//! Customers: create, read, update, delete, in both spellings. What is asked is parsed here, decided
//! in `commands`, and answered when the read table shows it.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;

use super::error::ApiError;
use super::extract::{self, Body, CustomerPath, Params};
use super::freshness;
use super::guard::{Allowed, Editor, Viewer};
use super::past;
use super::replica::Source;
use super::{Api, Length};
use crate::clock;
use crate::commands::customer;
use crate::commands::{CustomerCommand, IfMatch, Origin, Written};
use crate::events::metadata::Metadata;
use crate::events::values::{CustomerId, DateOfBirth, Name, ValueError};
use crate::projections::customers::{self, Customers, Row};

/// Says that the request was done before, under the same `Idempotency-Key`.
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// A customer as the API shows it.
#[derive(Debug, Serialize)]
pub struct Customer<'a> {
    id: i64,
    name: &'a str,
    dob: String,
    version: i64,
    created_at: String,
    updated_at: String,
}

impl<'a> From<&'a Row> for Customer<'a> {
    fn from(row: &'a Row) -> Self {
        Self {
            id: row.id,
            name: &row.name,
            dob: row.dob.to_string(),
            version: row.version,
            created_at: clock::rfc3339(row.created_at),
            updated_at: clock::rfc3339(row.updated_at),
        }
    }
}

/// The answer to a deletion.
#[derive(Serialize)]
struct Deleted {
    msg: String,
    id: CustomerId,
}

/// `GET /customers/{id}`, `?version=N`, `?as_of=T`
pub(super) async fn show(
    allowed: Allowed<Viewer>,
    State(api): State<Api>,
    source: Source,
    path: CustomerPath,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let row = match params.only(["version", "as_of"])? {
        [None, None] => {
            let position = freshness::wait(&api, source, &headers).await?;
            let mut db =
                freshness::reader(&api, source, Length::Short, &Customers, position).await?;
            customers::find(&mut db, path.id()?).await?
        }
        [Some(_), Some(_)] => {
            return Err(ApiError::malformed("as_of", "conflicts with version"));
        }
        [version, as_of] => {
            past::allowed(&allowed.principal)?;
            past::find(&api, source, &headers, &path, version.as_deref(), as_of.as_deref()).await?
        }
    };
    let row = row.ok_or(ApiError::NoCustomer)?;
    Ok((etag(row.version), Json(Customer::from(&row))).into_response())
}

/// `POST /customers`
pub(super) async fn create(
    allowed: Allowed<Editor>,
    State(api): State<Api>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    create_with(StatusCode::CREATED, allowed, &api, params, &headers, body).await
}

/// `POST /customers/create`: the original's spelling and status.
pub(super) async fn create_spelled_out(
    allowed: Allowed<Editor>,
    State(api): State<Api>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    create_with(StatusCode::OK, allowed, &api, params, &headers, body).await
}

async fn create_with(
    status: StatusCode,
    allowed: Allowed<Editor>,
    api: &Api,
    params: Params,
    headers: &HeaderMap,
    mut body: Body,
) -> Result<Response, ApiError> {
    params.none()?;
    let (name, dob) = name_and_dob(api, &mut body);
    body.finish()?;
    let (Some(name), Some(dob)) = (name, dob) else { return Err(unfinished()) };
    let origin = origin(allowed.metadata, headers)?;
    let written = api.bus().create(name, dob, origin).await?;
    let mut response = shown(api, headers, status, &written).await?;
    let location = HeaderValue::from_str(&format!("/customers/{}", written.id));
    if let Ok(location) = location {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// `PUT /customers/{id}`
pub(super) async fn update(
    allowed: Allowed<Editor>,
    State(api): State<Api>,
    path: CustomerPath,
    params: Params,
    headers: HeaderMap,
    mut body: Body,
) -> Result<Response, ApiError> {
    params.none()?;
    let (name, dob) = name_and_dob(&api, &mut body);
    body.finish()?;
    let (Some(name), Some(dob)) = (name, dob) else { return Err(unfinished()) };
    let if_match = extract::if_match(&headers)?;
    let origin = origin(allowed.metadata, &headers)?;
    overwrite(origin, &api, &headers, path.id()?, (name, dob), if_match).await
}

/// `POST /customers/update`: the original's spelling, the id in the body.
pub(super) async fn update_spelled_out(
    allowed: Allowed<Editor>,
    State(api): State<Api>,
    params: Params,
    headers: HeaderMap,
    mut body: Body,
) -> Result<Response, ApiError> {
    params.none()?;
    let id = body.customer_id("id");
    let (name, dob) = name_and_dob(&api, &mut body);
    body.finish()?;
    let (Some(id), Some(name), Some(dob)) = (id, name, dob) else { return Err(unfinished()) };
    let if_match = extract::if_match(&headers)?;
    let origin = origin(allowed.metadata, &headers)?;
    overwrite(origin, &api, &headers, id, (name, dob), if_match).await
}

async fn overwrite(
    origin: Origin,
    api: &Api,
    headers: &HeaderMap,
    id: CustomerId,
    (name, dob): (Name, DateOfBirth),
    if_match: IfMatch,
) -> Result<Response, ApiError> {
    let command = CustomerCommand::Update { name, dob, if_match };
    let written = api.bus().change(id, command, origin).await?;
    shown(api, headers, StatusCode::OK, &written).await
}

/// `DELETE /customers/{id}`
pub(super) async fn delete(
    allowed: Allowed<Editor>,
    State(api): State<Api>,
    path: CustomerPath,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    params.none()?;
    let if_match = extract::if_match(&headers)?;
    let origin = origin(allowed.metadata, &headers)?;
    remove(origin, &api, &headers, path.id()?, if_match).await
}

/// `DELETE /customers/delete?id=n`: the original's spelling.
pub(super) async fn delete_spelled_out(
    allowed: Allowed<Editor>,
    State(api): State<Api>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let [id] = params.only(["id"])?;
    let id = id.ok_or_else(|| ApiError::malformed("id", "is required"))?;
    let id = CustomerId::parse(&id).map_err(|error| ApiError::malformed("id", error.0))?;
    let if_match = extract::if_match(&headers)?;
    let origin = origin(allowed.metadata, &headers)?;
    remove(origin, &api, &headers, id, if_match).await
}

async fn remove(
    origin: Origin,
    api: &Api,
    headers: &HeaderMap,
    id: CustomerId,
    if_match: IfMatch,
) -> Result<Response, ApiError> {
    let command = CustomerCommand::Delete { if_match };
    let written = api.bus().change(id, command, origin).await?;
    let deleted = Deleted { msg: format!("customer {id} deleted"), id };
    Ok(marked(api, headers, Json(deleted).into_response(), &written).await)
}

fn name_and_dob(api: &Api, body: &mut Body) -> (Option<Name>, Option<DateOfBirth>) {
    let today = api.clock().today();
    (body.text("name", Name::parse), body.text("dob", |text| DateOfBirth::parse(text, today)))
}

/// `Body::finish` has refused a body that left a value out; this keeps the compiler sure of it.
fn unfinished() -> ApiError {
    ApiError::invalid("body", ValueError("is incomplete"))
}

/// The customer as the command left it, with its version and its place in the log.
async fn shown(
    api: &Api,
    headers: &HeaderMap,
    status: StatusCode,
    written: &Written,
) -> Result<Response, ApiError> {
    let customer::State::Present { name, dob } = &written.aggregate.state else {
        return Err(ApiError::Internal("an update left no customer".to_owned()));
    };
    let customer = Customer {
        id: written.id.get(),
        name: name.as_str(),
        dob: dob.to_string(),
        version: written.version(),
        created_at: clock::rfc3339(written.created_at),
        updated_at: clock::rfc3339(written.updated_at),
    };
    let response = (status, etag(written.version()), Json(customer)).into_response();
    Ok(marked(api, headers, response, written).await)
}

/// Says where the write stands in the log, and whether it was done before.
async fn marked(
    api: &Api,
    headers: &HeaderMap,
    mut response: Response,
    written: &Written,
) -> Response {
    freshness::mark(api, headers, &mut response, written.id, written.position).await;
    if written.replayed {
        response.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

/// Who asks, why, and under which key.
fn origin(metadata: Metadata, headers: &HeaderMap) -> Result<Origin, ApiError> {
    let key = extract::idempotency_key(headers)?;
    Ok(Origin { metadata: extract::with_reason(metadata, headers)?, key })
}

fn etag(version: i64) -> [(HeaderName, String); 1] {
    [(header::ETAG, format!("\"{version}\""))]
}
