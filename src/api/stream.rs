//! The event feed as a stream of Server-Sent Events (WHATWG HTML, section 9.2). A stream ends with its
//! session, with the process, or when the client stops reading.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::error::ApiError;
use super::guard::{Auditor, Authorized, Requirement as _};
use super::headers::header_text;
use super::query::{Params, plain_number};
use super::state::Api;
use crate::auth::Principal;
use crate::events::log::{DecodeError, StoredEvent, read};
use crate::feed::event_format;
use crate::feed::tail::Follower;

/// How many streams one process serves.
pub const STREAMS_MAX: usize = 1000;

/// The time without an event after which a comment is sent, so that both sides notice a dead connection.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// How often a stream checks that its session is still open.
const CHECK_EVERY: Duration = Duration::from_secs(5);

/// How long a stream continues while Redis does not answer.
const UNCHECKED_MAX: Duration = Duration::from_secs(15);

/// The time after which a client reconnects, in milliseconds.
const RETRY: u32 = 2000;

/// The header with the last event that a reconnecting client has seen.
const LAST_EVENT_ID: &str = "last-event-id";

/// `GET /events/stream?after=`
pub(super) async fn stream(
    authorized: Authorized<Auditor>,
    State(api): State<Api>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let [after] = params.only(["after"])?;
    let after = after.map(|after| plain_number("after", &after)).transpose()?;
    // A browser that reconnects repeats the query, and adds the last event that it has seen.
    let last = header_text(&headers, &HeaderName::from_static(LAST_EVENT_ID))?
        .map(|last| plain_number(LAST_EVENT_ID, last))
        .transpose()?;
    let head = read::head(&api.short).await?;
    let (name, from) = match (last, after) {
        (Some(last), _) => (LAST_EVENT_ID, last),
        (None, after) => ("after", after.unwrap_or(head)),
    };
    if from > head {
        return Err(ApiError::malformed(name, "is beyond the end of the log"));
    }
    let slot =
        Arc::clone(&api.stream_slots).try_acquire_owned().map_err(|_| ApiError::Overloaded)?;
    let stream = Stream {
        follower: api.tail.follow(from, head),
        principal: authorized.principal,
        checked_at: Instant::now(),
        check_at: Instant::now() + CHECK_EVERY,
        sent_at: Instant::now(),
        api,
        _slot: StreamSlot::new(slot),
    };
    // A client that is disconnected before its first event can resume from this position.
    let opening = Bytes::from(format!("retry: {RETRY}\nid: {from}\n\n"));
    let body = stream::unfold((Some(opening), stream), async |(opening, mut stream)| {
        let frames = match opening {
            Some(opening) => Some(opening),
            None => stream.next().await,
        };
        frames.map(|frames| (Ok::<_, std::convert::Infallible>(frames), (None, stream)))
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        // Turns off the buffering of nginx.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ]
    .map(|(name, value)| (name, HeaderValue::from_static(value)));
    Ok((headers, Body::from_stream(body)).into_response())
}

/// One event: its position, and the object of the feed.
pub fn frame(event: &StoredEvent) -> Result<String, DecodeError> {
    // The encoded JSON has no line feed, so one `data` line is enough.
    Ok(format!("id: {}\ndata: {}\n\n", event.position, event_format::json(event)?))
}

/// The state of one stream.
struct Stream {
    api: Api,
    follower: Follower,
    principal: Principal,
    /// When Redis last confirmed that the session is open.
    checked_at: Instant,
    check_at: Instant,
    sent_at: Instant,
    _slot: StreamSlot,
}

impl Stream {
    /// The next bytes to send; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Bytes> {
        let stopping = self.api.stopping.clone();
        loop {
            tokio::select! {
                // In this order, so that nothing is sent after the stream must end.
                biased;
                () = stopping.cancelled() => return None,
                () = tokio::time::sleep_until(self.check_at) => {
                    if !self.is_authorized().await {
                        return None;
                    }
                    self.check_at = Instant::now() + CHECK_EVERY;
                }
                frames = self.follower.next() => {
                    self.sent_at = Instant::now();
                    return frames.unwrap_or_else(|error| {
                        tracing::warn!(%error, "event stream: log read failed, stream ended");
                        None
                    });
                }
                () = tokio::time::sleep_until(self.sent_at + HEARTBEAT) => {
                    self.sent_at = Instant::now();
                    return Some(Bytes::from_static(b": nothing new\n\n"));
                }
            }
        }
    }

    /// Whether the session is open with a sufficient role, or was within [`UNCHECKED_MAX`].
    async fn is_authorized(&mut self) -> bool {
        match self.api.auth.role_of(&self.principal).await {
            Ok(role) => {
                self.checked_at = Instant::now();
                role.is_some_and(|role| role.covers(Auditor::ROLE))
            }
            Err(error) => {
                tracing::warn!(%error, "event stream: session check failed, retrying");
                self.checked_at.elapsed() < UNCHECKED_MAX
            }
        }
    }
}

/// A slot of the streams, counted in the metrics while it is held.
struct StreamSlot(#[expect(dead_code, reason = "held until the stream ends")] OwnedSemaphorePermit);

impl StreamSlot {
    fn new(slot: OwnedSemaphorePermit) -> Self {
        metrics::gauge!("customers_event_streams").increment(1.0);
        Self(slot)
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        metrics::gauge!("customers_event_streams").decrement(1.0);
    }
}
