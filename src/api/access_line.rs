//! The access line: one log line for each request that was answered. It names the route and not the path, the query or
//! the account, so that it holds nothing personal; the request id leads to the events, which name the account.

use std::time::Duration;

use axum::body::HttpBody as _;
use axum::http::Method;
use axum::response::Response;

/// The target of the lines, for `CUSTOMERS_LOG`: `info,customers::access=off` leaves them out.
const TARGET: &str = "customers::access";

/// What asks every few seconds whether the process is well. Its lines are at the level debug while it is.
const PROBES: [&str; 3] = ["/livez", "/readyz", "/metrics"];

/// Writes the line of an answer.
pub(super) fn write(
    method: &Method,
    route: &'static str,
    answer: &Response,
    took: Duration,
    request_id: &str,
) {
    /// The level of a line is a constant.
    macro_rules! line {
        ($level:ident) => {
            tracing::event!(
                target: TARGET,
                tracing::Level::$level,
                method = name(method),
                route,
                status = answer.status().as_u16(),
                seconds = took.as_secs_f64(),
                bytes = answer.body().size_hint().exact(),
                request_id,
                "request answered"
            )
        };
    }
    if answer.status().is_success() && PROBES.contains(&route) {
        line!(DEBUG);
    } else {
        line!(INFO);
    }
}

/// The name of a method that this service, or any other, knows. Others are texts of clients.
pub(super) fn name(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "PATCH" => "PATCH",
        "OPTIONS" => "OPTIONS",
        "TRACE" => "TRACE",
        "CONNECT" => "CONNECT",
        _ => "other",
    }
}
