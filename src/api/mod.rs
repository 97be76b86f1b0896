//! HOW THEY ASK. The only module that knows HTTP. [`routes`](crate::api::routes) is THE table of routes.

/// What is known of every request, and the frame around every answer.
pub mod request;

/// Limits that stand before every handler.
pub mod limits;

/// Which pages in browsers may ask.
mod cors;

/// Who may use a route.
pub mod guard;

/// From bytes to values.
pub mod extract;

/// Everything that can go wrong, as problem details.
pub mod error;

/// Read your own writes.
pub mod freshness;

/// Reads that the primary need not answer.
pub mod replica;

/// Create, read, update, delete.
pub mod customers;

/// How it was at a moment of the past.
mod past;

/// Where a list goes on.
mod cursor;

/// All customers, or the N youngest.
pub mod list;

/// Many customers from one file.
pub mod import;

/// Who changed a customer.
pub mod history;

/// The log itself.
pub mod events;

/// The log as it grows.
pub mod stream;

/// Log-in, log-out, password.
pub mod sessions;

/// How far the read tables are, and rebuilding them.
pub mod projections;

/// Alive, ready, measured.
pub mod ops;

use std::sync::Arc;

use aws_lc_rs::hmac;
use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::routing::{MethodRouter, delete, get, post, put};
use ipnet::IpNet;
use metrics_exporter_prometheus::PrometheusHandle;
use sqlx::PgPool;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::error::ApiError;
use self::limits::{Limits, RateLimit};
use self::replica::{Replica, Source};
use crate::auth::Auth;
use crate::clock::Clock;
use crate::commands::Bus;
use crate::commands::import::Imports;
use crate::events::values::Role;
use crate::feed::tail::Tail;
use crate::projections::projector::Projector;

/// Everything that handlers use. Clones share it.
#[derive(Clone)]
pub struct Api {
    parts: Arc<Parts>,
    /// Places for streams and for imports that are free.
    streams: Arc<Semaphore>,
    imports: Arc<Semaphore>,
    cursor_key: Arc<hmac::Key>,
}

/// What an [`Api`] is made of.
pub struct Parts {
    pub bus: Bus,
    pub imports: Imports,
    pub auth: Auth,
    /// Short queries.
    pub read: PgPool,
    /// Long ones.
    pub bulk: PgPool,
    /// A copy of the primary that may be read, too.
    pub replica: Option<Replica>,
    /// For rebuilds.
    pub rebuild: PgPool,
    /// That of the projection `customers`.
    pub projector: Projector,
    /// That of the projection `customer_history`.
    pub history: Projector,
    /// Where the log ended when a projection that this process serves was found empty; 0 if none was.
    pub built_at: i64,
    pub clock: Clock,
    pub metrics: PrometheusHandle,
    pub trusted_proxies: Vec<IpNet>,
    pub https: bool,
    /// Where other programs find the feed: the source of its CloudEvents.
    pub feed_url: String,
    pub tail: Tail,
    /// What signs the cursors of lists.
    pub cursor_secret: String,
    /// Cancelled when answers that last have to end.
    pub stopping: CancellationToken,
}

impl Api {
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let streams = Arc::new(Semaphore::new(stream::STREAMS_MAX));
        let imports = Arc::new(Semaphore::new(import::IMPORTS_MAX));
        let cursor_key = Arc::new(cursor::key(&parts.cursor_secret));
        Self { parts: Arc::new(parts), streams, imports, cursor_key }
    }

    fn bus(&self) -> &Bus {
        &self.parts.bus
    }

    fn imports(&self) -> &Imports {
        &self.parts.imports
    }

    fn imports_free(&self) -> Arc<Semaphore> {
        Arc::clone(&self.imports)
    }

    fn auth(&self) -> &Auth {
        &self.parts.auth
    }

    fn read(&self) -> &PgPool {
        &self.parts.read
    }

    fn bulk(&self) -> &PgPool {
        &self.parts.bulk
    }

    fn replica(&self) -> Option<&Replica> {
        self.parts.replica.as_ref()
    }

    /// For short queries or long ones, where the request reads.
    fn pool(&self, source: Source, length: Length) -> &PgPool {
        match (source, self.replica(), length) {
            (Source::Replica, Some(replica), Length::Short) => &replica.read,
            (Source::Replica, Some(replica), Length::Long) => &replica.bulk,
            (_, _, Length::Short) => self.read(),
            (_, _, Length::Long) => self.bulk(),
        }
    }

    fn rebuild(&self) -> &PgPool {
        &self.parts.rebuild
    }

    fn projector(&self) -> &Projector {
        &self.parts.projector
    }

    fn history(&self) -> &Projector {
        &self.parts.history
    }

    /// Whether what a new version of a projection had to read first has been read.
    fn is_built(&self) -> bool {
        let checkpoint = self.projector().checkpoint().min(self.history().checkpoint());
        checkpoint >= self.parts.built_at
    }

    fn cursor_key(&self) -> &hmac::Key {
        &self.cursor_key
    }

    fn clock(&self) -> &Clock {
        &self.parts.clock
    }

    fn metrics(&self) -> &PrometheusHandle {
        &self.parts.metrics
    }

    fn trusted_proxies(&self) -> &[IpNet] {
        &self.parts.trusted_proxies
    }

    fn feed_url(&self) -> &str {
        &self.parts.feed_url
    }

    fn tail(&self) -> &Tail {
        &self.parts.tail
    }

    fn streams(&self) -> Arc<Semaphore> {
        Arc::clone(&self.streams)
    }

    fn stopping(&self) -> &CancellationToken {
        &self.parts.stopping
    }

    fn is_https(&self) -> bool {
        self.parts.https
    }
}

