//! The log as it grows, as Server-Sent Events (WHATWG HTML, section 9.2). An answer that lasts: it
//! ends with the session that asked for it, with the process, or when the client takes nothing.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::Api;
use super::error::ApiError;
use super::extract::{Params, header_text, plain_number};
use super::guard::{Allowed, Auditor, Needs as _};
use crate::auth::Principal;
use crate::events::log::{DecodeError, StoredEvent, read};
use crate::feed::event_format;
use crate::feed::tail::Follower;

/// How many streams one process serves.
pub const STREAMS_MAX: usize = 1000;

/// When nothing happens something is sent all the same, so that both sides notice when the other is
/// gone.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// How often a stream asks whether its session is still open.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// How long a stream goes on when Redis cannot say so.
const UNSURE_FOR: Duration = Duration::from_secs(15);

/// After how many milliseconds a client should come back.
const RETRY: u32 = 2000;

/// Where a client that comes back goes on.
const LAST_EVENT_ID: &str = "last-event-id";

/// `GET /events/stream?after=`
pub(super) async fn stream(
    allowed: Allowed<Auditor>,
    State(api): State<Api>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let [after] = params.only(["after"])?;
    let after = after.map(|after| plain_number("after", &after)).transpose()?;
    // A browser that comes back sends the same query again, and where it was.
    let last = header_text(&headers, &HeaderName::from_static(LAST_EVENT_ID))?
        .map(|last| plain_number(LAST_EVENT_ID, last))
        .transpose()?;
    let head = read::head(api.read()).await?;
    let (name, from) = match (last, after) {
        (Some(last), _) => (LAST_EVENT_ID, last),
        (None, after) => ("after", after.unwrap_or(head)),
    };
    if from > head {
        return Err(ApiError::malformed(name, "lies beyond the end of the log"));
    }
    let place = api.streams().try_acquire_owned().map_err(|_| ApiError::Overloaded)?;
    let stream = Stream {
        follower: api.tail().follow(from, head),
        principal: allowed.principal,
        sure_at: Instant::now(),
        ask_at: Instant::now() + ASK_EVERY,
        sent_at: Instant::now(),
        api,
        _counted: Counted::new(place),
    };
    // Also tells a client that sees no event before it is cut off where to go on.
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
        // Asks nginx to pass on what it gets when it gets it.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ]
    .map(|(name, value)| (name, HeaderValue::from_static(value)));
    Ok((headers, Body::from_stream(body)).into_response())
}

/// One event: its position, and the object of the feed.
///
/// # Errors
/// When what is stored is no JSON object.
pub fn frame(event: &StoredEvent) -> Result<String, DecodeError> {
    // JSON as it is written has no line feed: one line of data is enough.
    Ok(format!("id: {}\ndata: {}\n\n", event.position, event_format::json(event)?))
}

/// What one stream needs as long as it lasts.
struct Stream {
    api: Api,
    follower: Follower,
    principal: Principal,
    /// When Redis last said that the session is open.
    sure_at: Instant,
    ask_at: Instant,
    sent_at: Instant,
    _counted: Counted,
}

impl Stream {
    /// What to send next; `None` when it is over.
    async fn next(&mut self) -> Option<Bytes> {
        let stopping = self.api.stopping().clone();
        loop {
            tokio::select! {
                // In this order: nothing more is sent once it should be over.
                biased;
                () = stopping.cancelled() => return None,
                () = tokio::time::sleep_until(self.ask_at) => {
                    if !self.is_allowed().await {
                        return None;
                    }
                    self.ask_at = Instant::now() + ASK_EVERY;
                }
                frames = self.follower.next() => {
                    self.sent_at = Instant::now();
                    return frames.unwrap_or_else(|error| {
                        tracing::warn!(%error, "a stream of events is cut");
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

    async fn is_allowed(&mut self) -> bool {
        match self.api.auth().role_of(&self.principal).await {
            Ok(role) => {
                self.sure_at = Instant::now();
                role.is_some_and(|role| role.covers(Auditor::ROLE))
            }
            Err(error) => {
                tracing::warn!(%error, "whether a stream's session is open is not known");
                self.sure_at.elapsed() < UNSURE_FOR
            }
        }
    }
}

/// A place among the streams, shown in the metrics while it is taken.
struct Counted(#[expect(dead_code, reason = "held until the stream ends")] OwnedSemaphorePermit);

impl Counted {
    fn new(place: OwnedSemaphorePermit) -> Self {
        metrics::gauge!("customers_event_streams").increment(1.0);
        Self(place)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::gauge!("customers_event_streams").decrement(1.0);
    }
}
