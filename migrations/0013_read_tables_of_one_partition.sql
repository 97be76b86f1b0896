-- Read tables that other objects can build on. Each table in `public` is a partitioned table of one
-- partition, which holds all rows and stands in the schema `served` by the same name. A rebuild exchanges
-- the partition and not the table, so views, grants, policies, triggers and comments on the table in
-- `public`, of whatever role, stay as they are. What cannot survive the exchange is named by
-- read_table_obstacles, and stops a rebuild at its beginning and in the swap.
--
-- Detaching and attaching changes the catalogs only: the bounds are MINVALUE and MAXVALUE on a column that
-- is NOT NULL, so no row is checked. A statement on a table of one partition costs about the same as on the
-- partition itself: the planner removes the Append.
create schema served;

-- Why the last attempt at a rebuild failed; null while one is running, and if it was killed. From now on
-- `program` names the code that fills the tables, not the package's version.
alter table rebuilds add column error text;

-- What keeps the partition of a read table from being exchanged, one object per row. With `source`, also
-- what the tables that stand there lack.
create function read_table_obstacles(
    of_projection text, of_version integer, source text
) returns setof text
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    with named as (
        select t.table_name from public.projection_tables t
        where t.projection = of_projection and t.version = of_version
    ), parent as (
        select c.oid from pg_class c join named on c.relname = named.table_name
        where c.relnamespace = 'public'::regnamespace
    ), part as (
        select c.oid, c.reltype, y.typarray, c.relrowsecurity
        from pg_class c join named on c.relname = named.table_name
        join pg_type y on y.oid = c.reltype
        join pg_namespace n on n.oid = c.relnamespace and n.nspname in ('served', 'shadow', 'previous')
    ), every as (
        select oid from parent union all select oid from part
    ), dependent as (
        select d.classid, d.objid, d.objsubid
        from pg_depend d join part p
          on (d.refclassid = 'pg_class'::regclass and d.refobjid = p.oid)
          or (d.refclassid = 'pg_type'::regclass and d.refobjid in (p.reltype, p.typarray))
        where d.deptype = 'n'
          and d.classid not in ('pg_constraint'::regclass, 'pg_trigger'::regclass,
                                'pg_policy'::regclass, 'pg_attrdef'::regclass)
    ), lacking as (
        select c.oid as parent, s.oid as source
        from named
        join pg_class c on c.relname = named.table_name and c.relnamespace = 'public'::regnamespace
        join pg_class s on s.relname = named.table_name
        join pg_namespace n on n.oid = s.relnamespace and n.nspname = source
    )
    -- The rows that a foreign key refers to would go with the partition.
    select format('foreign key %I of table %s', c.conname, c.conrelid::regclass)
    from pg_constraint c
    where c.contype = 'f' and c.conparentid = 0
      and (c.conrelid in (select oid from every) or c.confrelid in (select oid from every))
    union
    -- A subscriber would keep the replaced rows: an exchange is not replicated.
    select format('publication %I', p.pubname) from pg_publication p
    where p.puballtables
       or exists (select from pg_publication_rel r
                  where r.prpubid = p.oid and r.prrelid in (select oid from every))
       or exists (select from pg_publication_namespace s
                  where s.pnpubid = p.oid
                    and s.pnnspid in ('public'::regnamespace, 'served'::regnamespace))
    union
    -- What stands on the partition goes with it.
    select case
               when v.relkind = 'v' then format('view %s', v.oid::regclass)
               when v.relkind = 'm' then format('materialized view %s', v.oid::regclass)
               else pg_describe_object(d.classid, d.objid, d.objsubid)
           end
    from dependent d
    left join pg_rewrite r on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid
    left join pg_class v on v.oid = r.ev_class
    where r.ev_class is null or r.ev_class not in (select oid from part)
    union
    select format('rule %I on %s', r.rulename, r.ev_class::regclass)
    from pg_rewrite r where r.ev_class in (select oid from part)
    union
    select format('trigger %I on %s', t.tgname, t.tgrelid::regclass)
    from pg_trigger t
    where t.tgrelid in (select oid from part) and not t.tgisinternal and t.tgparentid = 0
    union
    select format('policy %I on %s', p.polname, p.polrelid::regclass)
    from pg_policy p where p.polrelid in (select oid from part)
    union
    select format('row security of %s', p.oid::regclass) from part p where p.relrowsecurity
    union
    select format('constraint %I of %s, which %s lacks', c.conname, l.parent::regclass, l.source::regclass)
    from lacking l
    join pg_constraint c on c.conrelid = l.parent and c.contype = 'c'
    where not exists (
        select from pg_constraint s
        where s.conrelid = l.source and s.contype = 'c' and s.conname = c.conname
    )
    union
    select format('column %I, which differs between %s and %s',
                  x.attname, l.parent::regclass, l.source::regclass)
    from lacking l, lateral (
        select attname
        from (select * from pg_attribute a
              where a.attrelid = l.parent and a.attnum > 0 and not a.attisdropped) p
        full join (select * from pg_attribute a
                   where a.attrelid = l.source and a.attnum > 0 and not a.attisdropped) s
             using (attname)
        where (p.atttypid, p.atttypmod, p.attcollation, p.attnotnull)
              is distinct from (s.atttypid, s.atttypmod, s.attcollation, s.attnotnull)
    ) x
    order by 1
