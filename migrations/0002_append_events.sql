-- The one way into the log. All arrays have one element per event; the events of one command stand
-- together under one number in `commands` and are appended all or not at all.
--
-- Why a function and an advisory lock: the lock makes the order of commits the order of positions,
-- so that a reader who remembers a position misses nothing by asking for `position > n`. It is a
-- transaction lock inside one autocommit call, so no client can hold it while it thinks; and at
-- READ COMMITTED each statement of a VOLATILE function takes a snapshot of its own, so what is read
-- behind the lock is what the last holder committed. A head row instead of the lock would bloat
-- under every long snapshot.
--
-- An expected sequence of null means "any": the next one is assigned here, under the lock.
-- One row comes back per event: its position, sequence and time; or, of a command that met another
-- sequence than it expected, position null and the sequence that is there.
create function append_events(
    commands           integer[],
    command_ids        uuid[],
    aggregate_types    text[],
    aggregate_ids      text[],
    expected_sequences bigint[],
    event_types        text[],
    event_versions     text[],
    payloads           text[],
    metadatas          text[]
) returns table (command integer, "position" bigint, sequence bigint, recorded_at timestamptz)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    last_position bigint;
    last_time     timestamptz;
    last_sequence bigint;
    current       integer;
    refused       boolean;
begin
    -- The number is the word "customer" in ASCII: any constant that nobody else uses.
    perform pg_advisory_xact_lock(7166761325952853362);

    select e.position, e.recorded_at into last_position, last_time
    from public.events e order by e.position desc limit 1;
    last_position := coalesce(last_position, 0);

    for i in 1 .. cardinality(commands) loop
        if current is distinct from commands[i] then
            current := commands[i];
            select e.sequence into last_sequence
            from public.events e
            where e.aggregate_type = aggregate_types[i] and e.aggregate_id = aggregate_ids[i]
            order by e.sequence desc limit 1;
            last_sequence := coalesce(last_sequence, 0);
            refused := expected_sequences[i] <> last_sequence;
        end if;
        if refused then
            return query select current, null::bigint, last_sequence, null::timestamptz;
            continue;
        end if;
        last_position := last_position + 1;
        last_sequence := last_sequence + 1;
        -- Time order is position order, whatever the clock does; greatest() passes over null.
        last_time := greatest(clock_timestamp(), last_time + interval '1 microsecond');
        insert into public.events (
            position, aggregate_type, aggregate_id, sequence, event_type, event_version,
            payload, metadata, command_id, recorded_at
        ) values (
            last_position, aggregate_types[i], aggregate_ids[i], last_sequence, event_types[i],
            event_versions[i], payloads[i]::json, metadatas[i]::json, command_ids[i], last_time
        );
        return query select current, last_position, last_sequence, last_time;
    end loop;
end
$$;
