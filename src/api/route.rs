//! A row of the table of routes.

use std::sync::Arc;

use axum::extract::Request;
use axum::handler::Handler;
use axum::response::Response;
use futures_util::future::BoxFuture;

use super::limits::Limits;
use super::openapi::doc::Doc;
use super::state::Api;
use crate::events::values::Role;

/// Answers a request of a route, behind its frame.
pub(super) type Endpoint = Arc<dyn Fn(Request, Api) -> BoxFuture<'static, Response> + Send + Sync>;

/// Routes that disregard `Accept`, as RFC 9110 allows (section 12.5.1): what watches a process may send any, and must
/// not find it ill for that.
pub(super) const PROBES: [&str; 3] = ["/livez", "/readyz", "/metrics"];

/// One row of the table of routes.
pub struct Route {
    pub method: &'static str,
    pub path: &'static str,
    /// The role that a caller needs; `None`: no log-in, [`Role::Viewer`]: any account.
    pub role: Option<Role>,
    pub limits: Limits,
    /// A replica may serve it.
    pub replicated: bool,
    pub(super) endpoint: Endpoint,
    /// What the OpenAPI document says of it.
    pub(super) doc: fn() -> Doc,
}

impl Route {
    /// The media types of its answers, but for problems.
    pub(super) fn media_types(&self) -> Vec<String> {
        (self.doc)().media_types()
    }
}

/// A row with the usual limits.
pub(super) fn row<T: 'static>(
    method: &'static str,
    path: &'static str,
    role: Option<Role>,
    handler: impl Handler<T, Api>,
    doc: fn() -> Doc,
) -> Route {
    let endpoint: Endpoint =
        Arc::new(move |request, api| Box::pin(handler.clone().call(request, api)));
    Route { method, path, role, limits: Limits::default(), replicated: false, endpoint, doc }
}
