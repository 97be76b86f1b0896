-- The one way into the log: one call for all commands that wait, each appended all or not at all.
-- The arrays have one element per event; the events of one command stand together under one number
-- in `commands`.
--
-- Why a function and an advisory lock: the lock makes the order of commits the order of positions,
-- so that a reader who remembers a position misses nothing by asking for `position > n`. It is a
-- transaction lock inside one autocommit call, so no client can hold it while it thinks; and at
-- READ COMMITTED each statement of a VOLATILE function takes a snapshot of its own, so what is read
-- behind the lock is what the last holder committed. A head row instead of the lock would bloat
-- under every long snapshot.
--
-- One plan over all commands: look up each stream's last sequence, number the events of those that
-- match, insert, answer. That holds while no stream and no idempotency key stands in the call twice;
-- the appender keeps a second command of a stream for the next call, and a caller who does not meets
-- the unique constraint. An expected sequence of null means "any".
--
-- Idempotency-Key: a command may carry (account, key) and the fingerprint of what it asked for. A
-- key that is known appends nothing and answers with what is stored; else it is stored in the same
-- transaction as the events, also when there are none (`event_type` null: nothing would change; the
-- position to remember is then `known_position`).
--
-- One row comes back per element: position, sequence and time of its event; or, of a command that
-- met another sequence than it expected, position null and the sequence that is there; or, of a known
-- key, its fingerprint and position.
create table idempotency_keys (
    account     text        not null,
    key         text        not null,
    fingerprint bytea       not null,
    -- The event that the command led to, or the customer's last one if it changed nothing.
    position    bigint      not null,
    created_at  timestamptz not null,
    constraint idempotency_keys_pkey primary key (account, key)
);

-- For the purge of what is older than a day.
create index idempotency_keys_age on idempotency_keys (created_at);

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
    command integer, "position" bigint, sequence bigint, recorded_at timestamptz, key_fingerprint bytea
)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    -- The number is the word "customer" in ASCII: any constant that nobody else uses.
    perform pg_advisory_xact_lock(7166761325952853362);

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
