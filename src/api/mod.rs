//! The HTTP API, and the only module that uses HTTP. [`routes`](crate::api::routes) is the table of routes.

/// The state of the API, which all handlers share.
pub mod state;

/// The caller of a request, and what surrounds each answer.
pub mod request;

/// A row of the table of routes.
mod route;

/// The table of routes as a router.
mod router;

/// What surrounds each handler.
mod frame;

/// The metrics of a route.
mod route_metrics;

/// One log line for each request.
mod access_line;

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

/// The types of problem details, and what to do about each.
pub mod problem_types;

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

/// Customers by the ids that other systems have for them.
mod external_ids;

/// Gives a customer the values of an earlier version.
mod restore;

/// `as_of` and `version`: reads of an earlier state.
mod as_of;

/// The position and the entity tag of lists.
mod list_position;

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

/// Answers packed with gzip or zstd.
pub mod packing;

/// Bodies packed with gzip or zstd.
mod packed_body;

/// Ends work whose session has ended.
mod session_watch;

/// All customers, the N youngest, a page.
pub mod list;

/// A page of customers.
mod customer_page;

/// Searches, and how many customers there are.
mod search;

/// Import: many customers from one body.
pub mod import;

/// The answer of an import, with its progress.
mod import_answer;

/// The history of a customer.
mod history;

/// The filters of the feed and of the stream.
mod event_filter;

/// The event feed, in pages.
mod events;

/// The event feed as a stream (Server-Sent Events).
pub mod stream;

/// The places of streams, shared out per account.
pub mod stream_places;

/// Log-in, log-out, sessions, password change.
mod sessions;

/// Accounts, for admins.
mod accounts;
/// Who am I: account and session of a request.
mod me;

/// Service keys of accounts.
mod account_keys;

/// Tokens for programs (OAuth 2.0, client credentials).
mod oauth;

/// Status and rebuild of projections.
mod projections;

/// Answers before the service has started.
pub mod waiting;

/// Liveness, readiness, metrics, public keys.
mod ops;

/// The OpenAPI document and its page; the types of errors.
mod documentation;

/// The OpenAPI document, made from the table of routes.
mod openapi;

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::Request;
use axum::http::Method;
use axum::response::{IntoResponse as _, Response};

use self::cors::Origins;
pub use self::cursor::key as cursor_key;
use self::frame::Frame;
use self::limits::RateLimit;
use self::request::BoxRequest;
pub use self::route::Route;
use self::route::row;
use self::route_metrics::RouteMetrics;
use self::router::Router;
pub use self::state::{Api, ApiState};
use crate::events::values::Role;

