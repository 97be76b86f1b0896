//! Limits that run before every handler: the size of the body, the time to answer, and requests per
//! second and client.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use governor::clock::{Clock as _, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DefaultKeyedStateStore;
use tower_governor::GovernorError;
use tower_governor::governor::GovernorConfigBuilder;
use tower_governor::key_extractor::KeyExtractor;

use super::body::BODY_MAX;
use super::error::ApiError;
use super::request::{BoxRequest, Caller};
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
    /// The refusal of a body whose `Content-Length` is too large, before the handler runs. A body without
    /// `Content-Length` is cut off while it is read.
    pub(super) fn refuse(self, headers: &HeaderMap) -> Option<ApiError> {
        let declared = headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse::<u64>().ok()?;
        (declared > self.body as u64).then_some(ApiError::TooLarge(self.body))
    }

    /// Answers 503 if the answer takes longer than the time limit, and a 429 after a pause.
    pub(super) async fn in_time(self, answer: impl Future<Output = Response>) -> Response {
        let answer = tokio::time::timeout(self.answer, answer).await;
        let answer = answer.unwrap_or_else(|_| {
            let cause = format!("no answer within {:?}", self.answer);
            ApiError::Unavailable(cause).into_response()
        });
        if answer.status() == StatusCode::TOO_MANY_REQUESTS {
            tokio::time::sleep(REFUSAL_PAUSE).await;
        }
        answer
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

type Limiter = governor::RateLimiter<
    IpAddr,
    DefaultKeyedStateStore<IpAddr>,
    DefaultClock,
    StateInformationMiddleware,
>;

/// The rate limit of all routes, which share one count per client.
#[derive(Clone)]
pub struct RateLimit {
    limiter: Arc<Limiter>,
    policy: HeaderValue,
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
        let swept = Arc::clone(&limiter);
        tasks.supervise("rate limit", move || {
            let limiter = Arc::clone(&swept);
            async move {
                loop {
                    tokio::time::sleep(SWEEP_INTERVAL).await;
                    limiter.retain_recent();
                }
            }
        });
        let policy = HeaderValue::try_from(format!("\"default\";q={per_second};w=1")).ok()?;
        Some(Self { limiter, policy })
    }

    /// Answers, or refuses, a request, with the headers of draft-ietf-httpapi-ratelimit-headers-10.
    pub(super) async fn answer<F>(
        &self,
        request: BoxRequest,
        answer: impl FnOnce(BoxRequest) -> F,
    ) -> Response
    where
        F: Future<Output = Response>,
    {
        let Ok(key) = ClientNetwork.extract(&request) else {
            let cause = "a route without the request middleware".to_owned();
            return ApiError::Internal(cause).into_response();
        };
        let (left, mut response) = match self.limiter.check_key(&key) {
            Ok(state) => (state.remaining_burst_capacity(), answer(request).await),
            Err(refused) => {
                let wait = refused.wait_time_from(DefaultClock::default().now());
                let retry_after = Duration::from_secs(wait.as_secs());
                (0, ApiError::RateLimited { retry_after }.into_response())
            }
        };
        let headers = response.headers_mut();
        let wait = headers.get(header::RETRY_AFTER).and_then(number).unwrap_or(1);
        headers.insert(HeaderName::from_static("ratelimit-policy"), self.policy.clone());
        if let Ok(state) = HeaderValue::try_from(format!("\"default\";r={left};t={wait}")) {
            headers.insert(HeaderName::from_static("ratelimit"), state);
        }
        response
    }
}

fn number(value: &HeaderValue) -> Option<u64> {
    value.to_str().ok()?.parse().ok()
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
