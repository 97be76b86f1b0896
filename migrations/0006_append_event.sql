-- One command with one event alone, which is what comes when there is little to do: the same rules as
-- append_events, without its joins over many. Of what a single create takes in the database it saves
-- a fourth. That both agree is proved by the tests that compare batches with single commands.
--
-- One row comes back: position, sequence and time of the event; or position null and the sequence
-- that is there, when it is another than expected; or, of a known key, its fingerprint and position.
create function append_event(
    command_id        uuid,
    aggregate_type    text,
    aggregate_id      text,
    expected_sequence bigint,
    event_type        text,
    event_version     text,
    payload           text,
    metadata          text,
    key_account       text,
    key               text,
    fingerprint       bytea
) returns table ("position" bigint, sequence bigint, recorded_at timestamptz, key_fingerprint bytea)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    head    bigint;
    head_at timestamptz;
begin
    -- The lock of append_events.
    perform pg_advisory_xact_lock(7166761325952853362);

    select e.sequence into sequence from public.events e
    where e.aggregate_type = aggregate_type and e.aggregate_id = aggregate_id
    order by e.sequence desc limit 1;
    sequence := coalesce(sequence, 0);
    if key is not null then
        select k.fingerprint, k.position into key_fingerprint, position
        from public.idempotency_keys k where k.account = key_account and k.key = key;
        if found then
            return next;
            return;
        end if;
    end if;
    if expected_sequence <> sequence then
        return next;
        return;
    end if;

    select e.position, e.recorded_at into head, head_at
    from public.events e order by e.position desc limit 1;
    position := coalesce(head, 0) + 1;
    sequence := sequence + 1;
    -- Time order is position order, whatever the clock does; greatest() passes over null.
    recorded_at := greatest(clock_timestamp(), head_at + interval '1 microsecond');
    insert into public.events (
        position, aggregate_type, aggregate_id, sequence, event_type, event_version,
        payload, metadata, command_id, recorded_at
    ) values (
        position, aggregate_type, aggregate_id, sequence, event_type, event_version,
        payload::json, metadata::json, command_id, recorded_at
    );
    if key is not null then
        insert into public.idempotency_keys (account, key, fingerprint, position, created_at)
        values (key_account, key, fingerprint, position, clock_timestamp());
    end if;
    return next;
end
$$;
