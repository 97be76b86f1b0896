//! `as_of` and `version`: parameters with which auditors read an earlier state.

use axum::http::HeaderMap;
use chrono::{DateTime, Utc};

use super::error::ApiError;
use super::pool_choice::{PoolKind, Source};
use super::query::{CustomerPath, plain_number};
use super::read_your_writes;
use super::state::Api;
use crate::auth::Principal;
use crate::events::log::read;
use crate::events::values::Role;
use crate::projections::customer_history::{self, CustomerHistory};
use crate::projections::customers::Row;

/// 403 unless the principal is an auditor.
pub(super) fn require_auditor(principal: &Principal) -> Result<(), ApiError> {
    if principal.role.covers(Role::Auditor) {
        Ok(())
    } else {
        Err(ApiError::Forbidden(Role::Auditor))
    }
}

/// Parses `as_of` (RFC 3339); 400 if it is malformed.
pub(super) fn parse(text: &str) -> Result<DateTime<Utc>, ApiError> {
    let moment = DateTime::parse_from_rfc3339(text)
        .map_err(|_| ApiError::malformed("as_of", "must be a time like 2026-01-31T12:00:00Z"))?;
    Ok(moment.to_utc())
}

/// Waits until the histories show the last event up to the moment; returns its position. 400 if the
/// moment is in the future.
pub(super) async fn position(
    api: &Api,
    source: Source,
    headers: &HeaderMap,
    moment: DateTime<Utc>,
) -> Result<i64, ApiError> {
    let named = read_your_writes::wait_for_present(api, source, headers).await?;
    let position = read::position_at(&api.short, moment).await?;
    let position =
        position.ok_or_else(|| ApiError::malformed("as_of", "must not be in the future"))?;
    if source == Source::Primary {
        read_your_writes::wait_for_history(api, position).await?;
    } else {
        // For a replica, `wait_for_present` does not check the named position.
        read_your_writes::not_beyond(named, read::head(&api.short).await?)?;
    }
    Ok(position)
}

/// The customer at one of its versions, or at a moment; `None` if it did not exist then.
pub(super) async fn find(
    api: &Api,
    source: Source,
    headers: &HeaderMap,
    path: &CustomerPath,
    version: Option<&str>,
    as_of: Option<&str>,
) -> Result<Option<Row>, ApiError> {
    let found = if let Some(version) = version {
        let version = plain_number("version", version)?;
        let position = read_your_writes::wait_for_past(api, source, headers).await?;
        let mut db =
            read_your_writes::reader(api, source, PoolKind::Short, &CustomerHistory, position)
                .await?;
        customer_history::versions(&mut db, path.id()?, version, version).await?.pop()
    } else {
        let moment = parse(as_of.unwrap_or_default())?;
        let position = position(api, source, headers, moment).await?;
        let shown = Some(position);
        let mut db =
            read_your_writes::reader(api, source, PoolKind::Short, &CustomerHistory, shown).await?;
        customer_history::at(&mut db, path.id()?, position).await?
    };
    Ok(found.and_then(customer_history::Version::into_row))
}
