//! The HTTP API, and the only module that uses HTTP. [`routes`](crate::api::routes) is the table of routes.

/// The state of the API, which all handlers share.
pub mod state;

/// The caller of a request, and the outermost middleware.
pub mod request;

/// A row of the table of routes.
mod route;

/// What surrounds each handler.
mod frame;

/// Limits before every handler: size of the body, rate, time.
pub mod limits;

/// Cross-origin resource sharing (CORS): the origins whose pages may call.
mod cors;

/// The header `Host`, once and right.
mod host;

/// Authorization, as a parameter of a handler.
pub mod guard;

/// Query parameters and paths.
mod query;

/// JSON bodies.
pub mod body;

/// Request headers.
mod headers;

/// The reason of a change, from headers and bodies.
mod reason;

/// The address of a client behind proxies.
mod forwarded;

/// Conditional requests.
mod conditions;

/// Errors as problem details.
pub mod error;

/// What the errors of the other modules are in the API.
mod error_causes;

/// Read your writes: a write is answered when the read table shows it; a read may name a position.
mod read_your_writes;

/// The pool of a read: primary or replica, for short or long queries.
pub mod pool_choice;

/// The replica, and whether it may be read.
pub mod replica;

/// Reads from a replica, with the primary as fallback; and again after a lost connection.
mod read_again;

/// Reads that requests share.
mod coalesced;

/// The JSON form of a customer.
mod customer_json;

/// Create, read, update and delete customers.
mod customers;

/// `as_of` and `version`: reads of an earlier state.
mod as_of;

/// Signed cursors of lists.
mod cursor;

/// The least rate of reading and sending.
mod pace;

/// Spool files: imports and long lists on disk.
pub mod spool;

/// Long answers, on disk while the client reads them.
mod long_answer;

/// How many long answers one account may have at work.
pub mod account_slots;

/// Ends work whose session has ended.
mod session_watch;

/// All customers, the N youngest, a page.
pub mod list;

/// Import: many customers from one body.
pub mod import;

/// The answer of an import, with its progress.
mod import_answer;

/// The history of a customer.
mod history;

/// The event feed, in pages.
mod events;

/// The event feed as a stream (Server-Sent Events).
pub mod stream;

/// The places of streams, shared out per account.
pub mod stream_places;

/// Log-in, log-out, sessions, password change.
mod sessions;

/// Status and rebuild of projections.
mod projections;

/// Answers before the service has started.
pub mod waiting;

/// Liveness, readiness, metrics, public keys.
mod ops;

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::routing::{delete, get, post, put};

pub use self::cursor::key as cursor_key;
use self::error::ApiError;
use self::frame::Frame;
use self::limits::{Limits, RateLimit};
pub use self::route::Route;
pub use self::state::{Api, ApiState};
use crate::events::values::Role;

/// The table of routes, with role and limits. A test over all rows checks that each handler requires the
/// role of its row.
#[must_use]
pub fn routes() -> Vec<Route> {
    use Role::{Admin, Auditor, Editor, Viewer};
    let row = |method, path, role, handler| {
        let limits = Limits::default();
        Route { method, path, role, limits, replicated: false, handler }
    };
    let limited = |limits, route| Route { limits, ..route };
    let replicated = |route| Route { replicated: true, ..route };
    vec![
        row("POST", "/login", None, post(sessions::login)),
        row("DELETE", "/logout", Some(Viewer), delete(sessions::logout)),
        row("GET", "/session_cookie_experiment", Some(Viewer), get(sessions::experiment)),
        row("GET", "/sessions", Some(Viewer), get(sessions::list)),
        row("DELETE", "/sessions", Some(Viewer), delete(sessions::end_all)),
        row("DELETE", "/sessions/{sid}", Some(Viewer), delete(sessions::end_one)),
        row("POST", "/password", Some(Viewer), post(sessions::change_password)),
        replicated(row("GET", "/customers", Some(Viewer), get(list::list))),
        row("POST", "/customers", Some(Editor), post(customers::create)),
        row("POST", "/customers/create", Some(Editor), post(customers::legacy_create)),
        limited(
            import::LIMITS,
            row("POST", "/customers/import", Some(Editor), post(import::import)),
        ),
        row("POST", "/customers/update", Some(Editor), post(customers::legacy_update)),
        row("DELETE", "/customers/delete", Some(Editor), delete(customers::legacy_delete)),
        replicated(row("GET", "/customers/{id}", Some(Viewer), get(customers::show))),
        row("PUT", "/customers/{id}", Some(Editor), put(customers::update)),
        row("DELETE", "/customers/{id}", Some(Editor), delete(customers::delete)),
        replicated(row("GET", "/customers/{id}/history", Some(Auditor), get(history::show))),
        row("GET", "/events", Some(Auditor), get(events::feed)),
        row("GET", "/events/stream", Some(Auditor), get(stream::stream)),
        row("GET", "/projections", Some(Admin), get(projections::list)),
        row("POST", "/projections/{name}/rebuild", Some(Admin), post(projections::rebuild)),
        row("GET", "/livez", None, get(ops::livez)),
        row("GET", "/readyz", None, get(ops::readyz)),
        row("GET", "/metrics", None, get(ops::metrics)),
        row("GET", "/.well-known/jwks.json", None, get(ops::jwks)),
    ]
}

/// The table of routes as a service. Each route has its frame (`api::frame`), so that 404 and 405 come before
/// it. With a path in the public URL the table is there twice, with the path and without: a proxy may remove it
/// or leave it.
pub fn router(api: Api, rate_limit: Option<&RateLimit>, origins: &[String]) -> Router {
    let mut table = Router::new();
    for route in routes() {
        let frame = Arc::new(Frame::new(&route, &api, rate_limit));
        let framed = move |request: Request, next: Next| Arc::clone(&frame).answer(request, next);
        table = table.route(route.path, route.handler.route_layer(middleware::from_fn(framed)));
    }
    let table = table.method_not_allowed_fallback(async || ApiError::MethodNotAllowed);
    let router = with_path(table, &api.public_path).fallback(async || ApiError::NoRoute);
    let router = cors::allow(router, origins).layer(middleware::from_fn(host::check));
    router.layer(middleware::from_fn_with_state(api.clone(), request::envelope)).with_state(api)
}

/// The routes, and the same below the path.
fn with_path<S: Clone + Send + Sync + 'static>(table: Router<S>, path: &str) -> Router<S> {
    if path.is_empty() { table } else { table.clone().nest(path, table) }
}
