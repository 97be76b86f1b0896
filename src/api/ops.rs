//! Endpoints for operations: liveness, readiness, metrics and the public keys.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use metrics::gauge;
use serde::Serialize;
use serde_json::{Value, json};

use super::body::json_answer;
use super::error::ApiError;
use super::query::Params;
use super::state::Api;
use crate::events::log::end::{AHEAD_MAX, seconds_ahead};
use crate::postgres::Pool;
use crate::postgres::pool_metrics::Usage;
use crate::projections::{self, ProjectionError, status};
use crate::telemetry::{self, as_f64};

/// How long PostgreSQL may take to answer a check.
const CHECK_LIMIT: Duration = Duration::from_secs(2);

/// The body of both checks.
#[derive(Serialize)]
pub(super) struct Health {
    pub(super) status: &'static str,
    pub(super) checks: Value,
}

/// `GET /livez`: the process answers. Checks no dependency.
pub(super) async fn livez(params: Params) -> Result<Response, ApiError> {
    params.none()?;
    Ok(json_answer(r#"{"status":"ok","checks":{}}"#))
}

/// `GET /readyz`: checks PostgreSQL with its schema, Redis, and that no background task is down. Reports the lag of
/// the projections, but a lag does not make the process unready, because all processes would lag together. A process
/// with a new version of a projection becomes ready after its first build; until then the processes of the old
/// version serve. A process that is told to stop is not ready, although it still serves.
pub(super) async fn readyz(State(api): State<Api>, params: Params) -> Result<Response, ApiError> {
    params.none()?;
    if api.draining.is_cancelled() {
        let body = Health { status: "unavailable", checks: json!({"process": "stopping"}) };
        return Ok((StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response());
    }
    // One after the other: a second connection of a cold pool would cost more than the query.
    let of_postgres = async {
        let status = status::status(&api.short).await?;
        Ok::<_, ProjectionError>((status, seconds_ahead(&api.short).await?))
    };
    let (postgres, redis) =
        tokio::join!(tokio::time::timeout(CHECK_LIMIT, of_postgres), api.auth.ready());
    let (postgres, projections, log) = match postgres {
        Ok(Ok((mut all, ahead))) => {
            // The text may name objects of the database: it is for administrators.
            for rebuild in all.iter_mut().filter_map(|status| status.rebuild.as_mut()) {
                rebuild.error = None;
            }
            ("ok", json!(all), json!(shown_time(ahead)))
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "readyz: PostgreSQL check failed");
            ("unavailable", Value::Null, Value::Null)
        }
        Err(_) => ("unavailable", Value::Null, Value::Null),
    };
    let redis = match redis {
        Ok(()) => "ok",
        Err(error) => {
            tracing::warn!(%error, "readyz: Redis check failed");
            "unavailable"
        }
    };
    let built = if api.is_built() { "ok" } else { "unavailable" };
    let (running, down) = api.tasks.running_and_down();
    let ready = [postgres, redis, built] == ["ok"; 3] && down.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = Health {
        status: if ready { "ok" } else { "unavailable" },
        checks: json!({
            "postgres": postgres, "redis": redis, "built": built, "log": log,
            "projections": projections, "tasks": {"running": running, "down": down}
        }),
    };
    Ok((status, Json(body)).into_response())
}

/// Whether the log ends in the future. That does not make a process unready, because it is so for all.
fn shown_time(seconds: f64) -> String {
    if seconds > AHEAD_MAX { format!("ends {seconds:.0} s in the future") } else { "ok".to_owned() }
}

/// `GET /metrics`, in the text format of Prometheus.
pub(super) async fn metrics(State(api): State<Api>, params: Params) -> Result<Response, ApiError> {
    params.none()?;
    measure(&api).await;
    let headers = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    Ok((headers, telemetry::rendered(&api.metrics)).into_response())
}

/// Measures what is not counted while it happens, on each scrape: the lag against the log itself, because a stopped
/// projector reports nothing. What cannot be measured keeps its last value, with which rules can go on, and
/// `customers_postgres_up` says so.
async fn measure(api: &Api) {
    let of_postgres = tokio::time::timeout(CHECK_LIMIT, status::status(&api.short));
    let (all, redis) = tokio::join!(of_postgres, api.auth.ready());
    let all = all.ok().and_then(Result::ok);
    gauge!("customers_postgres_up").set(f64::from(u8::from(all.is_some())));
    gauge!("customers_redis_up").set(f64::from(u8::from(redis.is_ok())));
    for projection in projections::ALL {
        let name = projection.name();
        let (events, seconds, parked) = (
            gauge!("customers_projection_lag_events", "projection" => name),
            gauge!("customers_projection_lag_seconds", "projection" => name),
            gauge!("customers_projection_parked", "projection" => name),
        );
        let found = all.iter().flatten().find(|status| status.name == name);
        if let Some(found) = found {
            events.set(as_f64(found.lag_events));
            seconds.set(found.lag_seconds);
            parked.set(as_f64(found.parked));
            gauge!("customers_log_position").set(as_f64(found.head));
        }
    }
    let replica = api.replica.iter().flat_map(|replica| [&replica.short, &replica.long]);
    Usage::show(api.measured.iter().chain(replica).flat_map(Pool::usages));
    let (_, down) = api.tasks.running_and_down();
    gauge!("customers_tasks_down").set(as_f64(i64::try_from(down.len()).unwrap_or(i64::MAX)));
    gauge!("customers_draining").set(f64::from(u8::from(api.draining.is_cancelled())));
}

/// `GET /.well-known/jwks.json`
pub(super) async fn jwks(State(api): State<Api>, params: Params) -> Result<Response, ApiError> {
    params.none()?;
    Ok(Json(api.auth.jwks()).into_response())
}
