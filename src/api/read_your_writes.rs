//! Read your own writes: a write is answered when the read table shows it; a read may name a position
//! that it must show.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use tokio::time::Instant;

use super::error::ApiError;
use super::headers as header_values;
use super::pool_choice::{PoolKind, Source};
use super::query::plain_number;
use super::state::Api;
use crate::events::log::read;
use crate::events::values::CustomerId;
use crate::postgres::Pool;
use crate::projections::Projection;
use crate::projections::projector::Projector;
use crate::projections::reader::Reader;

/// How long a request waits for the projection.
const WAIT: Duration = Duration::from_secs(2);

/// How long a replica may take to start its answer.
const REPLICA_ANSWER_LIMIT: Duration = Duration::from_millis(500);

/// How long a request waits until a replica shows the position.
const REPLICA_WAIT: Duration = Duration::from_millis(250);

/// The interval at which the database is queried for a position.
pub(super) const POLL: Duration = Duration::from_millis(10);

/// The position of a write's event, or of the customer's last one if the write changed nothing; of a list, the
/// position that it shows.
pub(super) const EVENT_POSITION: HeaderName = HeaderName::from_static("event-position");

/// The read table does not show the write yet.
const PROJECTION_PENDING: HeaderName = HeaderName::from_static("projection-pending");

/// RFC 7240, section 3.
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// The position that a read must show.
const MIN_EVENT_POSITION: HeaderName = HeaderName::from_static("min-event-position");

/// Waits until the read table shows the write, unless the client prefers not to wait, and sets the headers
/// with its position.
pub(super) async fn set_position(
    api: &Api,
    headers: &HeaderMap,
    response: &mut Response,
    id: CustomerId,
    position: i64,
) {
    let is_applied = if header_values::prefers_async(headers) {
        let applied = HeaderValue::from_static("respond-async");
        response.headers_mut().insert(PREFERENCE_APPLIED, applied);
        api.projector.checkpoint() >= position
    } else {
        wait_for_customers(api, position).await
    };
    // A parked customer's events are not applied until a retry, so there is nothing to wait for.
    let is_shown =
        is_applied && matches!(api.projector.has_parked(&api.short, id.get()).await, Ok(false));
    let headers = response.headers_mut();
    headers.insert(EVENT_POSITION, HeaderValue::from(position));
    if !is_shown {
        headers.insert(PROJECTION_PENDING, HeaderValue::from_static("true"));
    }
}

/// Waits until the read table shows the position; `false` after [`WAIT`].
pub(super) async fn wait_for_customers(api: &Api, position: i64) -> bool {
    api.projector.wait_for_position(position, WAIT).await
}

/// Waits until the histories show the position; 503 after [`WAIT`].
pub(super) async fn wait_for_history(api: &Api, position: i64) -> Result<(), ApiError> {
    wait_for(&api.history, position).await
}

/// Waits until a projection shows the position; 503 after [`WAIT`].
pub(super) async fn wait_for(projector: &Projector, position: i64) -> Result<(), ApiError> {
    if projector.wait_for_position(position, WAIT).await {
        Ok(())
    } else {
        Err(ApiError::PositionNotShown)
    }
}

/// Waits until the histories show what the read table shows, and the position that the read names, so
/// that a customer's history never shows less than its current state. Returns the named position.
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
/// position. 400 beyond the end of the log; 503 after [`WAIT`]. For a replica, [`reader`] waits
/// instead.
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

/// A connection that reads a projection's table. With a position, the database itself confirms that the
/// table shows it, because a crash of PostgreSQL may have lost commits that this process has seen. 503 if
/// the table does not show it in time.
pub(super) async fn reader(
    api: &Api,
    source: Source,
    kind: PoolKind,
    projection: &dyn Projection,
    position: Option<i64>,
) -> Result<Reader, ApiError> {
    let (pool, streams) = (api.pool(source, kind), kind == PoolKind::Long);
    let wait = if source == Source::Replica { REPLICA_WAIT } else { WAIT };
    let deadline = Instant::now() + wait;
    loop {
        let showing = match source {
            Source::Primary => Reader::showing(projection, pool, position, streams).await?,
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

/// A snapshot of the replica. A replica that does not answer is marked unavailable for 1 s.
async fn on_replica(
    api: &Api,
    pool: &Pool,
    projection: &dyn Projection,
    position: Option<i64>,
) -> Result<Option<Reader>, ApiError> {
    // Even without a position, because the answer shows that the replica is reachable.
    let showing = Reader::showing(projection, pool, position.or(Some(0)), false);
    let problem = match tokio::time::timeout(REPLICA_ANSWER_LIMIT, showing).await {
        Ok(Ok(reader)) => return Ok(reader),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer in time".to_owned(),
    };
    tracing::warn!(error = problem, "replica: read failed, reading from the primary");
    if let Some(replica) = &api.replica {
        replica.mark_unavailable();
    }
    Err(ApiError::DatabaseUnavailable(problem))
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
