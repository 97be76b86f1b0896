//! Read your own writes: a write is answered when the read table shows it; a read may name a position
//! that it must show.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use sqlx::PgPool;
use tokio::time::Instant;

use super::error::ApiError;
use super::headers as header_values;
use super::pool_choice::{PoolKind, Source};
use super::query::plain_number;
use super::state::Api;
use crate::events::log::read;
use crate::events::values::CustomerId;
use crate::projections::Projection;
use crate::projections::snapshot::{self, Reader};

/// How long a request waits for the projection.
const WAIT: Duration = Duration::from_secs(2);

/// How long a replica may take to begin to answer.
const REPLICA_ANSWER_LIMIT: Duration = Duration::from_millis(500);

/// How long a request waits for a replica that does not show the position.
const REPLICA_WAIT: Duration = Duration::from_millis(250);

/// How often the database is asked whether it shows a position.
const POLL: Duration = Duration::from_millis(10);

/// The position of a write's event, or of the customer's last one if the write changed nothing.
const EVENT_POSITION: HeaderName = HeaderName::from_static("event-position");

/// The read table does not show the write yet.
const PROJECTION_PENDING: HeaderName = HeaderName::from_static("projection-pending");

/// RFC 7240, section 3.
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// The position that a read must show.
const MIN_EVENT_POSITION: HeaderName = HeaderName::from_static("min-event-position");

/// Sets the position of a write, once the read table shows it, or at once if the client prefers that.
pub(super) async fn set_position(
    api: &Api,
    headers: &HeaderMap,
    response: &mut Response,
    id: CustomerId,
    position: i64,
) {
    let is_there = if header_values::prefers_async(headers) {
        let applied = HeaderValue::from_static("respond-async");
        response.headers_mut().insert(PREFERENCE_APPLIED, applied);
        api.projector.checkpoint() >= position
    } else {
        wait_for_customers(api, position).await
    };
    // A parked customer's events wait; without an answer nothing is promised.
    let is_shown =
        is_there && matches!(api.projector.has_parked(&api.short, id.get()).await, Ok(false));
    let headers = response.headers_mut();
    headers.insert(EVENT_POSITION, HeaderValue::from(position));
    if !is_shown {
        headers.insert(PROJECTION_PENDING, HeaderValue::from_static("true"));
    }
}

/// Waits until the read table shows the position; `false` if it does not in time.
pub(super) async fn wait_for_customers(api: &Api, position: i64) -> bool {
    api.projector.wait_for_position(position, WAIT).await
}

/// Waits until the histories show the position; 503 if they do not in time.
pub(super) async fn wait_for_history(api: &Api, position: i64) -> Result<(), ApiError> {
    if api.history.wait_for_position(position, WAIT).await {
        Ok(())
    } else {
        Err(ApiError::PositionNotShown)
    }
}

/// Waits until the histories show what the read table shows and the position that the read names: a
/// customer's past never shows less than its present. Returns that position.
pub(super) async fn wait_for_past(
    api: &Api,
    source: Source,
    headers: &HeaderMap,
) -> Result<Option<i64>, ApiError> {
    let position = wait_for_present(api, source, headers).await?;
    if source == Source::Primary {
        wait_for_history(api, api.projector.checkpoint()).await?;
    }
    Ok(position)
}

/// Waits until the read table shows the position that the read names, if it names one; returns that
/// position. 400 beyond the end of the log; 503 if the table does not show it in time. A replica is
/// asked by [`reader`].
pub(super) async fn wait_for_present(
    api: &Api,
    source: Source,
    headers: &HeaderMap,
) -> Result<Option<i64>, ApiError> {
    let Some(position) = min_position(headers)? else { return Ok(None) };
    if source == Source::Replica || api.projector.checkpoint() >= position {
        return Ok(Some(position));
    }
    not_beyond(Some(position), read::head(&api.short).await?)?;
    if wait_for_customers(api, position).await {
        Ok(Some(position))
    } else {
        Err(ApiError::PositionNotShown)
    }
}

/// A connection to read a projection's table from. With a position, the database itself confirms that
/// it is shown: PostgreSQL may have lost in a crash what this process saw last. 503 if it is not in time.
pub(super) async fn reader(
    api: &Api,
    source: Source,
    kind: PoolKind,
    projection: &dyn Projection,
    position: Option<i64>,
) -> Result<Reader, ApiError> {
    let pool = api.pool(source, kind);
    let wait = if source == Source::Replica { REPLICA_WAIT } else { WAIT };
    let deadline = Instant::now() + wait;
    loop {
        let showing = match source {
            Source::Primary => snapshot::showing(projection, pool, position).await?,
            Source::Replica => on_replica(api, pool, projection, position).await?,
        };
        if let Some(reader) = showing {
            return Ok(reader);
        }
        if Instant::now() > deadline {
            return Err(ApiError::PositionNotShown);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// A snapshot of the replica. A replica that does not answer is marked unavailable for a while.
async fn on_replica(
    api: &Api,
    pool: &PgPool,
    projection: &dyn Projection,
    position: Option<i64>,
) -> Result<Option<Reader>, ApiError> {
    // Also without a position: the answer shows that the replica is there.
    let showing = snapshot::showing(projection, pool, position.or(Some(0)));
    let problem = match tokio::time::timeout(REPLICA_ANSWER_LIMIT, showing).await {
        Ok(Ok(reader)) => return Ok(reader),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer in time".to_owned(),
    };
    tracing::warn!(error = problem, "replica: read failed, reading from the primary");
    if let Some(replica) = &api.replica {
        replica.mark_unavailable();
    }
    Err(ApiError::Unavailable(problem))
}

/// The position that a read must show, if it names one.
pub(super) fn min_position(headers: &HeaderMap) -> Result<Option<i64>, ApiError> {
    header_values::header_text(headers, &MIN_EVENT_POSITION)?
        .map(|text| plain_number(MIN_EVENT_POSITION.as_str(), text))
        .transpose()
}

/// 400 when the position is beyond the end of the log.
pub(super) fn not_beyond(position: Option<i64>, head: i64) -> Result<(), ApiError> {
    if position.is_some_and(|position| position > head) {
        return Err(ApiError::malformed(
            MIN_EVENT_POSITION.as_str(),
            "is beyond the end of the log",
        ));
    }
    Ok(())
}
