//! Every state that a customer was ever in: `customer_history(customer_id, version, position,
//! until_position, ...)`. From it histories are told, and any moment of the past.

/// Follows the log.
mod keep;

use chrono::{DateTime, NaiveDate, Utc};
use futures_util::Stream;
use sqlx::{PgConnection, PgExecutor};

pub use self::keep::CustomerHistory;
use super::customers::Row;
use super::{ProjectionError, parked};
use crate::events::log::{StoredEvent, read};
use crate::events::values::CustomerId;

/// One version of one customer: a state, and what led to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub customer_id: i64,
    pub version: i64,
    pub position: i64,
    /// The position of the customer's next event.
    pub until_position: Option<i64>,
    pub event_type: String,
    /// `None` after a deletion, like `dob`.
    pub name: Option<String>,
    pub dob: Option<NaiveDate>,
    pub created_at: DateTime<Utc>,
    pub valid_from: DateTime<Utc>,
    pub valid_to: Option<DateTime<Utc>>,
    pub actor: Option<String>,
    pub role: Option<String>,
    pub request_id: Option<String>,
    pub ip: Option<String>,
    pub user_agent: Option<String>,
    pub reason: Option<String>,
}

impl Version {
    /// The customer in this state; `None` after a deletion.
    #[must_use]
    pub fn into_row(self) -> Option<Row> {
        let (id, version) = (self.customer_id, self.version);
        let (created_at, updated_at) = (self.created_at, self.valid_from);
        Some(Row { id, name: self.name?, dob: self.dob?, version, created_at, updated_at })
    }
}

/// The states of a customer from version `from` to version `to`, oldest first. Those of a parked
/// customer are folded from the log.
///
/// # Errors
/// When PostgreSQL cannot be asked, or an event of a parked customer cannot be read.
pub async fn versions(
    db: &mut PgConnection,
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
    let versions = sqlx::query_as!(
        Version,
        "select customer_id, version, position, until_position, event_type, name, dob, created_at,
                valid_from, valid_to, actor, role, request_id, ip, user_agent, reason
         from customer_history
         where customer_id = $1 and version between $2 and $3
         order by version",
        id.get(),
        from,
        to
    )
    .fetch_all(db)
    .await?;
    Ok(versions)
}

/// The state of a customer behind the event at `position`; `None` if it was not there yet. That of a
/// parked customer comes from the log.
///
/// # Errors
/// When PostgreSQL cannot be asked, or the event of a parked customer cannot be read.
pub async fn at(
    db: &mut PgConnection,
    id: CustomerId,
    position: i64,
) -> Result<Option<Version>, ProjectionError> {
    if parked::is_parked(&CustomerHistory, &mut *db, id.get()).await? {
        let stream = read::stream(db, id, (0, i64::MAX)).await?;
        let last = stream.partition_point(|event| event.position <= position).checked_sub(1);
        return last.map(|last| of_stream(&stream, last)).transpose();
    }
    let version = sqlx::query_as!(
        Version,
        "select customer_id, version, position, until_position, event_type, name, dob, created_at,
                valid_from, valid_to, actor, role, request_id, ip, user_agent, reason
         from customer_history
         where customer_id = $1 and position <= $2
         order by version desc limit 1",
        id.get(),
        position
    )
    .fetch_optional(db)
    .await?;
    Ok(version)
}

/// The state that the event at that place of a whole stream left. Other events need not be readable.
fn of_stream(stream: &[StoredEvent], at: usize) -> Result<Version, ProjectionError> {
    let mut version = keep::version_of(&stream[at], stream[0].recorded_at)?;
    if let Some(next) = stream.get(at + 1) {
        version.until_position = Some(next.position);
        version.valid_to = Some(next.recorded_at);
    }
    Ok(version)
}

/// The customers that there were behind the event at `position`, youngest first: up to `number` of
/// them behind the one of that date of birth and id.
pub fn youngest_at<'a>(
    db: impl PgExecutor<'a> + 'a,
    position: i64,
    behind: Option<(NaiveDate, i64)>,
    number: Option<i64>,
) -> impl Stream<Item = Result<Row, sqlx::Error>> + Send + 'a {
    let (dob, id) = behind.unzip();
    sqlx::query_as!(
        Row,
        r#"select customer_id as id, name as "name!", dob as "dob!", version, created_at,
                  valid_from as updated_at
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
