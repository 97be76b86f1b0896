-- import_customers of migration 10 with an insert of its own. All events of a chunk create customers, with ids that
-- no event has used and one metadata, so the decisions of append_events are no use here: that no id is taken follows
-- from the unique sequence of each stream, and the check of the metadata is made once.
create or replace function import_customers(
    of_account     text,
    of_import      text,
    of_fingerprint bytea,
    lines_before   bigint,
    lines_after    bigint,
    command_ids    uuid[],
    aggregate_ids  text[],
    event_type     text,
    event_version  text,
    payloads       text[],
    metadata       text
) returns table (lines_done bigint, created bigint, last_position bigint, others bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    known    public.imports%rowtype;
    number   integer := cardinality(aggregate_ids);
    of_all   json := metadata;
    head     bigint;
    recorded timestamptz;
    others   bigint;
begin
    if event_type is distinct from 'CustomerCreated' or exists (
        -- The offset keeps the cast from being repeated for each use of the payload.
        select from (
            select payload::jsonb from unnest(payloads) as asked (payload) offset 0
        ) a
        where public.is_appendable('customer', event_type, event_version, a.payload, of_all) is not true
    ) then
        raise exception 'not an event that an import may append' using errcode = 'check_violation';
    end if;
    -- Imports wait here, so that only one of them waits for the append lock.
    lock table locks.import in exclusive mode;
    lock table locks.append in exclusive mode;

    select * into known from public.imports i
    where i.account = of_account and i.import_id = of_import;
    if not found then
        if lines_before <> 0 then
            raise exception 'the import was forgotten' using errcode = 'CU003';
        end if;
        known := row(of_account, of_import, of_fingerprint, 0, 0, 0, clock_timestamp());
        insert into public.imports select known.*;
    elsif known.fingerprint <> of_fingerprint then
        raise exception 'the import is known with another file' using errcode = 'CU001';
    end if;
    if known.lines_done <> lines_before then
        return query select known.lines_done, known.created, known.last_position, 0::bigint;
        return;
    end if;

    select e.position, e.recorded_at into head, recorded
    from public.events e order by e.position desc limit 1;
    head := coalesce(head, 0);
    others := head - coalesce((select max(i.last_position) from public.imports i), 0);
    -- Time order is position order, whatever the clock does; greatest() passes over null.
    recorded := greatest(clock_timestamp(), recorded + interval '1 microsecond');
    begin
        insert into public.events (
            position, aggregate_type, aggregate_id, sequence, event_type, event_version,
            payload, metadata, command_id, recorded_at
        )
        select head + a.nth, 'customer', a.aggregate_id, 1, event_type, event_version,
               a.payload::json, of_all, a.command_id, recorded + (a.nth - 1) * interval '1 microsecond'
        from unnest(command_ids, aggregate_ids, payloads)
            with ordinality as a (command_id, aggregate_id, payload, nth);
    exception when unique_violation then
        raise exception 'an id is taken' using errcode = 'CU002';
    end;
    return query
    update public.imports i
    set lines_done = lines_after, created = i.created + number,
        last_position = head + number, updated_at = clock_timestamp()
    where i.account = of_account and i.import_id = of_import
    returning i.lines_done, i.created, i.last_position, others;
end
$$;