/// What a query is.
#[derive(Debug, Clone, Copy)]
enum Length {
    Short,
    Long,
}

/// One row of the table.
pub struct Route {
    pub method: &'static str,
    pub path: &'static str,
    /// Who may use it; `None` needs no log-in, [`Role::Viewer`] any.
    pub role: Option<Role>,
    pub limits: Limits,
    /// A replica may answer it.
    pub replicated: bool,
    handler: MethodRouter<Api>,
}

/// THE table of routes. What a route costs and who may use it is decided nowhere else; that each
/// handler's own type asks for the role that stands here is proved by a test over all rows.
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
        row("POST", "/login", None, post(sessions::log_in)),
        row("DELETE", "/logout", Some(Viewer), delete(sessions::log_out)),
        row("GET", "/session_cookie_experiment", Some(Viewer), get(sessions::experiment)),
        row("GET", "/sessions", Some(Viewer), get(sessions::list)),
        row("DELETE", "/sessions", Some(Viewer), delete(sessions::end_all)),
        row("DELETE", "/sessions/{sid}", Some(Viewer), delete(sessions::end_one)),
        row("POST", "/password", Some(Viewer), post(sessions::change_password)),
        replicated(row("GET", "/customers", Some(Viewer), get(list::list))),
        row("POST", "/customers", Some(Editor), post(customers::create)),
        row("POST", "/customers/create", Some(Editor), post(customers::create_spelled_out)),
        limited(
            import::LIMITS,
            row("POST", "/customers/import", Some(Editor), post(import::import)),
        ),
        row("POST", "/customers/update", Some(Editor), post(customers::update_spelled_out)),
        row("DELETE", "/customers/delete", Some(Editor), delete(customers::delete_spelled_out)),
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

/// The table as a service. Layers stand on each route, so that 404 and 405 come before them: body
/// size, then rate, then the handler's own parameters in their order.
pub fn router(api: Api, rate_limit: Option<&RateLimit>, origins: &[String]) -> Router {
    let mut router = Router::new();
    for route in routes() {
        let mut handler = route.handler;
        if route.replicated {
            let first = middleware::from_fn_with_state(api.clone(), replica::first);
            handler = handler.route_layer(first);
        }
        if let Some(limit) = rate_limit {
            let announced = limit.clone();
            let announced = move |request, next| announced.clone().announced(request, next);
            handler = handler
                .route_layer(limit.layer.clone())
                .route_layer(middleware::from_fn(announced));
        }
        let (method, path, limits) = (route.method, route.path, route.limits);
        handler = handler
            .route_layer(middleware::from_fn(move |request, next| limits.body(request, next)))
            .route_layer(middleware::from_fn(move |request, next| limits.answer(request, next)))
            .route_layer(middleware::from_fn(move |request: Request, next: Next| async move {
                let response = next.run(request).await;
                let status = response.status().as_u16().to_string();
                metrics::counter!("customers_http_requests_total",
                    "method" => method, "route" => path, "status" => status)
                .increment(1);
                response
            }));
        router = router.route(path, handler);
    }
    router = router
        .fallback(async || ApiError::NoRoute)
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed);
    if let Some(cors) = cors::layer(origins) {
        router = router.layer(cors);
    }
    router.layer(middleware::from_fn_with_state(api.clone(), request::frame)).with_state(api)
}
