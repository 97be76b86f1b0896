//! Limits that run before every handler: the size of the body, the time to answer, and requests per
//! second and client.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use governor::middleware::StateInformationMiddleware;
use tower_governor::governor::GovernorConfigBuilder;
use tower_governor::key_extractor::KeyExtractor;
use tower_governor::{GovernorError, GovernorLayer};

use super::body::BODY_MAX;
use super::error::ApiError;
use super::pace;
use super::request::Caller;
use super::state::Api;
use crate::tasks::Tasks;

/// How often the counts of idle clients are dropped.
const SWEEP_INTERVAL: Duration = Duration::from_mins(1);

/// How long a response may take to start. PostgreSQL's own timeouts do not fire while its processes are
/// stopped. Commands run to their end in any case.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// How long a 429 waits: so a client that does not obey `Retry-After` costs little on each connection.
const REFUSAL_PAUSE: Duration = Duration::from_millis(250);

/// The limits of one route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest body, in bytes.
    pub body: usize,
    /// How long a response may take to start.
    pub answer: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { body: BODY_MAX, answer: ANSWER_TIME }
    }
}

impl Limits {
    /// Refuses a body whose `Content-Length` is too large before the handler runs. A body without
    /// `Content-Length` is cut off while it is read.
    pub(super) async fn body(self, request: Request, next: Next) -> Response {
        let declared = request
            .headers()
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if declared.is_some_and(|bytes| bytes > self.body as u64) {
            return ApiError::TooLarge(self.body).into_response();
        }
        next.run(request).await
    }

    /// Answers 503 if the handler takes longer than the time limit, a 429 after a pause, and a long answer
    /// only to a client that reads it in time.
    pub(super) async fn answer(self, api: Api, request: Request, next: Next) -> Response {
        let answer = tokio::time::timeout(self.answer, next.run(request)).await;
        let answer = answer.unwrap_or_else(|_| {
            let cause = format!("no answer within {:?}", self.answer);
            ApiError::Unavailable(cause).into_response()
        });
        if answer.status() == StatusCode::TOO_MANY_REQUESTS {
            tokio::time::sleep(REFUSAL_PAUSE).await;
        }
        pace::timed(&api.tasks, answer)
    }
}

/// A client: an IPv4 address, or the /64 prefix of an IPv6 address, the usual allocation for one
/// subscriber (RFC 6177).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientNetwork;

impl KeyExtractor for ClientNetwork {
    type Key = IpAddr;

    fn extract<T>(&self, request: &axum::http::Request<T>) -> Result<IpAddr, GovernorError> {
        let caller =
            request.extensions().get::<Caller>().ok_or(GovernorError::UnableToExtractKey)?;
        Ok(network(caller.ip))
    }
}

/// The address without the bits that a client can choose: the last 64 of an IPv6 address.
pub(super) fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

type Information = StateInformationMiddleware;

/// The rate limit of all routes, which share one count per client.
#[derive(Clone)]
pub struct RateLimit {
    pub(super) layer: GovernorLayer<ClientNetwork, Information, axum::body::Body>,
    per_second: u32,
}

impl RateLimit {
    /// `None` if `per_second` is 0. Drops idle clients on a timer, until shutdown.
    #[must_use]
    pub fn new(per_second: u32, tasks: &Tasks) -> Option<Self> {
        let period = Duration::from_secs(1).checked_div(per_second)?;
        let config = GovernorConfigBuilder::default()
            .period(period)
            .burst_size(per_second)
            .key_extractor(ClientNetwork)
            .use_headers()
            .finish()?;
        let limiter = Arc::clone(config.limiter());
        tasks.supervise("rate limit", move || {
            let limiter = Arc::clone(&limiter);
            async move {
                loop {
                    tokio::time::sleep(SWEEP_INTERVAL).await;
                    limiter.retain_recent();
                }
            }
        });
        let layer = GovernorLayer::new(Arc::new(config))
            .error_handler(|error| refusal(error).into_response());
        Some(Self { layer, per_second })
    }

    /// Replaces the library's headers by those of draft-ietf-httpapi-ratelimit-headers-10.
    pub(super) async fn add_headers(self, request: Request, next: Next) -> Response {
        let mut response = next.run(request).await;
        let headers = response.headers_mut();
        // A 429 of the library has no such headers: no request remains.
        let left = headers.get("x-ratelimit-remaining").and_then(number).unwrap_or(0);
        for name in ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-after"] {
            headers.remove(name);
        }
        let wait = headers.get(header::RETRY_AFTER).and_then(number).unwrap_or(1);
        let policy = format!("\"default\";q={};w=1", self.per_second);
        let state = format!("\"default\";r={left};t={wait}");
        for (name, value) in [("ratelimit-policy", policy), ("ratelimit", state)] {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        response
    }
}

fn number(value: &HeaderValue) -> Option<u64> {
    value.to_str().ok()?.parse().ok()
}

fn refusal(error: GovernorError) -> ApiError {
    match error {
        GovernorError::TooManyRequests { wait_time, .. } => {
            ApiError::RateLimited { retry_after: Duration::from_secs(wait_time) }
        }
        GovernorError::UnableToExtractKey => {
            ApiError::Internal("a route without the request middleware".to_owned())
        }
        GovernorError::Other { msg, .. } => ApiError::Internal(msg.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_64_is_one_client() {
        let of = |ip: &str| network(ip.parse().unwrap());
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2:ffff::1"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
