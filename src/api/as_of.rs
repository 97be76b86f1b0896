//! `as_of` and `version`: parameters with which auditors read an earlier state.

use axum::http::HeaderMap;
use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};

use super::error::ApiError;
use super::pool_choice::{PoolKind, Source};
use super::query::{CustomerPath, plain_number};
use super::read_your_writes;
use super::state::Api;
use crate::auth::Principal;
use crate::clock;
use crate::events::log::{moments, read};
use crate::events::values::Role;
use crate::projections::customer_history::{self, CustomerHistory};
use crate::projections::customers::Row;

/// The parameter `as_of`.
pub(super) enum AsOf {
    /// A time, and how the client wrote it.
    Time(DateTime<Utc>, String),
    /// The end of a day in UTC; of today, now.
    Day(NaiveDate),
}

/// A moment of the past, and the last event up to it.
pub(super) struct Past {
    pub(super) position: i64,
    pub(super) moment: DateTime<Utc>,
    /// The `as_of` that names the same moment for ever: a day that is not over yet does not.
    pub(super) text: String,
}

/// 403 unless the principal is an auditor.
pub(super) fn require_auditor(principal: &Principal) -> Result<(), ApiError> {
    if principal.role.covers(Role::Auditor) {
        Ok(())
    } else {
        Err(ApiError::Forbidden(Role::Auditor))
    }
}

impl AsOf {
    /// Parses a time (RFC 3339) or a date like 2026-01-31; 400 if it is neither.
    pub(super) fn parse(text: String) -> Result<Self, ApiError> {
        // Only in this form: chrono also reads +2026-1-31.
        let fits = |(place, byte): (usize, u8)| match place {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        };
        if text.len() == "2026-01-31".len()
            && text.bytes().enumerate().all(fits)
            && let Ok(day) = text.parse()
        {
            return Ok(Self::Day(day));
        }
        let moment = time("as_of", &text, "must be a time like 2026-01-31T12:00:00Z, or a date")?;
        Ok(Self::Time(moment, text))
    }

    /// Waits until the histories show the last event up to the moment. 400 if the moment is in the future.
    pub(super) async fn resolve(
        self,
        api: &Api,
        source: Source,
        headers: &HeaderMap,
    ) -> Result<Past, ApiError> {
        let named = read_your_writes::wait_for_present(api, source, headers).await?;
        let past = match self {
            Self::Time(moment, text) => {
                let position = read::position_at(&api.short, moment).await?;
                position.map(|position| Past { position, moment, text })
            }
            Self::Day(day) => {
                let (begin, end) = bounds(day)?;
                let found = moments::position_within(&api.short, begin, end).await?;
                found.map(|(moment, position)| Past {
                    position,
                    moment,
                    text: clock::rfc3339(moment),
                })
            }
        };
        let past = past.ok_or_else(|| ApiError::malformed("as_of", "must not be in the future"))?;
        if source == Source::Primary {
            read_your_writes::wait_for_history(api, past.position).await?;
        } else {
            // For a replica, `wait_for_present` does not check the named position.
            read_your_writes::not_beyond(named, read::head(&api.short).await?)?;
        }
        Ok(past)
    }
}

/// A time of a parameter (RFC 3339); 400 with this shape if it is malformed.
pub(super) fn time(name: &str, text: &str, shape: &str) -> Result<DateTime<Utc>, ApiError> {
    let moment =
        DateTime::parse_from_rfc3339(text).map_err(|_| ApiError::malformed(name, shape))?;
    Ok(moment.to_utc())
}

/// The first and the last microsecond of a day in UTC.
fn bounds(day: NaiveDate) -> Result<(DateTime<Utc>, DateTime<Utc>), ApiError> {
    let begin = day.and_time(NaiveTime::MIN).and_utc();
    let end = begin.checked_add_signed(TimeDelta::days(1) - TimeDelta::microseconds(1));
    let end = end.ok_or_else(|| ApiError::malformed("as_of", "must not be in the future"))?;
    Ok((begin, end))
}

/// The customer at one of its versions, or at a moment: `None` if it did not exist then. Also the moment, if one was
/// named.
pub(super) async fn find(
    api: &Api,
    source: Source,
    headers: &HeaderMap,
    path: &CustomerPath,
    version: Option<&str>,
    as_of: Option<String>,
) -> Result<(Option<Row>, Option<Past>), ApiError> {
    let (found, past) = if let Some(version) = version {
        let version = plain_number("version", version)?;
        let position = read_your_writes::wait_for_past(api, source, headers).await?;
        let mut db =
            read_your_writes::reader(api, source, PoolKind::Short, &CustomerHistory, position)
                .await?;
        (customer_history::versions(&mut db, path.id()?, version, version).await?.pop(), None)
    } else {
        let past = AsOf::parse(as_of.unwrap_or_default())?.resolve(api, source, headers).await?;
        let shown = Some(past.position);
        let mut db =
            read_your_writes::reader(api, source, PoolKind::Short, &CustomerHistory, shown).await?;
        (customer_history::at(&mut db, path.id()?, past.position).await?, Some(past))
    };
    Ok((found.and_then(customer_history::Version::into_row), past))
}
