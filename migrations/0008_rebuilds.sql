-- Rebuilds without downtime, a way back from them, and customers whose events cannot be taken over.
--
-- A projection's tables can stand in three places, by the same names: in `public` they are served, in
-- `shadow` a rebuild fills them, in `previous` are those that the last rebuild has replaced. What
-- keeps one of them keeps all: the same statements, under another search_path.
create schema shadow;
create schema previous;

-- Which tables each projection keeps. The functions below touch no others, whoever calls them. The
-- primary key of each begins with the customer's id.
create table projection_tables (
    table_name name    not null,
    projection text    not null,
    version    integer not null,
    constraint projection_tables_pkey primary key (table_name),
    constraint projection_tables_projection_fkey
        foreign key (projection, version) references projections (name, version)
);
insert into projection_tables (projection, version, table_name)
values ('customers', 1, 'customers'), ('customer_history', 1, 'customer_history');

-- The tables that are not served. `checkpoint` is null while they are filled.
create table spare_tables (
    projection text    not null,
    version    integer not null,
    place      text    not null,
    checkpoint bigint,
    constraint spare_tables_pkey primary key (projection, version, place),
    constraint spare_tables_place_known check (place in ('shadow', 'previous'))
);

-- A rebuild at work, or one that was stopped and can go on.
create table rebuilds (
    projection  text        not null,
    version     integer     not null,
    -- The version of the program that began it: another does not go on with it.
    program     text        not null,
    -- The tables are first filled up to this position, then they follow the log.
    target      bigint      not null,
    -- When who is at work with it began, and how many events were done then.
    resumed_at  timestamptz not null,
    done_before bigint      not null,
    constraint rebuilds_pkey primary key (projection, version)
);

-- A rebuild is filled in parts: the streams from one aggregate_id up to another. What a part led to
-- is written in the transaction that copies its rows.
create table rebuild_parts (
    projection text    not null,
    version    integer not null,
    from_id    text    not null,
    to_id      text    not null,
    -- Null until it is done: how many events it had, the rows they left, and the sum over them.
    events     bigint,
    rows       bigint,
    checksum   numeric,
    constraint rebuild_parts_pkey primary key (projection, version, from_id)
);

-- Customers with an event that a projection cannot take over: from it on their events wait, and
-- everybody else's go on.
create table parked_customers (
    projection  text        not null,
    version     integer     not null,
    place       text        not null,
    customer_id bigint      not null,
    -- That of the first event that waits.
    position    bigint      not null,
    problem     text        not null,
    parked_at   timestamptz not null default clock_timestamp(),
    constraint parked_customers_pkey primary key (projection, version, place, customer_id),
    constraint parked_customers_place_known check (place in ('public', 'shadow', 'previous'))
);

-- The service's own role owns no table, so what changes tables is done by these functions, which run
-- as their owner and take names from projection_tables only.

-- Makes empty shadow tables without indexes, open to the same roles. Those of a rebuild that was
-- given up go.
create function create_shadow_tables(of_projection text, of_version integer) returns void
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

-- Gives the shadow tables the constraints, indexes and statistics of those that are served: once for
-- all rows, which is several times as fast as row by row.
create function index_shadow_tables(of_projection text, of_version integer) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set maintenance_work_mem = '256MB'
as $$
declare
    of_table name;
    served   regclass;
    made     record;
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
    end loop;
end
$$;

-- Removes the shadow tables, and all that is known of them.
create function drop_shadow_tables(of_projection text, of_version integer) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    of_table name;
begin
    for of_table in
        select t.table_name from public.projection_tables t
        where t.projection = of_projection and t.version = of_version
    loop
        execute format('drop table if exists shadow.%I', of_table);
    end loop;
    delete from public.rebuilds r where r.projection = of_projection and r.version = of_version;
    delete from public.rebuild_parts p where p.projection = of_projection and p.version = of_version;
    delete from public.spare_tables s
    where s.projection = of_projection and s.version = of_version and s.place = 'shadow';
    delete from public.parked_customers p
    where p.projection = of_projection and p.version = of_version and p.place = 'shadow';
end
$$;

-- Serves the tables that stand in `source` from now on; those served so far become the previous
-- ones, with their checkpoint. Whoever calls it holds the projection's row in `projections`. Nobody
-- may read the tables at that moment: the caller sets a short lock_timeout and tries again.
create function serve_tables(of_projection text, of_version integer, source text) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    of_table       name;
    old_checkpoint bigint;
    new_checkpoint bigint;
begin
    select s.checkpoint into new_checkpoint from public.spare_tables s
    where s.projection = of_projection and s.version = of_version and s.place = source;
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
    insert into public.spare_tables (projection, version, place, checkpoint)
    values (of_projection, of_version, 'previous', old_checkpoint);

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