$$;

-- Gives the table in `place` the grants and settings of the one that is served: grants on the table and its
-- columns, storage parameters (autovacuum's among them), replica identity, statistics targets.
create function copy_table_settings(of_table name, place text) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    served constant regclass := format('served.%I', of_table)::regclass;
    target constant regclass := format('%I.%I', place, of_table)::regclass;
    made   record;
begin
    for made in
        select distinct case a.grantee when 0 then 'public' else a.grantee::regrole::text end as grantee
        from pg_class c, aclexplode(c.relacl) a
        where c.oid = target and a.grantee <> c.relowner
    loop
        execute format('revoke all on %s from %s', target, made.grantee);
    end loop;
    execute format('revoke all on %s from public', target);
    for made in
        select a.privilege_type, a.is_grantable, null::name as attname,
               case a.grantee when 0 then 'public' else a.grantee::regrole::text end as grantee
        from pg_class c, aclexplode(c.relacl) a
        where c.oid = served and a.grantee <> c.relowner
        union all
        select a.privilege_type, a.is_grantable, t.attname,
               case a.grantee when 0 then 'public' else a.grantee::regrole::text end
        from pg_attribute t join pg_class c on c.oid = t.attrelid, aclexplode(t.attacl) a
        where t.attrelid = served and not t.attisdropped and a.grantee <> c.relowner
    loop
        execute format(
            'grant %s %s on %s to %s %s', made.privilege_type,
            case when made.attname is null then '' else format('(%I)', made.attname) end,
            target, made.grantee, case when made.is_grantable then 'with grant option' else '' end
        );
    end loop;

    for made in
        with options as (
            select c.oid, '' as prefix, o.option_name, o.option_value
            from pg_class c, pg_options_to_table(c.reloptions) o
            where c.oid in (served, target)
            union all
            select c.oid, 'toast.', o.option_name, o.option_value
            from pg_class c join pg_class t on t.oid = c.reltoastrelid,
                 pg_options_to_table(t.reloptions) o
            where c.oid in (served, target)
        )
        select coalesce(s.prefix, t.prefix) || quote_ident(coalesce(s.option_name, t.option_name)) as name,
               s.option_value as value
        from (select * from options where oid = served) s
        full join (select * from options where oid = target) t using (prefix, option_name)
        where s.option_value is distinct from t.option_value
    loop
        if made.value is null then
            execute format('alter table %s reset (%s)', target, made.name);
        else
            execute format('alter table %s set (%s = %L)', target, made.name, made.value);
        end if;
    end loop;

    for made in
        select s.attname, s.attstattarget
        from pg_attribute s join pg_attribute t on t.attrelid = target and t.attname = s.attname
        where s.attrelid = served and s.attnum > 0 and not s.attisdropped
          and s.attstattarget is distinct from t.attstattarget
    loop
        execute format(
            'alter table %s alter column %I set statistics %s',
            target, made.attname, coalesce(made.attstattarget, -1)
        );
    end loop;

    for made in
        select s.relreplident as kind, i.relname as index
        from pg_class s join pg_class t on t.oid = target
        left join pg_index x on x.indrelid = s.oid and x.indisreplident
        left join pg_class i on i.oid = x.indexrelid
        where s.oid = served and s.relreplident <> t.relreplident
    loop
        execute format('alter table %s replica identity %s', target, case made.kind
            when 'f' then 'full' when 'n' then 'nothing' when 'd' then 'default'
            else format('using index %I', made.index) end);
    end loop;
end
$$;

-- Turns a plain table in `public` into a read table of one partition. A migration that creates the table of
-- a projection calls it last. Grants, comments, indexes and constraints are repeated on the partitioned
-- table; views are made anew where the migrating role may; read_table_obstacles names what is left.
create function partition_read_table(of_table name) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    made  record;
    views record;
    plain constant regclass := format('public.%I', of_table)::regclass;
    found record;
    key   name;
begin
    select a.attname into strict key
    from pg_constraint c join pg_attribute a on a.attrelid = c.conrelid and a.attnum = c.conkey[1]
    where c.conrelid = plain and c.contype = 'p';
    -- As names, while the table still has its own.
    select coalesce(array_agg(format(
               'create or replace view %s %s as %s', v.oid::regclass,
               case when v.reloptions is null then ''
                    else format('with (%s)', array_to_string(v.reloptions, ', ')) end,
               pg_get_viewdef(v.oid)
           )), '{}') as definitions
    into views
    from pg_class v
    where v.relkind = 'v' and pg_has_role(current_user, v.relowner, 'usage')
      and v.oid in (select r.ev_class from pg_depend d join pg_rewrite r on r.oid = d.objid
                    where d.classid = 'pg_rewrite'::regclass and d.refclassid = 'pg_class'::regclass
                      and d.refobjid = plain and d.deptype = 'n');

    execute format('alter table public.%I set schema served', of_table);
    execute format(
        'create table public.%1$I (like served.%1$I including defaults including constraints
             including comments including storage) partition by range (%2$I)', of_table, key
    );
    execute format('revoke all on public.%I from public', of_table);
    if obj_description(plain, 'pg_class') is not null then
        execute format(
            'comment on table public.%I is %L', of_table, obj_description(plain, 'pg_class')
        );
    end if;
    for made in
        select a.privilege_type, a.is_grantable, null::name as attname,
               case a.grantee when 0 then 'public' else a.grantee::regrole::text end as grantee
        from pg_class c, aclexplode(c.relacl) a
        where c.oid = plain and a.grantee <> c.relowner
        union all
        select a.privilege_type, a.is_grantable, t.attname,
               case a.grantee when 0 then 'public' else a.grantee::regrole::text end
        from pg_attribute t join pg_class c on c.oid = t.attrelid, aclexplode(t.attacl) a
        where t.attrelid = plain and not t.attisdropped and a.grantee <> c.relowner
    loop
        execute format(
            'grant %s %s on public.%I to %s %s', made.privilege_type,
            case when made.attname is null then '' else format('(%I)', made.attname) end,
            of_table, made.grantee, case when made.is_grantable then 'with grant option' else '' end
        );
    end loop;
    for made in
        select c.conname, pg_get_constraintdef(c.oid) as definition
        from pg_constraint c where c.conrelid = plain and c.contype in ('p', 'u')
    loop
        execute format(
            'alter table public.%I add constraint %I %s', of_table, made.conname, made.definition
        );
    end loop;
    for made in
        select pg_get_indexdef(i.indexrelid) as definition
        from pg_index i
        where i.indrelid = plain
          and not exists (select from pg_constraint c where c.conindid = i.indexrelid)
    loop
        execute replace(
            made.definition, format(' ON served.%I ', of_table), format(' ON public.%I ', of_table)
        );
    end loop;
    execute format(
        'alter table public.%1$I attach partition served.%1$I for values from (minvalue) to (maxvalue)',
        of_table
    );
    execute format('analyze public.%I', of_table);
    for found in select unnest(views.definitions) as definition loop
        begin
            execute found.definition;
        exception
            -- It stays on the partition, and is an obstacle.
            when insufficient_privilege or invalid_table_definition then null;
        end;
    end loop;
