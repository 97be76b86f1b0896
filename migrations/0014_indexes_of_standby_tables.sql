-- Indexes of standby tables. ATTACH PARTITION builds each index that the partitioned table has and the
-- partition lacks, and readers wait for it, because DETACH has locked them out. That happened in a rollback
-- after an operator had added an index, and in the swap of a rebuild if the index was added after those of the
-- shadow table. Now they are built before the swap, and the swap refuses a table that lacks one.

-- What makes two indexes alike, whatever their names, tables and storage parameters are: at least all that
-- ATTACH PARTITION compares.
create function index_shape(of_index oid) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select concat_ws(
        ' ', c.relam, i.indisunique, i.indnullsnotdistinct, i.indnkeyatts, i.indoption, i.indclass,
        i.indcollation,
        (select string_agg(coalesce(quote_ident(a.attname), '()'), ',' order by u.number)
         from unnest(i.indkey) with ordinality u (attnum, number)
         left join pg_attribute a on a.attrelid = i.indrelid and a.attnum = u.attnum),
        'expressions', pg_get_expr(i.indexprs, i.indrelid),
        'predicate', pg_get_expr(i.indpred, i.indrelid),
        'constraint', pg_get_constraintdef(k.oid)
    )
    from pg_index i join pg_class c on c.oid = i.indexrelid
    left join pg_constraint k on k.conindid = i.indexrelid and k.contype in ('p', 'u', 'x')
    where i.indexrelid = of_index
$$;

-- The indexes that the table in `source` lacks, constraints first: those of the partition that is served, and
-- those that only the partitioned table has. `own_name` is the name that the served one has.
create function missing_indexes(of_table name, source text)
returns table (index regclass, own_name name, definition text)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    with place as (
        select format('public.%I', of_table)::regclass as parent,
               format('served.%I', of_table)::regclass as served,
               format('%I.%I', source, of_table)::regclass as standby
    ), wanted as (
        select i.indexrelid, i.indisunique, c.relname as own_name
        from place join pg_index i on i.indrelid = place.served
        join pg_class c on c.oid = i.indexrelid
        where i.indisvalid
        union all
        select i.indexrelid, i.indisunique, null
        from place join pg_index i on i.indrelid = place.parent
        where not exists (select from pg_inherits h join pg_index p on p.indexrelid = h.inhrelid
                          where h.inhparent = i.indexrelid and p.indrelid = place.served
                            and p.indisvalid)
    ), numbered as (
        select w.*, s.shape, row_number() over (partition by s.shape order by w.indexrelid) as number
        from wanted w, lateral (select public.index_shape(w.indexrelid) as shape) s
    ), present as (
        select public.index_shape(i.indexrelid) as shape, count(*) as number
        from place join pg_index i on i.indrelid = place.standby
        where i.indisvalid
        group by 1
    )
    select n.indexrelid::regclass, n.own_name,
           case when k.oid is null then format(
                    'create %sindex %son %I.%I%s', case when n.indisunique then 'unique ' else '' end,
                    quote_ident(n.own_name) || ' ', source, of_table,
                    substr(d.definition, strpos(d.definition, ' USING '))
                )
                else format(
                    'alter table %I.%I add %s%s', source, of_table,
                    'constraint ' || quote_ident(n.own_name) || ' ', pg_get_constraintdef(k.oid)
                )
           end
    from numbered n
    left join present p using (shape)
    left join pg_constraint k on k.conindid = n.indexrelid and k.contype in ('p', 'u', 'x'),
         lateral (select pg_get_indexdef(n.indexrelid) as definition) d
    where n.number > coalesce(p.number, 0)
    order by k.oid is null, n.indexrelid
$$;

-- Builds the indexes that the table in `source` lacks; whether there were any.
create function build_missing_indexes(of_table name, source text) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    standby constant regclass := format('%I.%I', source, of_table)::regclass;
    made    record;
    taken   record;
    built   text[] := '{}';
begin
    loop
        select * into made from public.missing_indexes(of_table, source) limit 1;
        exit when not found;
        if made.definition = any(built) then
            raise exception 'the read table cannot be exchanged: index %, which % lacks', made.index, standby
            using errcode = 'dependent_objects_still_exist';
        end if;
        -- Another index by its name: broken, or of an earlier definition. If it is wanted by another name, it
        -- is missing now.
        select c.relname, k.conname into taken
        from pg_index i join pg_class c on c.oid = i.indexrelid
        left join pg_constraint k on k.conindid = i.indexrelid and k.contype in ('p', 'u', 'x')
        where i.indrelid = standby and c.relname = made.own_name;
        if taken.conname is not null then
            execute format('alter table %s drop constraint %I', standby, taken.conname);
        elsif taken.relname is not null then
            execute format('drop index %I.%I', source, taken.relname);
        end if;
        begin
            execute made.definition;
        exception
            -- The rows of this table do not fit.
            when integrity_constraint_violation or data_exception or program_limit_exceeded
                 or syntax_error_or_access_rule_violation or plpgsql_error then
                raise exception 'the read table cannot be exchanged: index %, which % cannot have: %',
                                made.index, standby, sqlerrm
                using errcode = 'dependent_objects_still_exist';
        end;
        built := built || made.definition;
    end loop;
    return built <> '{}';
