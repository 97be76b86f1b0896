//! Reads histories, and the registry at any moment of the past.

use chrono::{DateTime, NaiveDate, Utc};
use futures_util::Stream;
use sqlx::PgExecutor;

use super::projection::{CustomerHistory, version_of};
use super::version::Version;
use crate::events::log::{StoredEvent, read};
use crate::events::values::CustomerId;
use crate::projections::customers::Row;
use crate::projections::parked;
use crate::projections::projection::ProjectionError;
use crate::projections::reader::Reader;

/// A checked query for versions, with the column list in one place; `$rest` follows the table's name.
macro_rules! select_versions {
    ($rest:tt, $($parameter:expr),* $(,)?) => {
        sqlx::query_as!(
            Version,
            "select customer_id, version, position, until_position, event_type, name, dob, external_id,
                    created_at, valid_from, valid_to, actor, role, request_id, ip, user_agent, reason
             from customer_history " + $rest,
            $($parameter),*
        )
    };
}

/// The states of a customer from version `from` to version `to`, both included, oldest first. Those
/// of a parked customer are folded from the log.
pub async fn versions(
    db: &mut Reader,
    id: CustomerId,
    from: i64,
    to: i64,
) -> Result<Vec<Version>, ProjectionError> {
    if parked::is_parked(&CustomerHistory, &mut *db, id.get()).await? {
        let stream = read::stream(db, id, (0, i64::MAX)).await?;
        let wanted = stream.iter().enumerate();
        return wanted
            .filter(|(_, event)| (from..=to).contains(&event.sequence))
            .map(|(at, _)| of_stream(&stream, at))
            .collect();
    }
    let versions = select_versions!(
        "where customer_id = $1 and version between $2 and $3
         order by version",
        id.get(),
        from,
        to
    )
    .fetch_all(db)
    .await?;
    Ok(versions)
}

/// The last version of a customer that was recorded up to `moment`; 0 before its first event. Versions are in the order
/// of time, so it is found in as many steps as their number has bits.
pub async fn version_at(
    db: &mut Reader,
    id: CustomerId,
    moment: DateTime<Utc>,
) -> Result<i64, ProjectionError> {
    if parked::is_parked(&CustomerHistory, &mut *db, id.get()).await? {
        let stream = read::stream(db, id, (0, i64::MAX)).await?;
        let last = stream.partition_point(|event| event.recorded_at <= moment).checked_sub(1);
        return Ok(last.map_or(0, |last| stream[last].sequence));
    }
    let version = sqlx::query_scalar!(
        r#"with recursive search (low, high) as (
               select 0::bigint, coalesce(max(version), 0) + 1
               from customer_history where customer_id = $1
               union all
               select case when h.valid_from <= $2 then s.middle else s.low end,
                      case when h.valid_from <= $2 then s.high else s.middle end
               from (select low, high, low + (high - low) / 2 as middle
                     from search where high - low > 1) s
               join lateral (
                   select valid_from from customer_history
                   where customer_id = $1 and version = s.middle limit 1
               ) h on true
           )
           select low as "low!" from search order by high - low limit 1"#,
        id.get(),
        moment
    )
    .fetch_one(db)
    .await?;
    Ok(version)
}

/// The state of a customer after the event at `position`; `None` before its first event. That of a
/// parked customer is folded from the log.
pub async fn at(
    db: &mut Reader,
    id: CustomerId,
    position: i64,
) -> Result<Option<Version>, ProjectionError> {
    if parked::is_parked(&CustomerHistory, &mut *db, id.get()).await? {
        let stream = read::stream(db, id, (0, i64::MAX)).await?;
        let last = stream.partition_point(|event| event.position <= position).checked_sub(1);
        return last.map(|last| of_stream(&stream, last)).transpose();
    }
    let version = select_versions!(
        "where customer_id = $1 and position <= $2
         order by version desc limit 1",
        id.get(),
        position
    )
    .fetch_optional(db)
    .await?;
    Ok(version)
}

/// The state after the event at index `at` of a whole stream. Other events need not be decodable.
fn of_stream(stream: &[StoredEvent], at: usize) -> Result<Version, ProjectionError> {
    let mut version = version_of(&stream[at], stream[0].recorded_at)?;
    if let Some(next) = stream.get(at + 1) {
        version.until_position = Some(next.position);
        version.valid_to = Some(next.recorded_at);
    }
    Ok(version)
}

/// The customers after the event at `position`, youngest first: up to `number` of them, all without a
/// number, after the one of that date of birth and id.
pub fn youngest_at<'a>(
    db: impl PgExecutor<'a> + 'a,
    position: i64,
    after: Option<(NaiveDate, i64)>,
    number: Option<i64>,
) -> impl Stream<Item = Result<Row, sqlx::Error>> + Send + 'a {
    let (dob, id) = after.unzip();
    sqlx::query_as!(
        Row,
        r#"select customer_id as id, name as "name!", dob as "dob!", external_id, version,
                  created_at, valid_from as updated_at
           from customer_history
           where position <= $1 and (until_position is null or until_position > $1)
             and dob <= coalesce($2::date, 'infinity'::date)
             and ($2::date is null or dob < $2 or customer_id > $3)
           order by dob desc, customer_id
           limit $4"#,
        position,
        dob,
        id,
        number
    )
    .fetch(db)
}
