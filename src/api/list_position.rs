//! What the answer to a list says of the state that it shows: its position in the log, for a client that goes on
//! with the feed; and a weak entity tag, so that a client that asks again gets 304 while nothing has changed. The tag
//! is weak because two states with other tags may have the same customers.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::Response;

use super::as_of::Past;
use super::conditions;
use super::events::{EVENT_LOG, log_header};
use super::read_your_writes::EVENT_POSITION;
use crate::clock;
use crate::projections::Mark;

/// The moment that an answer of the past shows, to the microsecond: the end of the day, if the client named a day.
const AS_OF: HeaderName = HeaderName::from_static("as-of");

/// The state that a list shows.
pub(super) enum Shown {
    Present(Mark),
    /// It does not change, so there is nothing to poll, and it has no tag.
    Past(Past),
}

impl Shown {
    /// The moment of a past state.
    pub(super) fn past(&self) -> Option<&Past> {
        match self {
            Self::Present(_) => None,
            Self::Past(past) => Some(past),
        }
    }

    /// The answer with what is known of the state.
    pub(super) fn tell(&self, answer: Response) -> Response {
        match self {
            Self::Present(mark) => of_present(answer, mark),
            Self::Past(past) => of_past(answer, past),
        }
    }

    /// The answer to a client that has this state: it need not be read.
    pub(super) fn unchanged(&self, headers: &HeaderMap) -> Option<Response> {
        let Self::Present(mark) = self else { return None };
        let is_known = conditions::has(headers, &etag(mark));
        is_known.then(|| conditions::not_modified(self.tell(Response::default())))
    }
}

fn of_present(mut answer: Response, mark: &Mark) -> Response {
    let headers = answer.headers_mut();
    headers.insert(EVENT_POSITION, HeaderValue::from(mark.position));
    headers.insert(header::ETAG, etag(mark));
    if let Some(log) = mark.log {
        headers.insert(EVENT_LOG, log_header(log));
    }
    answer
}

/// Also of a single customer.
pub(super) fn of_past(mut answer: Response, past: &Past) -> Response {
    let headers = answer.headers_mut();
    headers.insert(EVENT_POSITION, HeaderValue::from(past.position));
    if let Ok(moment) = HeaderValue::try_from(clock::rfc3339(past.moment)) {
        headers.insert(AS_OF, moment);
    }
    answer
}

/// The entity tag of a state (RFC 9110, section 8.8.3).
fn etag(mark: &Mark) -> HeaderValue {
    let Mark { version, position, change, log } = mark;
    let log = log.unwrap_or_default();
    let tag = format!("W/\"{version}-{position}-{change}-{}\"", log.simple());
    HeaderValue::try_from(tag).expect("numbers and a UUID are visible ASCII")
}
