-- Guards: what a role can do that may only connect, and what the service's role can do without a trace
-- in the log. docs/security.md says what each of them can still do.

-- Locks that only these functions can take: empty tables of the owner, in a schema that no other role
-- may use. An advisory lock instead can be taken, and held, by every role that may connect. EXCLUSIVE
-- conflicts with itself but not with ACCESS SHARE, which pg_dump takes, and it is not written to the WAL.
create schema locks;

-- Held while events are appended (see append_events).
create table locks.append ();

-- Held by the import that waits for the append lock.
create table locks.import ();

-- Whether a command may append this event: a type of the aggregate, in the version that the program
-- writes, with the members of that type and no others. The events of an account's changes are absent:
-- the functions below append each of them in the transaction that changes the account.
create function is_appendable(
    aggregate_type text, event_type text, event_version text, payload jsonb, metadata json
) returns boolean
language sql immutable
return case
        when jsonb_typeof(payload) is distinct from 'object'
            or json_typeof(metadata) is distinct from 'object'
            or payload ->> 'type' is distinct from event_type
            or event_version is distinct from '1' then false
        when aggregate_type = 'customer' then case
            when event_type in ('CustomerCreated', 'CustomerUpdated') then
                payload - array['type', 'name', 'dob'] = '{}'
                and jsonb_typeof(payload -> 'name') = 'string'
                and char_length(payload ->> 'name') between 1 and 128
                and jsonb_typeof(payload -> 'dob') = 'string'
                and payload ->> 'dob' ~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}$'
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

-- append_events of migration 2 with the lock and the check of above.
create or replace function append_events(
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
    command integer, "position" bigint, sequence bigint, recorded_at timestamptz, key_fingerprint bytea
)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if exists (
        -- The offset keeps the cast from being repeated for each use of the payload.
        select from (
            select aggregate_type, event_type, event_version, payload::jsonb, metadata::json
            from unnest(aggregate_types, event_types, event_versions, payloads, metadatas)
                as asked (aggregate_type, event_type, event_version, payload, metadata)
            offset 0
        ) a
        where a.event_type is not null
          and public.is_appendable(
              a.aggregate_type, a.event_type, a.event_version, a.payload, a.metadata
          ) is not true
    ) then
        raise exception 'not an event that a command may append' using errcode = 'check_violation';
    end if;
    lock table locks.append in exclusive mode;

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
               k.fingerprint as known_fingerprint, k.position as key_position
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
           asked.known_fingerprint
    from asked left join numbered on numbered.n = asked.n
    order by asked.n;
end
$$;

