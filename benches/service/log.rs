//! A synthetic log for benchmarks.

use sqlx::{Executor as _, PgConnection};

/// Metadata of the size that a request has.
pub const METADATA: &str = r#"{"actor":"demo","role":"admin","session":"01a20b71-5f0a-701b-8088-fea094391e33","ip":"127.0.0.1","user_agent":"curl/7.88.1","request_id":"01a20b71-5f4a-7640-8640-69df9954f92a"}"#;

/// $1 events: 70 % creates, then changes of customers all over the log, one in six of them a delete;
/// changes after a delete are left out.
const EVENTS: &str = "
    insert into events
    select row_number() over (order by n), 'customer', id::text, sequence, kind, '1',
           case kind when 'CustomerDeleted' then json_build_object('type', kind)
           else json_build_object('type', kind, 'name', 'Customer ' || n,
                                  'dob', date '1940-01-01' + (n * 7919 % 25000)::int) end,
           $2::json, gen_random_uuid(),
           timestamptz '2020-01-01' + row_number() over (order by n) * interval '1 millisecond'
    from (
        select n, id, row_number() over (partition by id order by n) as sequence,
               case when n <= created then 'CustomerCreated'
                    when n % 6 = 0 then 'CustomerDeleted' else 'CustomerUpdated' end as kind,
               bool_or(n > created and n % 6 = 0) over (
                   partition by id order by n rows between unbounded preceding and 1 preceding
               ) as is_gone
        from (select n, $1 * 7 / 10 as created,
                     case when n <= $1 * 7 / 10 then n
                          else 1 + n * 2654435761 % ($1 * 7 / 10) end as id
              from generate_series(1, $1) n) numbered
    ) events
    where is_gone is not true";

/// Fills an empty log. The index of streams is built after the inserts: its order differs from that of
/// the rows, so ten million inserts into it would take many minutes.
pub async fn fill(connection: &mut PgConnection, events: i64) {
    for statement in [
        "set work_mem = '1GB'",
        "set maintenance_work_mem = '1GB'",
        "alter table events drop constraint events_stream_key",
    ] {
        connection.execute(statement).await.unwrap();
    }
    sqlx::query(EVENTS).bind(events).bind(METADATA).execute(&mut *connection).await.unwrap();
    for statement in [
        "alter table events add constraint events_stream_key
         unique (aggregate_type, aggregate_id, sequence)",
        "select setval('customer_ids', (select max(aggregate_id::bigint) from events))",
        "vacuum analyze events",
    ] {
        connection.execute(statement).await.unwrap();
    }
}
