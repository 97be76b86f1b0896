-- Changes of the keys that sign tokens are events of the installation: who can make a key can make tokens, so an
-- auditor has to see it. The keys themselves are files that no database knows, so nothing here can be checked
-- against them; the function takes only events of this shape.

-- Appends the event of a change of a signing key, and returns its position. It is a function of its own and not a
-- branch of is_appendable, so that a command cannot append it in the name of anything else.
create function record_key_change(command_id uuid, payload text, metadata text) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    members       jsonb := payload::jsonb;
    last_sequence bigint;
    head          bigint;
    head_at       timestamptz;
begin
    if jsonb_typeof(members) is distinct from 'object'
        or json_typeof(metadata::json) is distinct from 'object'
        or (members ->> 'kid' ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$') is not true
        or (case members ->> 'type'
                when 'TokenKeyCreated' then members - array['type', 'kid'] = '{}'
                when 'TokenKeyRetired' then
                    members - array['type', 'kid', 'verifies_until'] = '{}'
                    and members ->> 'verifies_until' ~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{15}Z$'
            end) is not true
    then
        raise exception 'not an event of a signing key' using errcode = 'check_violation';
    end if;
    lock table locks.append in exclusive mode;
    select e.sequence into last_sequence from public.events e
    where e.aggregate_type = 'installation' and e.aggregate_id = 'token-keys'
    order by e.sequence desc limit 1;
    select e.position, e.recorded_at into head, head_at
    from public.events e order by e.position desc limit 1;
    insert into public.events (
        position, aggregate_type, aggregate_id, sequence, event_type, event_version,
        payload, metadata, command_id, recorded_at
    ) values (
        coalesce(head, 0) + 1, 'installation', 'token-keys', coalesce(last_sequence, 0) + 1,
        members ->> 'type', '1', payload::json, metadata::json, record_key_change.command_id,
        greatest(clock_timestamp(), head_at + interval '1 microsecond')
    );
    return coalesce(head, 0) + 1;
end
$$;
