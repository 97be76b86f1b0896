-- The log: every change of a customer and of an account, in the order in which it was committed.
--
-- The columns that postgres-es names keep its names and types, so that its repository loads any
-- stream. `position` numbers the whole log from 1 without gaps; `sequence` numbers one aggregate's
-- events from 1. `payload` and `metadata` are json, not jsonb: their bytes stay as they were written.
create table events (
    position       bigint      not null,
    aggregate_type text        not null,
    aggregate_id   text        not null,
    sequence       bigint      not null,
    event_type     text        not null,
    event_version  text        not null,
    payload        json        not null,
    metadata       json        not null,
    command_id     uuid        not null,
    recorded_at    timestamptz not null,
    constraint events_pkey primary key (position),
    constraint events_stream_key unique (aggregate_type, aggregate_id, sequence),
    constraint events_position_from_one check (position >= 1),
    constraint events_sequence_from_one check (sequence >= 1)
);

-- Nobody changes what happened. The triggers stand at statement level, so they also refuse a
-- statement that would touch no row, and `enable always` keeps them in force when a session sets
-- session_replication_role. Only a superuser or the owner who removes them gets past.
create function refuse_to_change_events() returns trigger
language plpgsql as $$
begin
    raise exception 'events is append-only: % refused', tg_op using errcode = 'insufficient_privilege';
end
$$;

create trigger events_append_only
    before update or delete or truncate on events
    for each statement execute function refuse_to_change_events();

alter table events enable always trigger events_append_only;
