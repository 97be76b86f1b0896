//! The frame of a route: what each of its requests passes before and after the handler, in this order: count,
//! packing, pace, time, size of the body, rate, conditions, reading again.

use std::sync::Arc;

use axum::response::{IntoResponse as _, Response};

use super::conditions;
use super::headers;
use super::limits::{Limits, RateLimit};
use super::openapi;
use super::pace;
use super::packing::{self, Coding};
use super::query::NotAcceptable;
use super::read_again::read_again;
use super::request::BoxRequest;
use super::route::{Endpoint, PROBES, Route};
use super::route_metrics::RouteMetrics;
use super::state::Api;

/// The number of headers that an answer gets after its handler.
const HEADERS: usize = 8;

/// The frame of one route.
pub(super) struct Frame {
    api: Api,
    method: &'static str,
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
    pub(super) metrics: Arc<RouteMetrics>,
}

impl Frame {
    pub(super) fn new(route: &Route, api: &Api, rate_limit: Option<&RateLimit>) -> Self {
        Self {
            api: api.clone(),
            method: route.method,
            limits: route.limits,
            rate_limit: rate_limit.cloned(),
            reads_data: route.method == "GET" && route.role.is_some(),
            replicated: route.replicated,
            packs: route.method == "GET" && route.role.is_some(),
            media_types: if PROBES.contains(&route.path) { vec![] } else { route.media_types() },
            endpoint: Arc::clone(&route.endpoint),
            metrics: Arc::new(RouteMetrics::new(
                route.method,
                route.path,
                openapi::statuses(route),
            )),
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
}
