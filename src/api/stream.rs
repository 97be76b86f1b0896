//! The event feed as a stream of Server-Sent Events (WHATWG HTML, section 9.2). A stream ends with its
//! session, with the process, or when the client stops reading.

use std::ops::RangeInclusive;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use tokio_util::sync::CancellationToken;

use super::error::ApiError;
use super::event_filter::{Asked, role_of, view_of};
use super::events::{EVENT_LOG, end_of, log_header};
use super::guard::{Authorized, Subscriber};
use super::headers::header_text;
use super::pace::Sender;
use super::query::{Params, plain_number};
use super::session_watch::SessionWatch;
use super::state::Api;
use super::stream_places::StreamPlace;
use crate::clock;
use crate::events::log::{DecodeError, StoredEvent};
use crate::feed::chunk::Selection;
use crate::feed::event_format;
use crate::feed::tail::Follower;

/// How many streams one process serves.
pub const STREAMS_MAX: usize = 1000;

/// How many of them one account may have.
pub const PER_ACCOUNT: usize = 100;

/// The time without an event after which a comment is sent, so that both sides notice a dead connection.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// How often a stream checks that its session is still open: with the time for the check, it ends within
/// 5 s.
const CHECK_INTERVAL: Duration = Duration::from_secs(4);

/// The time after which a client reconnects, in milliseconds.
const RETRY: u32 = 2000;

/// The same for the streams of a process that stops, whose clients then do not come back in one moment.
const RETRY_AFTER_STOP: RangeInclusive<u16> = 1000..=3000;

/// How long a client may take to read that pause.
const CLOSING_LIMIT: Duration = Duration::from_secs(1);

/// The header with the last event that a reconnecting client has seen.
const LAST_EVENT_ID: &str = "last-event-id";

/// The same as a parameter, which polyfills of `EventSource` append to the URL.
const LAST_EVENT_ID_PARAMETER: &str = "lastEventId";

/// `GET /events/stream?after=&lastEventId=&log=`, and the filters of [`Asked`]
pub(super) async fn stream(
    authorized: Authorized<Subscriber>,
    State(api): State<Api>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let [after, last, log, aggregate_type, event_types, customer, actor, request_id, session] =
        params.only([
            "after",
            LAST_EVENT_ID_PARAMETER,
            "log",
            "aggregate_type",
            "type",
            "customer",
            "actor",
            "request_id",
            "session",
        ])?;
    let asked = Asked { aggregate_type, event_types, customer, actor, request_id, session };
    let view = view_of(&authorized.principal);
    let selection = Selection { filter: asked.filter(view)?, view };
    let of_header = header_text(&headers, &HeaderName::from_static(LAST_EVENT_ID))?;
    // A client that reconnects repeats the query, and adds the last event that it has seen: in the header,
    // or as a polyfill, in another parameter.
    let given = [
        (LAST_EVENT_ID, of_header),
        (LAST_EVENT_ID_PARAMETER, last.as_deref()),
        ("after", after.as_deref()),
    ];
    let mut positions = vec![];
    for (name, text) in given {
        if let Some(text) = text {
            positions.push((name, plain_number(name, text)?));
        }
    }
    // Before the position, which may lie after the end of a restored log.
    let end = end_of(&api, log.as_deref()).await?;
    let (name, from) = positions.first().copied().unwrap_or(("after", end.head));
    if from > end.head {
        return Err(ApiError::malformed(name, "is beyond the end of the log"));
    }
    let place = api.stream_places.take(authorized.principal.username())?;
    let principal = authorized.principal;
    let events = Events {
        follower: api.tail.follow(from, end, selection),
        watch: SessionWatch::start(&api, principal, role_of(view), CHECK_INTERVAL),
        stopping: api.stopping.clone(),
        place,
    };
    // A client that is disconnected before its first event can resume from this position.
    let opening = Bytes::from(format!("retry: {RETRY}\nid: {from}\n\n"));
    let cut = CancellationToken::new();
    let (sender, body) = Sender::until(cut.clone());
    // Apart from the body, which is not polled while the client takes nothing.
    api.tasks.spawn_until_shutdown(events.send(opening, sender, cut));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        // A proxy that compressed the stream would hold events back.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform")),
        // Turns off the buffering of nginx.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
        (EVENT_LOG, log_header(end.log)),
    ];
    Ok((headers, body).into_response())
}

/// One event: its position, and the object of the feed.
pub fn frame(event: &StoredEvent) -> Result<String, DecodeError> {
    // The encoded JSON has no line feed, so one `data` line is enough.
    Ok(format!("id: {}\ndata: {}\n\n", event.position, event_format::json(event)?))
}

/// The events of one stream, with what it holds.
struct Events {
    follower: Follower,
    watch: SessionWatch,
    stopping: CancellationToken,
    place: StreamPlace,
}

impl Events {
    /// Sends the opening and then the events, until the client has gone or takes nothing; when the stream
    /// has to end, `cut` ends its body, too.
    async fn send(mut self, opening: Bytes, sender: Sender, cut: CancellationToken) {
        let (stopping, given_up) = (self.stopping.clone(), self.place.given_up().clone());
        let ended = self.watch.ended().clone();
        let sending = async {
            let mut frames = Some(opening);
            while let Some(next) = frames {
                if !sender.send_live(Ok(next)).await {
                    break;
                }
                frames = self.next().await;
            }
        };
        tokio::select! {
            // In this order, so that nothing is sent after the stream must end.
            biased;
            () = stopping.cancelled() => close(sender, cut).await,
            () = ended.cancelled() => cut.cancel(),
            () = given_up.cancelled() => cut.cancel(),
            () = sender.closed() => {}
            () = sending => {}
        }
    }

    /// The next bytes to send; `None` at the end of the log as it was.
    async fn next(&mut self) -> Option<Bytes> {
        match tokio::time::timeout(HEARTBEAT, self.follower.next()).await {
            Ok(frames) => frames.unwrap_or_else(|error| {
                tracing::warn!(%error, "event stream: log read failed, stream ended");
                None
            }),
            Err(_) if self.follower.is_whole() => Some(Bytes::from_static(b": nothing new\n\n")),
            // Without data it is no event for the client, which resumes from there (section 9.2.6).
            Err(_) => {
                let position = self.follower.position();
                Some(Bytes::from(format!("id: {position}\n: nothing new\n\n")))
            }
        }
    }
}

/// Ends a stream because the process stops: its last line is when the client shall come back.
async fn close(sender: Sender, cut: CancellationToken) {
    let spread = RETRY_AFTER_STOP.end() - RETRY_AFTER_STOP.start();
    let pause = RETRY_AFTER_STOP.start() + u16::from_be_bytes(clock::random_bytes()) % (spread + 1);
    let closing = sender.send_live(Ok(Bytes::from(format!("retry: {pause}\n\n"))));
    if tokio::time::timeout(CLOSING_LIMIT, closing).await.is_err() {
        cut.cancel();
    }
}
