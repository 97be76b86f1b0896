//! The state of the API, which all handlers share.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use aws_lc_rs::hmac;
use ipnet::IpNet;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::account_slots::AccountSlots;
use super::customer_json::MarkedJson;
use super::error::ApiError;
use super::packing::Kept;
use super::pool_choice::{PoolKind, Source};
use super::replica::Replica;
use super::spool::SpoolSpace;
use super::stream_places::StreamPlaces;
use crate::auth::Auth;
use crate::clock::Clock;
use crate::coalesce::Coalescer;
use crate::commands::Bus;
use crate::commands::import::Imports;
use crate::events::values::CustomerId;
use crate::feed::tail::Tail;
use crate::postgres::Pool;
use crate::projections::customer_count::CustomerCount;
use crate::projections::customers::Row;
use crate::projections::projector::Projector;
use crate::tasks::Tasks;

/// The state of the API. Clones share it.
#[derive(Clone)]
pub struct Api(Arc<ApiState>);

impl Deref for Api {
    type Target = ApiState;

    fn deref(&self) -> &ApiState {
        &self.0
    }
}

/// The fields of [`Api`].
pub struct ApiState {
    pub bus: Bus,
    pub imports: Imports,
    pub auth: Auth,
    /// For short queries to the primary.
    pub short: Pool,
    /// For long queries to the primary.
    pub long: Pool,
    pub replica: Option<Replica>,
    pub rebuild: Pool,
    /// The projector of `customers`.
    pub projector: Projector,
    /// The projector of `customer_history`.
    pub history: Projector,
    /// The projector of `customer_search`.
    pub search: Projector,
    pub customer_count: CustomerCount,
    /// The head of the log at the start of this process if a projection was empty then; otherwise 0.
    pub built_at: i64,
    pub clock: Clock,
    pub metrics: PrometheusHandle,
    /// The pools to the primary, which `/metrics` shows.
    pub measured: Vec<Pool>,
    pub trusted_proxies: Vec<IpNet>,
    pub https: bool,
    /// Whether a change of a customer must name its version.
    pub require_if_match: bool,
    /// The path of the public URL, without a slash at its end; empty at the root of a host.
    pub public_path: String,
    /// The OpenAPI document.
    pub openapi: Kept,
    /// The URL of the feed: the source of its CloudEvents.
    pub feed_url: String,
    pub tail: Tail,
    /// Signs the cursors of lists.
    pub cursor_key: hmac::Key,
    /// The spool files of imports and lists.
    pub spool: SpoolSpace,
    /// The places of event streams.
    pub stream_places: StreamPlaces,
    /// Permits for imports.
    pub import_slots: Arc<Semaphore>,
    /// The imports of each account.
    pub account_imports: AccountSlots,
    /// The long lists of each account.
    pub account_lists: AccountSlots,
    /// The queries of the long lists of each account.
    pub account_queries: AccountSlots,
    /// Reads that requests share: single customers, and the JSON of so many youngest.
    pub customer_reads: Coalescer<Source, CustomerId, Result<Option<Row>, ApiError>>,
    pub youngest_reads: Coalescer<(Source, i64), (), Result<MarkedJson, ApiError>>,
    /// How many requests have arrived.
    pub requests: AtomicU64,
    pub tasks: Tasks,
    /// Cancelled when the process shall end: it is not ready, and its answers close their connections.
    pub draining: CancellationToken,
    /// Cancelled when long-lived responses have to end.
    pub stopping: CancellationToken,
}

impl Api {
    #[must_use]
    pub fn new(state: ApiState) -> Self {
        Self(Arc::new(state))
    }

    /// The pool for a query.
    pub(super) fn pool(&self, source: Source, kind: PoolKind) -> &Pool {
        match (source, &self.replica, kind) {
            (Source::Replica, Some(replica), PoolKind::Short) => &replica.short,
            (Source::Replica, Some(replica), PoolKind::Long) => &replica.long,
            (_, _, PoolKind::Short) => &self.short,
            (_, _, PoolKind::Long) => &self.long,
        }
    }

    /// Compares the replica, if there is one, with the primary, for as long as the process runs.
    pub fn watch_replica(&self) {
        if self.replica.is_none() {
            return;
        }
        let api = self.clone();
        self.tasks.supervise("replica watch", move || {
            let api = api.clone();
            async move {
                if let Some(replica) = &api.replica {
                    replica.watch(&api.short).await;
                }
            }
        });
    }

    /// Whether all projections that are read have applied the log up to `built_at`.
    pub(super) fn is_built(&self) -> bool {
        let read = [&self.projector, &self.history, &self.search];
        read.into_iter().all(|projector| projector.checkpoint() >= self.built_at)
    }
}
