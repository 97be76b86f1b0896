//! How it was at a moment of the past: for auditors, on the routes of today.

use axum::http::HeaderMap;
use chrono::{DateTime, Utc};

use super::error::ApiError;
use super::extract::{CustomerPath, plain_number};
use super::freshness;
use super::replica::Source;
use super::{Api, Length};
use crate::auth::Principal;
use crate::events::log::read;
use crate::events::values::Role;
use crate::projections::customer_history::{self, CustomerHistory};
use crate::projections::customers::Row;

/// Who may look at the past.
///
/// # Errors
/// When the session may not.
pub(super) fn allowed(session: &Principal) -> Result<(), ApiError> {
    if session.role.covers(Role::Auditor) {
        Ok(())
    } else {
        Err(ApiError::Forbidden(Role::Auditor))
    }
}

/// # Errors
/// When it is no moment.
pub(super) fn moment(text: &str) -> Result<DateTime<Utc>, ApiError> {
    let moment = DateTime::parse_from_rfc3339(text)
        .map_err(|_| ApiError::malformed("as_of", "must be a time like 2026-01-31T12:00:00Z"))?;
    Ok(moment.to_utc())
}

/// The position of the last event up to the moment, once the histories show it.
///
/// # Errors
/// When the moment has not come yet, or the histories do not show it in time.
pub(super) async fn position(
    api: &Api,
    source: Source,
    headers: &HeaderMap,
    moment: DateTime<Utc>,
) -> Result<i64, ApiError> {
    let asked = freshness::wait(api, source, headers).await?;
    let position = read::position_at(api.read(), moment).await?;
    let position =
        position.ok_or_else(|| ApiError::malformed("as_of", "must not be in the future"))?;
    if source == Source::Primary {
        freshness::in_history(api, position).await?;
    } else {
        // The primary waits until its read table shows what was asked for; the replica's need not.
        freshness::not_beyond(asked, read::head(api.read()).await?)?;
    }
    Ok(position)
}

/// The customer at one of its versions, or at a moment.
///
/// # Errors
/// As for [`position`], or when the path or the version is none.
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
        let position = freshness::wait_in_history(api, source, headers).await?;
        let mut db =
            freshness::reader(api, source, Length::Short, &CustomerHistory, position).await?;
        customer_history::versions(&mut db, path.id()?, version, version).await?.pop()
    } else {
        let moment = moment(as_of.unwrap_or_default())?;
        let position = position(api, source, headers, moment).await?;
        {
            let shown = Some(position);
            let mut db =
                freshness::reader(api, source, Length::Short, &CustomerHistory, shown).await?;
            customer_history::at(&mut db, path.id()?, position).await?
        }
    };
    Ok(found.and_then(customer_history::Version::into_row))
}
