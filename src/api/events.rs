//! The event feed: pages of the log, for auditors, subscribers and other programs, in three formats.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use uuid::Uuid;

use super::error::{ApiError, CurrentLog};
use super::event_filter::{Asked, Span, view_of};
use super::guard::{Authorized, Subscriber};
use super::headers::{accept, quality};
use super::query::{Params, page_limit, plain_number};
use super::read_your_writes;
use super::state::Api;
use crate::events::log::end::{LogEnd, log_end};
use crate::events::log::{DecodeError, StoredEvent, identity};
use crate::feed::event_format;
use crate::feed::page::{self, Page, Stretch};

/// Headers with the position of the next page and of the last event, for formats whose body cannot hold
/// them.
const EVENT_NEXT: HeaderName = HeaderName::from_static("event-next");
const EVENT_HEAD: HeaderName = HeaderName::from_static("event-head");

/// The header with the identity of the log.
pub(super) const EVENT_LOG: HeaderName = HeaderName::from_static("event-log");

/// The format of the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Ndjson,
    CloudEvents,
}

impl Format {
    /// In our order of preference, for a client that accepts several with the same quality.
    const ALL: [Self; 3] = [Self::Json, Self::Ndjson, Self::CloudEvents];

    fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Ndjson => "application/x-ndjson",
            Self::CloudEvents => "application/cloudevents-batch+json",
        }
    }

    /// The format that `Accept` prefers (RFC 9110, section 12.5.1); JSON when it accepts none of them.
    fn accepted(headers: &HeaderMap) -> Self {
        let accept = accept(headers);
        let mut best = (Self::Json, 0);
        for format in Self::ALL {
            let quality = quality(&accept, format.media_type());
            if quality > best.1 {
                best = (format, quality);
            }
        }
        best.0
    }
}

/// `GET /events?after=&limit=&from=&to=&log=`, and the filters of [`Asked`]
pub(super) async fn feed(
    authorized: Authorized<Subscriber>,
    State(api): State<Api>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let [
        after,
        limit,
        log,
        from,
        to,
        aggregate_type,
        event_types,
        customer,
        actor,
        request_id,
        session,
    ] = params.only([
        "after",
        "limit",
        "log",
        "from",
        "to",
        "aggregate_type",
        "type",
        "customer",
        "actor",
        "request_id",
        "session",
    ])?;
    let asked = Asked { aggregate_type, event_types, customer, actor, request_id, session };
    let after = after.map_or(Ok(0), |after| plain_number("after", &after))?;
    let page_size = i64::try_from(page_limit(limit.as_deref())?).unwrap_or(i64::MAX);
    let view = view_of(&authorized.principal);
    let filter = asked.filter(view)?;
    let span = Span::parse(from.as_deref(), to.as_deref())?;
    let shown = read_your_writes::min_position(&headers)?;
    let LogEnd { log: current, head } = end_of(&api, log.as_deref()).await?;
    read_your_writes::not_beyond(shown, head)?;
    if after > head {
        return Err(ApiError::malformed("after", "is beyond the end of the log"));
    }
    let (after, until) = span.positions(&api, after, head).await?;
    let mut page =
        page::page(&api.short, Stretch { after, head, until }, page_size, &filter).await?;
    page.events = page.events.into_iter().map(|event| view.of(event)).collect();
    let format = Format::accepted(&headers);
    let body = body_of(&page, format, head, (current, &api.feed_url))
        .map_err(|error| ApiError::Internal(error.to_string()))?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(format.media_type())),
        (header::VARY, HeaderValue::from_static("accept")),
        (EVENT_NEXT, HeaderValue::from(page.next)),
        (EVENT_HEAD, HeaderValue::from(head)),
        (EVENT_LOG, log_header(current)),
    ];
    let mut response = (headers, body).into_response();
    if page.next < head {
        let others = [("limit", limit), ("log", log), ("from", from), ("to", to)];
        let others = others.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?)));
        let path = format!("{}/events", api.public_path);
        set_next(&mut response, &path, page.next, others.chain(asked.given()));
    }
    Ok(response)
}

/// Links to the next page (RFC 8288, section 3): the same path with `after` and these other parameters.
pub(super) fn set_next<'a>(
    response: &mut Response,
    path: &str,
    after: i64,
    others: impl Iterator<Item = (&'static str, &'a str)>,
) {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("after", &after.to_string()).extend_pairs(others);
    if let Ok(link) = HeaderValue::try_from(format!("<{path}?{}>; rel=\"next\"", query.finish())) {
        response.headers_mut().insert(header::LINK, link);
    }
}

/// The end of the log; 409 if it is not the log that the client names in `log`.
pub(super) async fn end_of(api: &Api, log: Option<&str>) -> Result<LogEnd, ApiError> {
    let named = log
        .map(|log| log.parse().map_err(|_| ApiError::malformed("log", "must be the id of a log")))
        .transpose()?;
    let end = log_end(&api.short).await?;
    match named {
        Some(named) if named != end.log => Err(ApiError::LogRestarted(CurrentLog {
            log: end.log,
            restarted_after: identity::last_position(&api.short, named).await?,
        })),
        Some(_) | None => Ok(end),
    }
}

/// The value of the header `Event-Log`.
pub(super) fn log_header(log: Uuid) -> HeaderValue {
    HeaderValue::try_from(log.to_string()).expect("a UUID is visible ASCII")
}

fn body_of(
    Page { events, next }: &Page,
    format: Format,
    head: i64,
    (log, feed_url): (Uuid, &str),
) -> Result<String, DecodeError> {
    let source = event_format::source(feed_url, log);
    let one = |event: &StoredEvent| match format {
        Format::Json | Format::Ndjson => event_format::json(event),
        Format::CloudEvents => event_format::cloud_event(event, &source),
    };
    let (open, between, close) = match format {
        Format::Json => {
            let close = format!("],\"next\":{next},\"head\":{head},\"log\":\"{log}\"}}");
            ("{\"events\":[", ",", close)
        }
        Format::Ndjson => ("", "\n", if events.is_empty() { "" } else { "\n" }.to_owned()),
        Format::CloudEvents => ("[", ",", "]".to_owned()),
    };
    let mut body = open.to_owned();
    for (number, event) in events.iter().enumerate() {
        if number > 0 {
            body.push_str(between);
        }
        body.push_str(&one(event)?);
    }
    Ok(body + &close)
}
