-- The identity of the log. Positions alone do not say which log they belong to: after the restore of a
-- backup the log grows again over positions that a consumer has already read. So the log has an id, which
-- `customers log restart` replaces after a restore, and a consumer that brings the old id is told.
create table log_identities (
    id            uuid        not null,
    started_at    timestamptz not null,
    -- Both null for the current identity: when it was replaced, and the last position of the log then.
    ended_at      timestamptz,
    last_position bigint,
    constraint log_identities_pkey primary key (id),
    constraint log_identities_ended check ((ended_at is null) = (last_position is null))
);

create unique index log_identities_one_is_current on log_identities ((true)) where ended_at is null;

insert into log_identities (id, started_at) values (gen_random_uuid(), clock_timestamp());

-- Moves the sequence of ids after the largest id of the log, if it is before it, as in a logical copy, which
-- has no sequences. Called after a create has met a taken id; a sequence that is ahead stays as it is.
create function skip_taken_ids() returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    applied bigint;
    largest bigint;
begin
    -- The histories have the deleted customers, too, and an index on ids; the parked customers and the
    -- events after the checkpoint complete them.
    select max(p.checkpoint) into applied
    from public.projections p where p.name = 'customer_history' and p.version = 1;
    select greatest(
        (select max(h.customer_id) from public.customer_history h),
        (select max(p.customer_id) from public.parked_customers p),
        (select max(case when e.aggregate_id ~ '^[1-9][0-9]{0,15}$' then e.aggregate_id::bigint end)
         from public.events e
         where e.position > coalesce(applied, 0) and e.aggregate_type = 'customer')
    ) into largest;
    -- The service's role can write to the histories, so only an id of the log counts.
    if not exists (
        select from public.events e
        where e.aggregate_type = 'customer' and e.aggregate_id = largest::text
    ) then
        select max(case when e.aggregate_id ~ '^[1-9][0-9]{0,15}$' then e.aggregate_id::bigint end)
        into largest from public.events e where e.aggregate_type = 'customer';
    end if;
    if exists (
        select from public.customer_ids s
        where s.last_value + case when s.is_called then 32 else 0 end <= largest
    ) then
        -- For the lock only: no other session takes a value between the check and setval().
        alter sequence public.customer_ids increment by 32;
        perform setval('public.customer_ids', largest) from public.customer_ids s
        where s.last_value + case when s.is_called then 32 else 0 end <= largest;
    end if;
end
$$;

revoke all on log_identities from public;
revoke all on function skip_taken_ids from public;
