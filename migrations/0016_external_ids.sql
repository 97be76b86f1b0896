-- External ids: what other systems call a customer. An id belongs to one customer at most among those that are
-- there, and the append functions decide that in the transaction that appends: under the append lock, by the table
-- external_ids, which holds what the last event of each customer says. The read tables show it, too. And a new event,
-- CustomerRestored, which gives a customer the values of an earlier version.
create table external_ids (
    aggregate_id text collate "C" not null,
    external_id  text collate "C" not null,
    constraint external_ids_pkey primary key (aggregate_id),
    constraint external_ids_unique unique (external_id)
);

-- The lines of imports whose external ids were taken when they were appended: a repeat of the import tells them again,
-- and another customer may have given the id away since.
create table taken_external_ids (
    account     text   not null,
    import_id   text   not null,
    line        bigint not null,
    customer_id bigint not null,
    constraint taken_external_ids_pkey primary key (account, import_id, line),
    constraint taken_external_ids_import foreign key (account, import_id)
        references imports (account, import_id) on delete cascade
);

-- The read tables, in all places that they may be in: no event so far has an external id.
alter table customers add column external_id text;
alter table customer_history add column external_id text;
do $$
declare
    of_table regclass;
begin
    for of_table in
        select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where n.nspname in ('shadow', 'previous') and c.relname in ('customers', 'customer_history')
          and c.relkind = 'r'
    loop
        execute format('alter table %s add column external_id text', of_table);
    end loop;
end
$$;

-- The list by external id. Not unique: a page of events may give an id away and to another customer, in any order.
create index customers_external_id on customers (external_id) where external_id is not null;

-- is_appendable of migration 10 with external ids and CustomerRestored.
create or replace function is_appendable(
    aggregate_type text, event_type text, event_version text, payload jsonb, metadata json
) returns boolean
language sql immutable
return case
        when jsonb_typeof(payload) is distinct from 'object'
            or json_typeof(metadata) is distinct from 'object'
            or payload ->> 'type' is distinct from event_type
            or event_version is distinct from '1' then false
        when aggregate_type = 'customer' then case
            when event_type in ('CustomerCreated', 'CustomerUpdated', 'CustomerRestored') then
                payload - array['type', 'name', 'dob', 'external_id', 'from_version'] = '{}'
                and jsonb_typeof(payload -> 'name') = 'string'
                and char_length(payload ->> 'name') between 1 and 128
                and jsonb_typeof(payload -> 'dob') = 'string'
                and payload ->> 'dob' ~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}$'
                and (
                    not payload ? 'external_id'
                    or jsonb_typeof(payload -> 'external_id') = 'string'
                    and char_length(payload ->> 'external_id') between 1 and 128
                )
                and case
                    when event_type = 'CustomerRestored' then
                        jsonb_typeof(payload -> 'from_version') = 'number'
                        and payload ->> 'from_version' ~ '^[1-9][0-9]{0,17}$'
                    else not payload ? 'from_version'
                end
            when event_type = 'CustomerDeleted' then payload - 'type' = '{}'
        end
        when aggregate_type = 'account' then case
            when event_type in ('SessionOpened', 'SessionBound') then
                payload - array['type', 'session'] = '{}'
                and jsonb_typeof(payload -> 'session') = 'string'
            when event_type = 'SessionClosed' then
                payload - array['type', 'session', 'jti', 'cause'] = '{}'
                and jsonb_typeof(payload -> 'session') = 'string'
                and jsonb_typeof(payload -> 'jti') = 'string'
                and payload ->> 'cause' in (
                    'log-out', 'password-changed', 'role-changed', 'account-disabled', 'session-limit'
                )
            when event_type = 'TokenReplayDetected' then
                payload - array['type', 'session', 'jti', 'opened_ip', 'opened_user_agent'] = '{}'
                and jsonb_typeof(payload -> 'session') = 'string'
                and jsonb_typeof(payload -> 'jti') = 'string'
                and jsonb_typeof(payload -> 'opened_ip') = 'string'
                and jsonb_typeof(payload -> 'opened_user_agent') = 'string'
            when event_type = 'LoginThrottled' then
                payload - array['type', 'by'] = '{}' and payload ->> 'by' in ('account', 'address', 'session')
        end
    end;

-- Makes external_ids show what the events after a position say: the append functions call it for the events that they
-- have appended.
create function keep_external_ids(appended_after bigint) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    with last as (
        select distinct on (e.aggregate_id)
               e.aggregate_id, e.payload ->> 'external_id' as external_id
        from public.events e
        where e.position > appended_after and e.aggregate_type = 'customer'
        order by e.aggregate_id, e.sequence desc
    ), given_away as (
        delete from public.external_ids x using last
        where x.aggregate_id = last.aggregate_id and last.external_id is null
    )
    insert into public.external_ids (aggregate_id, external_id)
    select last.aggregate_id, last.external_id from last where last.external_id is not null
    on conflict on constraint external_ids_pkey do update set external_id = excluded.external_id
    where external_ids.external_id <> excluded.external_id;
