//! Projections, health, keys, this document.

use serde_json::Value;
use utoipa::ToSchema;

/// A projection: the code that follows the log, and its table.
#[derive(ToSchema)]
pub(crate) struct Projection {
    #[schema(example = "customers")]
    name: String,
    version: i64,
    state: ProjectionState,
    /// The position that the table shows.
    checkpoint: i64,
    /// The position of the last event of the log.
    head: i64,
    lag_events: i64,
    /// The age of the oldest event that is not applied yet; 0 if all are applied.
    lag_seconds: f64,
    /// How many customers are parked.
    parked: i64,
    /// Null unless the table is rebuilt.
    #[schema(required = true)]
    rebuild: Option<Rebuild>,
}

#[derive(ToSchema)]
#[schema(rename_all = "kebab-case")]
pub(crate) enum ProjectionState {
    Following,
    Rebuilding,
    RebuildStopped,
}

/// The progress of a rebuild, in events.
#[derive(ToSchema)]
pub(crate) struct Rebuild {
    done: i64,
    total: i64,
    per_second: f64,
    /// Null while no attempt runs.
    #[schema(required = true)]
    seconds_left: Option<f64>,
    /// Why the last attempt failed.
    #[schema(required = true)]
    error: Option<String>,
}

#[derive(ToSchema)]
pub(crate) struct ProjectionList {
    projections: Vec<Projection>,
}

#[derive(ToSchema)]
pub(crate) struct RebuildBegun {
    #[schema(example = "customers")]
    name: String,
    state: ProjectionState,
}

#[derive(ToSchema)]
pub(crate) struct Health {
    status: HealthStatus,
    /// The parts, by name.
    #[schema(value_type = Object)]
    checks: Value,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum HealthStatus {
    Ok,
    Unavailable,
}

/// Public keys (RFC 7517, section 5).
#[derive(ToSchema)]
pub(crate) struct KeySet {
    #[schema(value_type = Vec<Object>)]
    keys: Vec<Value>,
}

/// An OpenAPI document.
#[derive(ToSchema)]
pub(crate) struct Document {
    openapi: String,
    #[schema(value_type = Object)]
    info: Value,
    #[schema(value_type = Vec<Object>)]
    servers: Value,
    #[schema(value_type = Object)]
    paths: Value,
    #[schema(value_type = Object)]
    components: Value,
    #[schema(value_type = Vec<Object>)]
    tags: Value,
}
