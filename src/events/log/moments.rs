//! From times to positions, by `position_at` (migration 10): in as many steps as the length of the log has bits.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;

/// The position of the last event recorded up to `end`, or up to now, if that is earlier; and that moment. `None` while
/// `begin` is in the future.
pub async fn position_within(
    executor: impl PgExecutor<'_>,
    begin: DateTime<Utc>,
    end: DateTime<Utc>,
) -> Result<Option<(DateTime<Utc>, i64)>, sqlx::Error> {
    let found = sqlx::query!(
        r#"select shown.moment as "moment!", position_at(shown.moment) as "position!"
           from (select least($2::timestamptz, clock_timestamp()) as moment
                 where $1::timestamptz <= clock_timestamp()) as shown"#,
        begin,
        end
    )
    .fetch_optional(executor)
    .await?;
    Ok(found.map(|found| (found.moment, found.position)))
}
