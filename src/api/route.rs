//! A row of the table of routes.

use axum::routing::MethodRouter;

use super::limits::Limits;
use super::state::Api;
use crate::events::values::Role;

/// One row of the table of routes.
pub struct Route {
    pub method: &'static str,
    pub path: &'static str,
    /// The role that a caller needs; `None`: no log-in, [`Role::Viewer`]: any account.
    pub role: Option<Role>,
    pub limits: Limits,
    /// A replica may serve it.
    pub replicated: bool,
    pub(super) handler: MethodRouter<Api>,
}
