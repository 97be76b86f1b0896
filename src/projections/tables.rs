//! The tables of projections by their names: what holds of all of them.

use sqlx::{PgConnection, PgPool};

use super::checkpoint::checkpoint_of;
use super::others::Others;
use super::{Projection, ProjectionError};
use crate::transaction;

/// How many rows of the shadow tables differ from those that are served, or stand in one of both
/// only; besides those of customers with events that one of both has not applied yet.
pub(super) async fn differences(
    projection: &dyn Projection,
    pool: &PgPool,
    others: &Others,
) -> Result<i64, ProjectionError> {
    let mut connection = transaction::begin(pool).await?;
    // Nothing is served yet: the first time, there is nothing to differ from.
    if checkpoint_of(projection, &mut *connection).await? == 0 {
        return Ok(0);
    }
    others.leave_room(&mut connection).await?;
    let mut changed = 0;
    for table in projection.tables() {
        let key = customer_key(&mut connection, table).await?;
        let columns = key_columns(&mut connection, table).await?.join(", ");
        // Those with events in between may be as many as there are: `not in` would pass over all of
        // them for each row as soon as they do not fit into work_mem.
        let question = format!(
            "with between_them as (
                 select least(p.checkpoint, s.checkpoint) as low,
                        greatest(p.checkpoint, s.checkpoint) as high
                 from projections p, spare_tables s
                 where p.name = $1 and p.version = $2
                   and (s.projection, s.version, s.place) = ($1, $2, 'shadow')
             ), differing as materialized (
                 select {key}::text as id
                 from public.{table} served full join shadow.{table} rebuilt using ({columns})
                 where served is distinct from rebuilt
             ), touched as materialized (
                 select distinct e.aggregate_id as id from events e, between_them b
                 where e.position > b.low and e.position <= b.high
                   and e.aggregate_type = 'customer'
             )
             select count(*) from differing d left join touched t using (id) where t.id is null"
        );
        changed += sqlx::query_scalar::<_, i64>(&question)
            .bind(projection.name())
            .bind(projection.version())
            .fetch_one(&mut *connection)
            .await?;
    }
    Ok(changed)
}

/// The columns of a served table's primary key; the first is the customer's id.
async fn key_columns(db: &mut PgConnection, table: &str) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select quote_ident(a.attname) as "name!"
           from pg_index i
           cross join unnest(i.indkey) with ordinality k (attnum, n)
           join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
           where i.indrelid = ('public.' || quote_ident($1))::regclass and i.indisprimary
           order by k.n"#,
        table
    )
    .fetch_all(db)
    .await
}

/// The column of a projection's table that holds the customer's id.
pub(super) async fn customer_key(
    db: &mut PgConnection,
    table: &str,
) -> Result<String, sqlx::Error> {
    key_columns(db, table).await?.into_iter().next().ok_or(sqlx::Error::RowNotFound)
}