end
$$;

do $$
declare
    objects text;
begin
    perform public.partition_read_table(t.table_name) from public.projection_tables t;
    select string_agg(distinct o.object, '; ') into objects
    from public.projection_tables t,
         public.read_table_obstacles(t.projection, t.version, null) o (object);
    if objects is not null then
        raise exception 'these stand on a read table and cannot be moved: %. '
                        'Make the owner of the tables a member of the owner of a view, or drop them, '
                        'migrate, and create them again', objects;
    end if;
end
$$;

-- create_shadow_tables of migration 10, for partitions.
create or replace function create_shadow_tables(of_projection text, of_version integer) returns void
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
        execute format(
            'create table shadow.%1$I (like served.%1$I including all excluding indexes)', of_table
        );
        perform public.copy_table_settings(of_table, 'shadow');
    end loop;
end
$$;

-- index_shadow_tables of migration 10, for partitions: also indexes that an operator has added.
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
        served := format('served.%I', of_table)::regclass;
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
                made.definition, format(' ON served.%I ', of_table), format(' ON shadow.%I ', of_table)
            );
        end loop;
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

-- serve_tables of migration 10, for partitions.
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
    select string_agg(o.object, '; ') into objects
    from public.read_table_obstacles(of_projection, of_version, source) o (object);
    if objects is not null then
        raise exception 'the read table cannot be exchanged: %', objects
        using errcode = 'dependent_objects_still_exist';
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
revoke all on schema served from public;
revoke all on function
    read_table_obstacles, copy_table_settings, partition_read_table
from public;