end
$$;

-- append_events of migration 10. Its result has another column, so it is made anew, as the two below.
drop function append_events(
    integer[], uuid[], text[], text[], bigint[], integer[], text[], text[], text[], text[], text[], text[],
    bytea[], bigint[]
);
create function append_events(
    commands           integer[],
    command_ids        uuid[],
    aggregate_types    text[],
    aggregate_ids      text[],
    expected_sequences bigint[],
    -- The event's number within its command, from 1.
    ordinals           integer[],
    event_types        text[],
    event_versions     text[],
    payloads           text[],
    metadatas          text[],
    key_accounts       text[],
    keys               text[],
    fingerprints       bytea[],
    known_positions    bigint[]
) returns table (
    command integer, "position" bigint, sequence bigint, recorded_at timestamptz, key_fingerprint bytea,
    -- The customer that has the external id of the event, which is not appended.
    taken_by bigint
)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    are_appendable   boolean;
    -- Whether an external id may be taken or given away; most batches only create customers without one.
    has_external_ids boolean;
    head_before      bigint;
begin
    select bool_and(public.is_appendable(
               a.aggregate_type, a.event_type, a.event_version, a.payload, a.metadata
           ) is true),
           bool_or(a.aggregate_type = 'customer'
                   and (a.event_type <> 'CustomerCreated' or a.payload ? 'external_id'))
    into are_appendable, has_external_ids
    -- The offset keeps the cast from being repeated for each use of the payload.
    from (
        select aggregate_type, event_type, event_version, payload::jsonb, metadata::json
        from unnest(aggregate_types, event_types, event_versions, payloads, metadatas)
            as asked (aggregate_type, event_type, event_version, payload, metadata)
        offset 0
    ) a
    where a.event_type is not null;
    if not are_appendable then
        raise exception 'not an event that a command may append' using errcode = 'check_violation';
    end if;
    lock table locks.append in exclusive mode;
    if has_external_ids then
        select coalesce(max(e.position), 0) into head_before from public.events e;
    end if;

    return query
    with head as (
        select e.position, e.recorded_at from public.events e order by e.position desc limit 1
    ), start as (
        -- Time order is position order, whatever the clock does; greatest() passes over null.
        select coalesce((select head.position from head), 0) as position,
               greatest(clock_timestamp(), (select head.recorded_at from head) + interval '1 microsecond')
                   as recorded_at
    ), asked as (
        select a.*,
               coalesce((
                   select e.sequence from public.events e
                   where e.aggregate_type = a.aggregate_type and e.aggregate_id = a.aggregate_id
                   order by e.sequence desc limit 1
               ), 0) as sequence,
               k.fingerprint as known_fingerprint, k.position as key_position,
               case when has_external_ids and a.aggregate_type = 'customer' then (
                   select x.aggregate_id::bigint from public.external_ids x
                   where x.external_id = a.payload::json ->> 'external_id'
                     and x.aggregate_id <> a.aggregate_id
               ) end as taken_by
        from unnest(
            commands, command_ids, aggregate_types, aggregate_ids, expected_sequences, ordinals,
            event_types, event_versions, payloads, metadatas, key_accounts, keys, fingerprints,
            known_positions
        ) with ordinality as a (
            command, command_id, aggregate_type, aggregate_id, expected_sequence, ordinal,
            event_type, event_version, payload, metadata, key_account, key, fingerprint,
            known_position, n
        )
        left join public.idempotency_keys k on k.account = a.key_account and k.key = a.key
    ), accepted as (
        select asked.*, row_number() over (order by asked.n) as nth
        from asked
        where asked.event_type is not null and asked.known_fingerprint is null
          and (asked.expected_sequence is null or asked.expected_sequence = asked.sequence)
          and asked.taken_by is null
    ), numbered as (
        select accepted.*,
               start.position + nth as position,
               accepted.sequence + ordinal as new_sequence,
               start.recorded_at + (nth - 1) * interval '1 microsecond' as recorded_at
        from accepted, start
    ), appended as (
        insert into public.events (
            position, aggregate_type, aggregate_id, sequence, event_type, event_version,
            payload, metadata, command_id, recorded_at
        )
        select position, aggregate_type, aggregate_id, new_sequence, event_type, event_version,
               payload::json, metadata::json, command_id, recorded_at
        from numbered
    ), remembered as (
        insert into public.idempotency_keys (account, key, fingerprint, position, created_at)
        select distinct on (asked.command) asked.key_account, asked.key, asked.fingerprint,
               coalesce(numbered.position, asked.known_position), clock_timestamp()
        from asked left join numbered on numbered.n = asked.n
        where asked.key is not null and asked.known_fingerprint is null
          and (numbered.n is not null or asked.event_type is null)
        order by asked.command, asked.n desc
    )
    select asked.command,
           coalesce(asked.key_position, numbered.position),
           coalesce(numbered.new_sequence, asked.sequence),
           numbered.recorded_at,
           asked.known_fingerprint,
           case when coalesce(asked.expected_sequence, asked.sequence) = asked.sequence then asked.taken_by end
    from asked left join numbered on numbered.n = asked.n
    order by asked.n;
    if has_external_ids then
        perform public.keep_external_ids(head_before);
    end if;
