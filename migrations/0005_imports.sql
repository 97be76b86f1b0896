-- Imports: many customers from one file, in chunks. How far an import has come moves on in the
-- transaction that appends the chunk, so a lost connection leaves nothing uncertain and a repeat
-- goes on exactly where the last chunk ended.
create table imports (
    account       text        not null,
    import_id     text        not null,
    -- Of the whole file.
    fingerprint   bytea       not null,
    -- Every line up to this one is dealt with.
    lines_done    bigint      not null,
    created       bigint      not null,
    last_position bigint      not null,
    updated_at    timestamptz not null,
    constraint imports_pkey primary key (account, import_id)
);

-- For the purge of what nobody goes on with.
create index imports_age on imports (updated_at);

-- Appends one chunk if the import has come to `lines_before` and nobody else has taken it further;
-- in any case returns how far it has come. The arrays have one element per customer.
--
-- Of all imports of all processes one chunk at a time waits for the append lock: PostgreSQL hands
-- locks out in the order in which they were asked for, so whoever else waits comes in between.
-- `others` is how many events came into the log between the last chunk of any import and this one:
-- an import that sees that others write, and less than it does, makes a pause.
--
-- SQLSTATE CU001: the import is known with another file. CU002: one of the ids is taken, nothing was
-- appended. CU003: the import was forgotten meanwhile.
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
    -- The word "imports" in ASCII, then the lock of append_events.
    perform pg_advisory_xact_lock(29672163137417331);
    perform pg_advisory_xact_lock(7166761325952853362);

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
