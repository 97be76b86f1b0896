//! The frame of a route: what each of its requests passes before and after the handler, in this order: count,
//! packing, pace, time, size of the body, rate, conditions, reading again.

use std::sync::{Arc, OnceLock};

use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use metrics::Counter;

use super::conditions;
use super::headers;
use super::limits::{Limits, RateLimit};
use super::pace;
use super::packing::{self, Coding};
use super::query::NotAcceptable;
use super::read_again::read_again;
use super::request::BoxRequest;
use super::route::{Endpoint, PROBES, Route};
use super::state::Api;

/// The number of headers that an answer gets after its handler.
const HEADERS: usize = 8;

/// The statuses of most answers.
const USUAL: [StatusCode; 4] =
    [StatusCode::OK, StatusCode::CREATED, StatusCode::NOT_MODIFIED, StatusCode::UNAUTHORIZED];

/// The frame of one route.
pub(super) struct Frame {
    api: Api,
    method: &'static str,
    path: &'static str,
    limits: Limits,
    rate_limit: Option<RateLimit>,
    /// Whether the route reads from the database, for a session.
    reads_data: bool,
    replicated: bool,
    /// Whether its answers are packed for clients that ask for it.
    packs: bool,
    /// What it answers with, unless it disregards `Accept`.
    media_types: Vec<String>,
    endpoint: Endpoint,
    /// The counters of the usual answers.
    answers: [OnceLock<Counter>; USUAL.len()],
}

impl Frame {
    pub(super) fn new(route: &Route, api: &Api, rate_limit: Option<&RateLimit>) -> Self {
        Self {
            api: api.clone(),
            method: route.method,
            path: route.path,
            limits: route.limits,
            rate_limit: rate_limit.cloned(),
            reads_data: route.method == "GET" && route.role.is_some(),
            replicated: route.replicated,
            packs: route.method == "GET" && route.role.is_some(),
            media_types: if PROBES.contains(&route.path) { vec![] } else { route.media_types() },
            endpoint: Arc::clone(&route.endpoint),
            answers: Default::default(),
        }
    }

    /// Answers a request of the route.
    pub(super) async fn answer(&self, mut request: BoxRequest) -> Response {
        if headers::excludes(request.headers(), &self.media_types) {
            let types = self.media_types.join(", ").into();
            request.extensions_mut().insert(NotAcceptable(types));
        }
        let coding = if self.packs { Coding::accepted(request.headers()) } else { None };
        let answer = match self.limits.refuse(request.headers()) {
            Some(refused) => refused.into_response(),
            None => self.limits.in_time(self.limited(request)).await,
        };
        let mut answer = pace::timed(&self.api.tasks, answer);
        if self.packs {
            answer = packing::answer(answer, coding).await;
        }
        // For those of every answer, at once instead of by steps.
        answer.headers_mut().reserve(HEADERS);
        self.count(answer.status());
        answer
    }

    async fn limited(&self, request: BoxRequest) -> Response {
        let handle = |request| self.handle(request);
        match &self.rate_limit {
            Some(limit) => limit.answer(request, handle).await,
            None => handle(request).await,
        }
    }

    async fn handle(&self, request: BoxRequest) -> Response {
        let endpoint = |request| (self.endpoint)(request, self.api.clone());
        if self.method != "GET" {
            return endpoint(*request).await;
        }
        let read = async |request: BoxRequest| {
            if self.reads_data {
                read_again(&self.api, self.replicated, request, endpoint).await
            } else {
                endpoint(*request).await
            }
        };
        conditions::of_read(request, read).await
    }

    /// Counts an answer.
    fn count(&self, status: StatusCode) {
        let counter = || {
            metrics::counter!("customers_http_requests_total",
                "method" => self.method, "route" => self.path, "status" => status.as_u16().to_string())
        };
        match USUAL.iter().position(|usual| *usual == status) {
            Some(usual) => self.answers[usual].get_or_init(counter).increment(1),
            None => counter().increment(1),
        }
    }
}