end
$$;

-- append_event of migration 10.
drop function append_event(uuid, text, text, bigint, text, text, text, text, text, text, bytea);
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
) returns table ("position" bigint, sequence bigint, recorded_at timestamptz, key_fingerprint bytea, taken_by bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    head    bigint;
    head_at timestamptz;
    members jsonb := payload::jsonb;
    -- Whether an external id may be taken or given away.
    has_external_id boolean := aggregate_type = 'customer'
        and (event_type <> 'CustomerCreated' or members ? 'external_id');
begin
    if public.is_appendable(
        aggregate_type, event_type, event_version, members, metadata::json
    ) is not true then
        raise exception 'not an event that a command may append' using errcode = 'check_violation';
    end if;
    lock table locks.append in exclusive mode;

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

    if has_external_id then
        select x.aggregate_id::bigint into taken_by from public.external_ids x
        where x.external_id = members ->> 'external_id' and x.aggregate_id <> append_event.aggregate_id;
        if found then
            return next;
            return;
        end if;
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
    if has_external_id then
        perform public.keep_external_ids(position - 1);
    end if;
    return next;
end
$$;

-- import_customers of migration 15, with the numbers of the lines.
drop function import_customers(text, text, bytea, bigint, bigint, uuid[], text[], text, text, text[], text);
create function import_customers(
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
    metadata       text,
    lines          bigint[]
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
    are_appendable   boolean;
    has_external_ids boolean;
begin
    select bool_and(public.is_appendable('customer', event_type, event_version, a.payload, of_all) is true),
           bool_or(a.payload ? 'external_id')
    into are_appendable, has_external_ids
    -- The offset keeps the cast from being repeated for each use of the payload.
    from (select payload::jsonb from unnest(payloads) as asked (payload) offset 0) a;
    if event_type is distinct from 'CustomerCreated' or not are_appendable then
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

    if has_external_ids then
        -- Of several lines with one external id the first has it.
        insert into public.taken_external_ids (account, import_id, line, customer_id)
        select of_account, of_import, c.line, coalesce(c.holder, c.first_here)
        from (
            select a.line, x.aggregate_id::bigint as holder, a.aggregate_id::bigint as customer_id,
                   first_value(a.aggregate_id::bigint) over (partition by a.external_id order by a.nth)
                       as first_here
            from (
                select u.aggregate_id, u.line, u.nth, u.payload::json ->> 'external_id' as external_id
                from unnest(aggregate_ids, payloads, lines)
                    with ordinality as u (aggregate_id, payload, line, nth)
            ) a
            left join public.external_ids x on x.external_id = a.external_id
            where a.external_id is not null
        ) c
        where c.holder is not null or c.first_here <> c.customer_id;
        select array_agg(u.command_id order by u.nth), array_agg(u.aggregate_id order by u.nth),
               array_agg(u.payload order by u.nth), count(*)
        into command_ids, aggregate_ids, payloads, number
        from unnest(command_ids, aggregate_ids, payloads, lines)
            with ordinality as u (command_id, aggregate_id, payload, line, nth)
        where not exists (
            select from public.taken_external_ids t
            where t.account = of_account and t.import_id = of_import and t.line = u.line
        );
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
    if has_external_ids then
        insert into public.external_ids (aggregate_id, external_id)
        select a.aggregate_id, a.external_id
        from (
            select u.aggregate_id, u.payload::json ->> 'external_id' as external_id
            from unnest(aggregate_ids, payloads) as u (aggregate_id, payload)
        ) a
        where a.external_id is not null;
    end if;
    return query
    update public.imports i
    set lines_done = lines_after, created = i.created + number,
        last_position = case when number > 0 then head + number else i.last_position end,
        updated_at = clock_timestamp()
    where i.account = of_account and i.import_id = of_import
    returning i.lines_done, i.created, i.last_position, others;
end
$$;

-- As in migration 10: PUBLIC has no right on what this migration creates.
revoke all on table external_ids, taken_external_ids from public;
revoke all on function keep_external_ids, append_events, append_event, import_customers from public;
