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
use tokio_util::sync::CancellationToken;

use super::account_slots::AccountSlot;
use super::error::ApiError;
use super::events::{EVENT_LOG, end_of, log_header};
use super::guard::{Auditor, Authorized, Requirement as _};
use super::headers::header_text;
use super::query::{Params, plain_number};
use super::session_watch::SessionWatch;
use super::state::Api;
use crate::events::log::{DecodeError, StoredEvent};
use crate::feed::event_format;
use crate::feed::tail::Follower;

/// How many streams one process serves.
pub const STREAMS_MAX: usize = 1000;

/// How many of them one account may have.
pub const PER_ACCOUNT: usize = 100;

/// The time without an event after which a comment is sent, so that both sides notice a dead connection.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// How often a stream checks that its session is still open.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// The time after which a client reconnects, in milliseconds.
const RETRY: u32 = 2000;

/// The header with the last event that a reconnecting client has seen.
const LAST_EVENT_ID: &str = "last-event-id";

/// `GET /events/stream?after=&log=`
pub(super) async fn stream(
    authorized: Authorized<Auditor>,
    State(api): State<Api>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let [after, log] = params.only(["after", "log"])?;
    let after = after.map(|after| plain_number("after", &after)).transpose()?;
    // A browser that reconnects repeats the query, and adds the last event that it has seen.
    let last = header_text(&headers, &HeaderName::from_static(LAST_EVENT_ID))?
        .map(|last| plain_number(LAST_EVENT_ID, last))
        .transpose()?;
    // Before the position, which may lie after the end of a restored log.
    let end = end_of(&api, log).await?;
    let (name, from) = match (last, after) {
        (Some(last), _) => (LAST_EVENT_ID, last),
        (None, after) => ("after", after.unwrap_or(end.head)),
    };
    if from > end.head {
        return Err(ApiError::malformed(name, "is beyond the end of the log"));
    }
    let account_slot =
        api.account_streams.take(&authorized.principal.username, Duration::ZERO).await?;
    let slot =
        Arc::clone(&api.stream_slots).try_acquire_owned().map_err(|_| ApiError::Overloaded)?;
    let principal = authorized.principal;
    let stream = Stream {
        follower: api.tail.follow(from, end),
        watch: SessionWatch::start(&api, principal, Auditor::ROLE, CHECK_INTERVAL),
        stopping: api.stopping.clone(),
        sent_at: Instant::now(),
        _slot: StreamSlot::new(slot),
        _account_slot: account_slot,
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
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // Turns off the buffering of nginx.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
        (EVENT_LOG, log_header(end.log)),
    ];
    Ok((headers, Body::from_stream(body)).into_response())
}

/// One event: its position, and the object of the feed.
pub fn frame(event: &StoredEvent) -> Result<String, DecodeError> {
    // The encoded JSON has no line feed, so one `data` line is enough.
    Ok(format!("id: {}\ndata: {}\n\n", event.position, event_format::json(event)?))
}

/// The state of one stream.
struct Stream {
    follower: Follower,
    stopping: CancellationToken,
    watch: SessionWatch,
    sent_at: Instant,
    _slot: StreamSlot,
    _account_slot: AccountSlot,
}

impl Stream {
    /// The next bytes to send; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Bytes> {
        let next = tokio::select! {
            // In this order, so that nothing is sent after the stream must end.
            biased;
            () = self.stopping.cancelled() => None,
            () = self.watch.ended().cancelled() => None,
            frames = self.follower.next() => frames.unwrap_or_else(|error| {
                tracing::warn!(%error, "event stream: log read failed, stream ended");
                None
            }),
            () = tokio::time::sleep_until(self.sent_at + HEARTBEAT) => {
                Some(Bytes::from_static(b": nothing new\n\n"))
            }
        };
        self.sent_at = Instant::now();
        next
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
