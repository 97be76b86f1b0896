//! The parameters that select events, of the feed and of the stream; and what a role is shown of the log.

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};

use super::as_of::time;
use super::error::ApiError;
use super::state::Api;
use crate::auth::Principal;
use crate::events::account::{ACCOUNT, AccountEvent};
use crate::events::customer::{CUSTOMER, CustomerEvent};
use crate::events::log::filter::Filter;
use crate::events::log::read;
use crate::events::values::{CustomerId, Role};
use crate::feed::view::View;

/// The longest value of a parameter that is compared with metadata, in bytes: no user name, request id or session id
/// is longer.
const TEXT_MAX: usize = 255;

/// The parameters, as the client wrote them.
pub(super) struct Asked {
    pub(super) aggregate_type: Option<String>,
    pub(super) event_types: Option<String>,
    pub(super) customer: Option<String>,
    pub(super) actor: Option<String>,
    pub(super) request_id: Option<String>,
    pub(super) session: Option<String>,
}

/// What a caller is shown of the log: a subscriber the events of customers, without addresses and agents.
pub(super) fn view_of(principal: &Principal) -> View {
    if principal.role.covers(Role::Auditor) { View::Whole } else { View::Customers }
}

/// The role that a caller with this view must keep.
pub(super) fn role_of(view: View) -> Role {
    match view {
        View::Whole => Role::Auditor,
        View::Customers => Role::Subscriber,
    }
}

impl Asked {
    /// The filter; 400 for the first value that is none of its parameter's.
    pub(super) fn filter(&self, view: View) -> Result<Filter, ApiError> {
        let aggregate_type = match self.aggregate_type.as_deref() {
            None => None,
            Some(CUSTOMER) => Some(CUSTOMER),
            Some(ACCOUNT) => Some(ACCOUNT),
            Some(_) => {
                return Err(ApiError::malformed("aggregate_type", "must be customer or account"));
            }
        };
        let customer = self.customer.as_deref().map(|id| {
            CustomerId::parse(id).map_err(|error| ApiError::malformed("customer", error.0))
        });
        Ok(Filter {
            aggregate_type,
            event_types: types(self.event_types.as_deref())?,
            customer: customer.transpose()?,
            actor: text("actor", self.actor.as_deref())?,
            request_id: text("request_id", self.request_id.as_deref())?,
            session: text("session", self.session.as_deref())?,
            only_customers: view == View::Customers,
        })
    }

    /// The parameters that were given.
    pub(super) fn given(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let all = [
            ("aggregate_type", &self.aggregate_type),
            ("type", &self.event_types),
            ("customer", &self.customer),
            ("actor", &self.actor),
            ("request_id", &self.request_id),
            ("session", &self.session),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)))
    }
}

/// A list of event types, each of which is known.
fn types(list: Option<&str>) -> Result<Vec<String>, ApiError> {
    let Some(list) = list else { return Ok(vec![]) };
    let known = || CustomerEvent::TYPES.iter().chain(AccountEvent::TYPES).copied();
    let names: Vec<String> = list.split(',').map(str::to_owned).collect();
    if names.iter().all(|name| known().any(|known| known == name)) {
        return Ok(names);
    }
    let known: Vec<_> = known().collect();
    Err(ApiError::malformed("type", format!("must be one of {}", known.join(", "))))
}

fn text(name: &str, value: Option<&str>) -> Result<Option<String>, ApiError> {
    let Some(value) = value else { return Ok(None) };
    if value.is_empty() || value.len() > TEXT_MAX {
        return Err(ApiError::malformed(name, "must have 1 to 255 bytes"));
    }
    // PostgreSQL cannot store NUL, so no metadata contains it.
    if value.contains('\0') {
        return Err(ApiError::malformed(name, "must have no NUL"));
    }
    Ok(Some(value.to_owned()))
}

/// The times of `from` (inclusive) and `to` (exclusive), both optional.
pub(super) struct Span {
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
}

impl Span {
    /// Parses both; 400 if one is no time, or if no moment is between them.
    pub(super) fn parse(from: Option<&str>, to: Option<&str>) -> Result<Self, ApiError> {
        let shape = "must be a time like 2026-01-31T12:00:00Z";
        let parsed =
            |name: &str, text: Option<&str>| text.map(|text| time(name, text, shape)).transpose();
        let (from, to) = (parsed("from", from)?, parsed("to", to)?);
        if from.zip(to).is_some_and(|(from, to)| from >= to) {
            return Err(ApiError::malformed("to", "must be after from"));
        }
        Ok(Self { from, to })
    }

    /// The last microsecond before the span, and the last one in it.
    pub(super) fn bounds(&self) -> (Option<DateTime<Utc>>, Option<DateTime<Utc>>) {
        (self.from.map(last_before), self.to.map(last_before))
    }

    /// The same as positions: `after` that or the first one's, up to the second. Nothing is after the head of a log
    /// whose span begins in the future.
    pub(super) async fn positions(
        &self,
        api: &Api,
        after: i64,
        head: i64,
    ) -> Result<(i64, Option<i64>), ApiError> {
        let (before, last) = self.bounds();
        let after = match before {
            None => after,
            Some(before) => after.max(read::position_at(&api.short, before).await?.unwrap_or(head)),
        };
        let until = match last {
            None => None,
            Some(last) => read::position_at(&api.short, last).await?,
        };
        Ok((after, until))
    }
}

/// The last microsecond before a moment: the log has no finer times.
fn last_before(moment: DateTime<Utc>) -> DateTime<Utc> {
    let before = moment.checked_sub_signed(TimeDelta::nanoseconds(1)).unwrap_or(moment);
    before.trunc_subsecs(6)
}