/// The table of routes, with role and limits. A test over all rows checks that each handler requires the
/// role of its row.
#[must_use]
pub fn routes() -> Vec<Route> {
    use openapi as doc;

    use Role::{Admin, Auditor, Editor, Subscriber, Viewer};
    let limited = |limits, route| Route { limits, ..route };
    let replicated = |route| Route { replicated: true, ..route };
    #[rustfmt::skip]
    let rows = vec![
        row("POST", "/login", None, sessions::login, doc::log_in),
        row("DELETE", "/logout", Some(Viewer), sessions::logout, doc::log_out),
        row("GET", "/session_cookie_experiment", Some(Viewer), sessions::experiment, doc::prove_binding),
        row("GET", "/me", Some(Viewer), me::show, doc::get_me),
        row("GET", "/sessions", Some(Viewer), sessions::list, doc::list_sessions),
        row("DELETE", "/sessions", Some(Viewer), sessions::end_all, doc::end_sessions),
        row("DELETE", "/sessions/{sid}", Some(Viewer), sessions::end_one, doc::end_session),
        row("POST", "/password", Some(Viewer), sessions::change_password, doc::change_password),
        row("GET", "/accounts", Some(Admin), accounts::list, doc::list_accounts),
        row("POST", "/accounts", Some(Admin), accounts::add, doc::add_account),
        row("GET", "/accounts/{username}", Some(Admin), accounts::show, doc::get_account),
        row("PATCH", "/accounts/{username}", Some(Admin), accounts::change, doc::change_account),
        row("GET", "/accounts/{username}/sessions", Some(Admin), accounts::list_sessions, doc::list_account_sessions),
        row("DELETE", "/accounts/{username}/sessions", Some(Admin), accounts::end_sessions, doc::end_account_sessions),
        row("GET", "/accounts/{username}/keys", Some(Viewer), account_keys::list, doc::list_service_keys),
        row("POST", "/accounts/{username}/keys", Some(Viewer), account_keys::add, doc::add_service_key),
        row("DELETE", "/accounts/{username}/keys/{client_id}", Some(Viewer), account_keys::revoke, doc::revoke_service_key),
        row("POST", "/oauth/token", None, oauth::token, doc::issue_token),
        replicated(row("GET", "/customers", Some(Viewer), list::list, doc::list_customers)),
        row("POST", "/customers", Some(Editor), customers::create, doc::create_customer),
        row("POST", "/customers/create", Some(Editor), customers::legacy_create, doc::legacy_create_customer),
        limited(import::LIMITS, row("POST", "/customers/import", Some(Editor), import::import, doc::import_customers)),
        row("POST", "/customers/update", Some(Editor), customers::legacy_update, doc::legacy_update_customer),
        row("DELETE", "/customers/delete", Some(Editor), customers::legacy_delete, doc::legacy_delete_customer),
        replicated(row("GET", "/customers/{id}", Some(Viewer), customers::show, doc::get_customer)),
        row("PUT", "/customers/{id}", Some(Editor), customers::update, doc::update_customer),
        row("DELETE", "/customers/{id}", Some(Editor), customers::delete, doc::delete_customer),
        row("PUT", "/customers/external/{external_id}", Some(Editor), external_ids::put, doc::put_external_customer),
        row("POST", "/customers/{id}/restore", Some(Editor), restore::restore, doc::restore_customer),
        replicated(row("GET", "/customers/{id}/history", Some(Auditor), history::show, doc::get_history)),
        row("GET", "/events", Some(Subscriber), events::feed, doc::list_events),
        row("GET", "/events/stream", Some(Subscriber), stream::stream, doc::stream_events),
        row("GET", "/projections", Some(Admin), projections::list, doc::list_projections),
        row("POST", "/projections/{name}/rebuild", Some(Admin), projections::rebuild, doc::rebuild_projection),
        row("GET", "/livez", None, ops::livez, doc::get_liveness),
        row("GET", "/readyz", None, ops::readyz, doc::get_readiness),
        row("GET", "/metrics", None, ops::metrics, doc::get_metrics),
        row("GET", "/.well-known/jwks.json", None, ops::jwks, doc::get_keys),
        row("GET", oauth::METADATA_PATH, None, oauth::metadata, doc::get_oauth_metadata),
        row("GET", "/openapi.json", None, documentation::openapi, doc::get_openapi),
        row("GET", "/docs", None, documentation::docs, doc::get_docs),
        row("GET", "/docs/{file}", None, documentation::docs_file, doc::get_docs_file),
        row("GET", "/problems/{slug}", None, documentation::problem_type, doc::get_problem_type),
    ];
    rows
}

/// The OpenAPI document as JSON. `base` is the path of the public URL, and `cookie` the name of the session's cookie.
#[must_use]
pub fn openapi_json(base: &str, cookie: &str) -> String {
    let document = openapi::document(&routes(), base, cookie);
    document.to_pretty_json().expect("a document is plain JSON")
}

/// The API as a service.
pub struct Service {
    api: Api,
    origins: Origins,
    router: Router,
    /// The metrics of requests that no row answers.
    no_route: RouteMetrics,
}

impl Service {
    /// The table of routes. Each route has its frame (`api::frame`), so that 404 and 405 come before it.
    #[must_use]
    pub fn new(api: Api, rate_limit: Option<&RateLimit>, origins: &[String]) -> Self {
        let rows = routes().into_iter().map(|route| {
            let method = Method::from_bytes(route.method.as_bytes()).expect("a method");
            (method, route.path, Frame::new(&route, &api, rate_limit))
        });
        let router = Router::new(rows, &api.public_path);
        let no_route = RouteMetrics::of_no_route();
        Self { api, origins: Origins::new(origins), router, no_route }
    }

    /// The answer to a request of this peer.
    pub async fn answer(self: Arc<Self>, peer: IpAddr, request: Request) -> Response {
        let routed = async |request: BoxRequest| match host::refuse(&request) {
            Some(refused) => refused.into_response(),
            None => self.router.answer(request).await,
        };
        let answered = |request| self.origins.answer(request, routed);
        let request = Box::new(request);
        request::envelope(&self.api, &self.no_route, peer, request, answered).await
    }
}
