-- A projection has versions: a new one has tables of its own beside the old one's, which the
-- processes of the old version go on keeping and reading until they are gone.
alter table projections
    drop constraint projections_pkey,
    add constraint projections_pkey primary key (name, version);

-- Every state that a customer was ever in, kept by the projection of the same name: what an event
-- left, who caused it, and for how long it held. `name` and `dob` are null after a deletion.
-- `until_position` and `valid_to` are those of the customer's next event, null while there is none.
create table customer_history (
    customer_id    bigint      not null,
    version        bigint      not null,
    position       bigint      not null,
    until_position bigint,
    event_type     text        not null,
    name           text,
    dob            date,
    created_at     timestamptz not null,
    valid_from     timestamptz not null,
    valid_to       timestamptz,
    actor          text,
    role           text,
    request_id     text,
    ip             text,
    user_agent     text,
    reason         text,
    constraint customer_history_pkey primary key (customer_id, version)
);

-- The order of every list, over all states: a list of a moment passes over those of other moments.
create index customer_history_youngest on customer_history (dob desc, customer_id)
    include (position, until_position) where dob is not null;

insert into projections (name, version, checkpoint) values ('customer_history', 1, 0);

-- The position of the last event that was recorded up to a moment; 0 before the first; null when the
-- moment has not come yet. Time order is position order, so it is found by halving. What it returns
-- for a moment stays so: when the log ends before it, an append under way may still have an earlier
-- time, and is waited for.
create function position_at(moment timestamptz) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    low    bigint := 0;
    high   bigint;
    middle bigint;
    head   timestamptz;
begin
    if moment > clock_timestamp() then
        return null;
    end if;
    select e.position, e.recorded_at into high, head
    from public.events e order by e.position desc limit 1;
    if head is null or head <= moment then
        -- The lock of append_events.
        perform pg_advisory_xact_lock_shared(7166761325952853362);
        select e.position, e.recorded_at into high, head
        from public.events e order by e.position desc limit 1;
    end if;
    if high is null or head <= moment then
        return coalesce(high, 0);
    end if;
    while high - low > 1 loop
        middle := (low + high) / 2;
        if (select e.recorded_at from public.events e where e.position = middle) <= moment then
            low := middle;
        else
            high := middle;
        end if;
    end loop;
    return low;
end
$$;

-- What signs the cursors of lists: the same for all processes, and nobody else's.
create table cursor_keys (
    key text not null
);
insert into cursor_keys (key) values (gen_random_uuid()::text || gen_random_uuid()::text);
