//! Read your own writes. A write answers when the read table shows it; a read may ask for a
//! position that it must show.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use sqlx::PgPool;
use tokio::time::Instant;

use super::error::ApiError;
use super::extract;
use super::replica::{self, Source};
use super::{Api, Length};
use crate::events::log::read;
use crate::events::values::CustomerId;
use crate::projections::Projection;
use crate::projections::snapshot::{self, Reader};

/// How long a request waits for the projection.
const WAIT: Duration = Duration::from_secs(2);

/// How often the database is asked whether a position is there.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The position of a write's event, or of the customer's last one if the write changed nothing.
const EVENT_POSITION: HeaderName = HeaderName::from_static("event-position");

/// Says that the read table does not show the write yet.
const PROJECTION_PENDING: HeaderName = HeaderName::from_static("projection-pending");

/// RFC 7240, section 3.
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// The position that a read must show.
const MIN_EVENT_POSITION: HeaderName = HeaderName::from_static("min-event-position");

/// Says where a write stands in the log, once the read table shows it; unless the caller preferred
/// not to wait.
pub(super) async fn mark(
    api: &Api,
    headers: &HeaderMap,
    response: &mut Response,
    id: CustomerId,
    position: i64,
) {
    let is_there = if extract::prefers_async(headers) {
        let applied = HeaderValue::from_static("respond-async");
        response.headers_mut().insert(PREFERENCE_APPLIED, applied);
        api.projector().checkpoint() >= position
    } else {
        shown(api, position).await
    };
    // A parked customer's events wait; what is not known is not promised.
    let is_shown =
        is_there && matches!(api.projector().has_parked(api.read(), id.get()).await, Ok(false));
    let headers = response.headers_mut();
    headers.insert(EVENT_POSITION, HeaderValue::from(position));
    if !is_shown {
        headers.insert(PROJECTION_PENDING, HeaderValue::from_static("true"));
    }
}

/// Waits until the read table shows the position; `false` if it does not in time.
pub(super) async fn shown(api: &Api, position: i64) -> bool {
    api.projector().wait_for_position(position, WAIT).await
}

/// Waits until the histories show the position.
///
/// # Errors
/// When they do not in time.
pub(super) async fn in_history(api: &Api, position: i64) -> Result<(), ApiError> {
    if api.history().wait_for_position(position, WAIT).await {
        Ok(())
    } else {
        Err(ApiError::NotThereYet)
    }
}

/// Waits until the histories show what the read table shows, and the position that the read asks
/// for: nobody is told less of a customer's past than of its present.
///
/// # Errors
/// As for [`wait`].
pub(super) async fn wait_in_history(
    api: &Api,
    source: Source,
    headers: &HeaderMap,
) -> Result<Option<i64>, ApiError> {
    let position = wait(api, source, headers).await?;
    if source == Source::Primary {
        in_history(api, api.projector().checkpoint()).await?;
    }
    Ok(position)
}

/// Waits until the read table shows the position that the read asks for, if it asks; that position.
/// What a replica shows it is asked itself, by [`reader`].
///
/// # Errors
/// When it is no position, lies beyond the end of the log, or is not shown in time.
pub(super) async fn wait(
    api: &Api,
    source: Source,
    headers: &HeaderMap,
) -> Result<Option<i64>, ApiError> {
    let Some(position) = asked(headers)? else { return Ok(None) };
    if source == Source::Replica || api.projector().checkpoint() >= position {
        return Ok(Some(position));
    }
    not_beyond(Some(position), read::head(api.read()).await?)?;
    if shown(api, position).await { Ok(Some(position)) } else { Err(ApiError::NotThereYet) }
}

/// A connection to read a projection's tables from. When a position is asked for, the database
/// itself says that it is there: what this process saw last may have been lost in a crash since.
///
/// # Errors
/// When it is not there in time.
pub(super) async fn reader(
    api: &Api,
    source: Source,
    length: Length,
    projection: &dyn Projection,
    position: Option<i64>,
) -> Result<Reader, ApiError> {
    let pool = api.pool(source, length);
    let wait = if source == Source::Replica { replica::WAIT } else { WAIT };
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
            return Err(ApiError::NotThereYet);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A moment of the replica. One that does not answer at once is left alone for a while.
async fn on_replica(
    api: &Api,
    pool: &PgPool,
    projection: &dyn Projection,
    position: Option<i64>,
) -> Result<Option<Reader>, ApiError> {
    // Also when none is asked for: that it answers this says that it is there.
    let showing = snapshot::showing(projection, pool, position.or(Some(0)));
    let problem = match tokio::time::timeout(replica::ANSWER_LIMIT, showing).await {
        Ok(Ok(reader)) => return Ok(reader),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer in time".to_owned(),
    };
    tracing::warn!(problem, "the replica cannot be read");
    if let Some(replica) = api.replica() {
        replica.leave_alone();
    }
    Err(ApiError::Unavailable(problem))
}

/// The position that a read must show, if it says one.
///
/// # Errors
/// When it is no position.
pub(super) fn asked(headers: &HeaderMap) -> Result<Option<i64>, ApiError> {
    extract::header_text(headers, &MIN_EVENT_POSITION)?
        .map(|text| extract::plain_number(MIN_EVENT_POSITION.as_str(), text))
        .transpose()
}

/// # Errors
/// When the position lies behind the end of the log.
pub(super) fn not_beyond(position: Option<i64>, head: i64) -> Result<(), ApiError> {
    if position.is_some_and(|position| position > head) {
        return Err(ApiError::malformed(
            MIN_EVENT_POSITION.as_str(),
            "lies beyond the end of the log",
        ));
    }
    Ok(())
}