-- append_event of migration 6 with the lock and the check of above.
create or replace function append_event(
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
    members jsonb := payload::jsonb;
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

-- import_customers of migration 5 with the locks of above.
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
    appended bigint;
    others   bigint;
    head     bigint;
begin
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

    select coalesce(max(e.position), 0) - coalesce((select max(i.last_position) from public.imports i), 0)
    into others from public.events e;

    select count(a.position), max(a.position) into appended, head
    from public.append_events(
        array(select generate_series(0, number - 1)), command_ids,
        array_fill('customer'::text, array[number]), aggregate_ids,
        array_fill(0::bigint, array[number]), array_fill(1, array[number]),
        array_fill(event_type, array[number]), array_fill(event_version, array[number]),
        payloads, array_fill(metadata, array[number]),
        array_fill(null::text, array[number]), array_fill(null::text, array[number]),
        array_fill(null::bytea, array[number]), array_fill(null::bigint, array[number])
    ) a;
    if appended <> number then
        raise exception 'an id is taken' using errcode = 'CU002';
    end if;
    return query
    update public.imports i
    set lines_done = lines_after, created = i.created + number,
        last_position = coalesce(head, i.last_position), updated_at = clock_timestamp()
    where i.account = of_account and i.import_id = of_import
    returning i.lines_done, i.created, i.last_position, others;
end
$$;

-- position_at of migration 7 with the lock of above, for which it needs the owner's rights.
create or replace function position_at(moment timestamptz) returns bigint
language plpgsql volatile security definer
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
        -- A replica takes no such lock.
        if not pg_is_in_recovery() then
            lock table locks.append in share mode;
        end if;
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

-- Appends the event of an account's change, in the transaction of the change: the position of the event,
-- and of the last event before it that ended the account's sessions (0 without one). `expected` is what
-- the payload has to say. Only the functions below call it; they hold the account's row.
create function append_account_change(
    of_username text, expected jsonb, command_id uuid, payload text, metadata text
) returns table ("position" bigint, previous bigint)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    last_sequence bigint;
    head_at       timestamptz;
begin
    if payload::jsonb <> expected or json_typeof(metadata::json) <> 'object' then
        raise exception 'not the event of this change' using errcode = 'check_violation';
    end if;
    lock table locks.append in exclusive mode;
    select e.sequence into last_sequence from public.events e
    where e.aggregate_type = 'account' and e.aggregate_id = of_username
    order by e.sequence desc limit 1;
    select coalesce(max(e.position), 0) into previous from public.events e
    where e.aggregate_type = 'account' and e.aggregate_id = of_username
      and e.event_type in ('PasswordChanged', 'RoleChanged', 'AccountDisabled');
    select e.position, e.recorded_at into position, head_at
    from public.events e order by e.position desc limit 1;
    position := coalesce(position, 0) + 1;
    insert into public.events (
        position, aggregate_type, aggregate_id, sequence, event_type, event_version,
        payload, metadata, command_id, recorded_at
    ) values (
        position, 'account', of_username, coalesce(last_sequence, 0) + 1, expected ->> 'type', '1',
        payload::json, metadata::json, command_id,
        greatest(clock_timestamp(), head_at + interval '1 microsecond')
    );
    return next;
end
$$;

-- The changes of accounts. Each returns what append_account_change returns, or no row: the name is taken;
-- there is no such account; or, for the password, the hash is not `old_hash` any more.
create function add_account(
    of_username text, new_hash text, new_role text, command_id uuid, payload text, metadata text
) returns table ("position" bigint, previous bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into public.accounts (username, password_hash, role, created_at)
    values (of_username, new_hash, new_role, clock_timestamp())
    on conflict on constraint accounts_pkey do nothing;
    if found then
        return query select * from public.append_account_change(
            of_username,
            jsonb_build_object('type', 'AccountAdded', 'username', of_username, 'role', new_role),
            command_id, payload, metadata
        );
    end if;
end
$$;

-- With `old_hash`, the account must also be enabled.
create function change_password(
    of_username text, old_hash text, new_hash text, command_id uuid, payload text, metadata text
) returns table ("position" bigint, previous bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    update public.accounts set password_hash = new_hash
    where username = of_username
      and (old_hash is null or (password_hash = old_hash and not disabled));
    if found then
        return query select * from public.append_account_change(
            of_username, jsonb_build_object('type', 'PasswordChanged'), command_id, payload, metadata
        );
    end if;
end
$$;

-- The same password, hashed with other parameters. It ends no session; the event is the trace of the
-- new hash.
create function rehash_password(
    of_username text, old_hash text, new_hash text, command_id uuid, payload text, metadata text
) returns table ("position" bigint, previous bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    update public.accounts set password_hash = new_hash
    where username = of_username and password_hash = old_hash;
    if found then
        return query select * from public.append_account_change(
            of_username, jsonb_build_object('type', 'PasswordRehashed'), command_id, payload, metadata
        );
    end if;
end
$$;

create function change_role(
    of_username text, new_role text, command_id uuid, payload text, metadata text
) returns table ("position" bigint, previous bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    update public.accounts set role = new_role where username = of_username;
    if found then
        return query select * from public.append_account_change(
            of_username, jsonb_build_object('type', 'RoleChanged', 'role', new_role),
            command_id, payload, metadata
        );
    end if;
end
$$;

create function disable_account(
    of_username text, command_id uuid, payload text, metadata text
) returns table ("position" bigint, previous bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    update public.accounts set disabled = true where username = of_username;
    if found then
        return query select * from public.append_account_change(
            of_username, jsonb_build_object('type', 'AccountDisabled'), command_id, payload, metadata
        );
    end if;
end
$$;

-- A checkpoint is a position of the log, or 0.
create function refuse_unknown_checkpoint() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if new.checkpoint > (select coalesce(max(e.position), 0) from public.events e) then
        raise exception 'the log has no position %', new.checkpoint using errcode = 'check_violation';
    end if;
    return new;
end
$$;

create trigger projections_checkpoint_known before insert or update of checkpoint on projections
    for each row execute function refuse_unknown_checkpoint();
create trigger spare_tables_checkpoint_known before insert or update of checkpoint on spare_tables
    for each row execute function refuse_unknown_checkpoint();

-- Only the functions below write `complete`, and only complete tables are served.
alter table spare_tables add column complete boolean not null default false;
update spare_tables set complete = checkpoint is not null;

-- create_shadow_tables of migration 8; whatever the owner grants by default, PUBLIC has no right on them.
create or replace function create_shadow_tables(of_projection text, of_version integer) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    of_table name;
    acl      record;
begin
    for of_table in
        select t.table_name from public.projection_tables t
        where t.projection = of_projection and t.version = of_version
    loop
        execute format('drop table if exists shadow.%I', of_table);
        execute format(
            'create table shadow.%1$I (like public.%1$I including all excluding indexes)', of_table
        );
        execute format('revoke all on shadow.%I from public', of_table);
        for acl in
            select a.privilege_type,
                   case a.grantee when 0 then 'public' else a.grantee::regrole::text end as grantee
            from pg_class c, aclexplode(c.relacl) a
            where c.oid = format('public.%I', of_table)::regclass and a.grantee <> c.relowner
        loop
            execute format(
                'grant %s on shadow.%I to %s', acl.privilege_type, of_table, acl.grantee
            );
        end loop;
    end loop;
end
$$;

-- index_shadow_tables of migration 8; the tables are complete if their rows are as many as those that all
-- partitions have copied.
create or replace function index_shadow_tables(of_projection text, of_version integer) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set maintenance_work_mem = '256MB'
as $$
declare
    of_table name;
    served   regclass;
    made     record;
    rows     bigint;
    found    bigint := 0;
begin
    for of_table in
        select t.table_name from public.projection_tables t
        where t.projection = of_projection and t.version = of_version
    loop
        served := format('public.%I', of_table)::regclass;
        for made in
            select c.conname, pg_get_constraintdef(c.oid) as definition
            from pg_constraint c where c.conrelid = served and c.contype in ('p', 'u', 'x')
        loop
            execute format(
                'alter table shadow.%I add constraint %I %s', of_table, made.conname, made.definition
            );
        end loop;
        for made in
            select pg_get_indexdef(i.indexrelid) as definition
            from pg_index i
            where i.indrelid = served
              and not exists (select from pg_constraint c where c.conindid = i.indexrelid)
        loop
            execute replace(
                made.definition, format(' ON public.%I ', of_table), format(' ON shadow.%I ', of_table)
            );
        end loop;
        execute format('analyze shadow.%I', of_table);
        execute format('select $1 + count(*) from shadow.%I', of_table) into found using found;
    end loop;

    -- Null without partitions, and while one of them is not done.
    select case when count(*) = count(p.rows) then sum(p.rows) end into rows
    from public.rebuild_parts p where p.projection = of_projection and p.version = of_version;
    update public.spare_tables s set complete = (rows = found) is true
    where s.projection = of_projection and s.version = of_version and s.place = 'shadow';
end
$$;

-- serve_tables of migration 8; the tables must be complete.
create or replace function serve_tables(of_projection text, of_version integer, source text) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    of_table       name;
    old_checkpoint bigint;
    new_checkpoint bigint;
begin
    select s.checkpoint into new_checkpoint from public.spare_tables s
    where s.projection = of_projection and s.version = of_version and s.place = source and s.complete;
    if new_checkpoint is null then
        raise exception 'there are no finished tables in %', source;
    end if;
    for of_table in
        select t.table_name from public.projection_tables t
        where t.projection = of_projection and t.version = of_version
    loop
        if source = 'shadow' then
            execute format('drop table if exists previous.%I', of_table);
            execute format('alter table public.%I set schema previous', of_table);
            execute format('alter table shadow.%I set schema public', of_table);
        else
            execute format('drop table if exists shadow.%I', of_table);
            execute format('alter table public.%I set schema shadow', of_table);
            execute format('alter table previous.%I set schema public', of_table);
            execute format('alter table shadow.%I set schema previous', of_table);
        end if;
    end loop;

    select p.checkpoint into old_checkpoint from public.projections p
    where p.name = of_projection and p.version = of_version;
    update public.projections p set checkpoint = new_checkpoint
    where p.name = of_projection and p.version = of_version;
    delete from public.spare_tables s where s.projection = of_projection and s.version = of_version;
    insert into public.spare_tables (projection, version, place, checkpoint, complete)
    values (of_projection, of_version, 'previous', old_checkpoint, true);

    delete from public.parked_customers p
    where p.projection = of_projection and p.version = of_version and p.place not in ('public', source);
    -- By way of a place that is free now, as a customer may be parked in both.
    if source = 'previous' then
        update public.parked_customers p set place = 'shadow'
        where p.projection = of_projection and p.version = of_version and p.place = source;
    end if;
    update public.parked_customers p set place = 'previous'
    where p.projection = of_projection and p.version = of_version and p.place = 'public';
    update public.parked_customers p set place = 'public'
    where p.projection = of_projection and p.version = of_version and p.place = 'shadow';
    delete from public.rebuilds r where r.projection = of_projection and r.version = of_version;
    delete from public.rebuild_parts p where p.projection = of_projection and p.version = of_version;
end
$$;

-- The lock of a projection's rebuilds is a table, too. It is made in a transaction of its own, because
-- the lock is held for as long as a rebuild takes, in a transaction that writes nothing.
create function create_rebuild_lock(of_projection text, of_version integer) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    of_lock text := format('locks.%I', 'rebuild_' || of_projection || '_' || of_version);
begin
    if not exists (
        select from public.projection_tables t
        where t.projection = of_projection and t.version = of_version
    ) then
        raise exception 'there is no such projection';
    end if;
    if to_regclass(of_lock) is null then
        execute 'create table ' || of_lock || ' ()';
        execute 'revoke all on ' || of_lock || ' from public';
    end if;
exception
    -- Another process has just made it.
    when duplicate_table or unique_violation then null;
end
$$;

-- Takes that lock until the transaction ends; false if it is taken.
create function try_rebuild_lock(of_projection text, of_version integer) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    execute format(
        'lock table locks.%I in exclusive mode nowait', 'rebuild_' || of_projection || '_' || of_version
    );
    return true;
exception
    when lock_not_available then return false;
end
$$;

-- Every role that may connect is a member of PUBLIC, and PostgreSQL grants it EXECUTE on each new
-- function. So a migration that creates a function or a schema revokes what PUBLIC has on it; it is one
-- transaction with those before it, so no other session ever sees the function with that right.
revoke all on schema public, shadow, previous, locks from public;
revoke all on
    events, idempotency_keys, customers, projections, accounts, imports, customer_history, cursor_keys,
    projection_tables, spare_tables, rebuilds, rebuild_parts, parked_customers,
    locks.append, locks.import
from public;
revoke all on sequence customer_ids from public;
revoke all on function
    refuse_to_change_events, append_events, append_event, import_customers, position_at,
    create_shadow_tables, index_shadow_tables, drop_shadow_tables, serve_tables,
    is_appendable, append_account_change, add_account, change_password, rehash_password,
    change_role, disable_account, refuse_unknown_checkpoint, create_rebuild_lock, try_rebuild_lock
from public;