end
$$;

-- Builds what a standby table lacks, before it is swapped in.
create function index_standby_tables(of_projection text, of_version integer, source text) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set maintenance_work_mem = '256MB'
as $$
declare
    of_table name;
begin
    if not exists (select from public.spare_tables s where s.projection = of_projection
                   and s.version = of_version and s.place = source and s.complete) then
        raise exception 'there are no finished tables in %', source;
    end if;
    for of_table in
        select t.table_name from public.projection_tables t
        where t.projection = of_projection and t.version = of_version
    loop
        if public.build_missing_indexes(of_table, source) then
            -- Expressions of indexes have statistics of their own.
            execute format('analyze %I.%I', source, of_table);
        end if;
    end loop;
end
$$;

-- index_shadow_tables of migration 13, with the indexes that the partition or the partitioned table has now.
create or replace function index_shadow_tables(of_projection text, of_version integer) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set maintenance_work_mem = '256MB'
as $$
declare
    of_table name;
    rows     bigint;
    found    bigint := 0;
begin
    for of_table in
        select t.table_name from public.projection_tables t
        where t.projection = of_projection and t.version = of_version
    loop
        perform public.build_missing_indexes(of_table, 'shadow');
        perform public.copy_table_settings(of_table, 'shadow');
        execute format('analyze shadow.%I', of_table);
        -- Autovacuum keeps no statistics of a partitioned table; reports that join it need some.
        execute format('analyze (skip_locked) public.%I', of_table);
        execute format('select $1 + count(*) from shadow.%I', of_table) into found using found;
    end loop;

    -- Null without partitions, and while one of them is not done.
    select case when count(*) = count(p.rows) then sum(p.rows) end into rows
    from public.rebuild_parts p where p.projection = of_projection and p.version = of_version;
    update public.spare_tables s set complete = (rows = found) is true
    where s.projection = of_projection and s.version = of_version and s.place = 'shadow';
end
$$;

-- serve_tables of migration 13. It takes the locks of the exchange first: what it checks stays as it is. A
-- missing index is CU004: the caller builds it and tries again.
create or replace function serve_tables(of_projection text, of_version integer, source text) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    of_table       name;
    old_checkpoint bigint;
    new_checkpoint bigint;
    objects        text;
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
        execute format('lock table public.%I in access exclusive mode', of_table);
    end loop;
    select string_agg(o.object, '; ') into objects
    from public.read_table_obstacles(of_projection, of_version, source) o (object);
    if objects is not null then
        raise exception 'the read table cannot be exchanged: %', objects
        using errcode = 'dependent_objects_still_exist';
    end if;
    select string_agg(format('index %s, which %I.%I lacks', m.index, source, t.table_name), '; ') into objects
    from public.projection_tables t, public.missing_indexes(t.table_name, source) m
    where t.projection = of_projection and t.version = of_version;
    if objects is not null then
        raise exception 'the read table cannot be exchanged: %', objects using errcode = 'CU004';
    end if;
    for of_table in
        select t.table_name from public.projection_tables t
        where t.projection = of_projection and t.version = of_version
    loop
        perform public.copy_table_settings(of_table, source);
        if source = 'shadow' then
            execute format('drop table if exists previous.%I', of_table);
            execute format('alter table public.%1$I detach partition served.%1$I', of_table);
            execute format('alter table served.%I set schema previous', of_table);
            execute format('alter table shadow.%I set schema served', of_table);
        else
            execute format('drop table if exists shadow.%I', of_table);
            execute format('alter table public.%1$I detach partition served.%1$I', of_table);
            execute format('alter table served.%I set schema shadow', of_table);
            execute format('alter table previous.%I set schema served', of_table);
            execute format('alter table shadow.%I set schema previous', of_table);
        end if;
        execute format(
            'alter table public.%1$I attach partition served.%1$I for values from (minvalue) to (maxvalue)',
            of_table
        );
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

-- As in migration 10: PUBLIC has no right on what this migration creates.
revoke all on function
    index_shape, missing_indexes, build_missing_indexes, index_standby_tables
from public;
