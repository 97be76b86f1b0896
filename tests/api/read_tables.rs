//! Read tables with other users: what others have made on them survives every rebuild and rollback, or is
//! named by the rebuild that it stops. Why a rebuild stopped is shown, and the code that filled the tables
//! decides whether it is resumed.

use std::borrow::Cow;
use std::path::Path;

use customers::events::values::Role;
use customers::pools::Pools;
use customers::projections::customer_history::CustomerHistory;
use customers::projections::customers::Customers;
use customers::projections::rebuild::{Rebuild, rebuild, rollback};
use customers::projections::status::{self, State};
use customers::projections::verify::verify;
use customers::schema;
use reqwest::Method;
use secrecy::SecretString;
use serde_json::json;
use sqlx::migrate::Migrator;
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::cli::Shell;
use crate::harness::{Login, Service, With as _, empty_database, send, unique_name, until};

async fn owner_of(service: &Service) -> PgConnection {
    PgConnection::connect(service.database_url()).await.unwrap()
}

async fn texts(db: &mut PgConnection, question: &str) -> Vec<String> {
    sqlx::query_scalar(question).fetch_all(db).await.unwrap()
}

/// Creates a customer through the API and waits until both tables show it.
async fn create(service: &Service, login: &Login, name: &str) {
    let body = json!({"name": name, "dob": "1990-12-10"});
    let created = send(service.post("/customers").login(login).json(&body)).await;
    assert_eq!(created.status, 201, "{created:?}");
    service.caught_up().await;
}

/// Makes a role and a schema of its own, which may read the table `customers` and two columns of the table
/// `customer_history`.
async fn reporting_role(owner: &mut PgConnection) -> String {
    let role = unique_name("bi");
    let statements = format!(
        "create role {role};
         create schema reports authorization {role};
         grant usage on schema public to {role};
         grant select on customers to {role} with grant option;
         grant select (customer_id, name) on customer_history to {role}"
    );
    owner.execute(statements.as_str()).await.unwrap();
    role
}

/// Views of a role that is neither the owner of the tables nor one of its members.
const VIEWS: &str = "
    create view reports.names with (security_barrier = true) as
        select id, name from public.customers where name <> 'Nobody';
    create view reports.own_rights with (security_invoker = true) as select * from public.customers;
    create view reports.lengths as select id, length(name) as letters from reports.names;
    create view reports.states as select customer_id, name from public.customer_history;
    create view reports.checked as select id, name from public.customers where id > 0
        with cascaded check option;
    create materialized view reports.kept as select name from public.customers;
    create function reports.found() returns setof text language sql
        begin atomic select name from public.customers; end;
    comment on view reports.names is 'who there is';
";

/// What the catalogs say about the views, the grants and what else stands on the two tables.
async fn catalogs(owner: &mut PgConnection) -> Vec<String> {
    texts(
        owner,
        "select concat_ws(' ', c.oid, c.relname, c.relacl, c.reloptions, c.relrowsecurity,
                          pg_get_viewdef(c.oid), obj_description(c.oid, 'pg_class'))
         from pg_class c
         where c.relnamespace = 'reports'::regnamespace or c.relname in ('customers', 'customer_history')
               and c.relnamespace = 'public'::regnamespace
         union all
         select concat_ws(' ', attname, attacl, col_description(attrelid, attnum)) from pg_attribute
         where attrelid in ('public.customers'::regclass, 'public.customer_history'::regclass) and attnum > 0
         union all
         select pg_get_triggerdef(oid) from pg_trigger where tgrelid = 'public.customers'::regclass
         union all
         select concat_ws(' ', polname, polroles) from pg_policy where polrelid = 'public.customers'::regclass
         union all
         select pg_get_ruledef(oid) from pg_rewrite where ev_class = 'public.customers'::regclass
         union all
         select pg_get_statisticsobjdef(oid) from pg_statistic_ext
         where stxrelid = 'public.customers'::regclass
         order by 1",
    )
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_and_grants_of_other_roles_work_after_every_rebuild_and_rollback() {
    let service = Service::start().await;
    let login = service.log_in_as(Role::Admin).await;
    let mut owner = owner_of(&service).await;
    let role = reporting_role(&mut owner).await;
    let as_role = format!("set role {role}; {VIEWS} reset role");
    owner.execute(as_role.as_str()).await.unwrap();
    owner
        .execute(
            "create table seen (name text);
             create function see() returns trigger language plpgsql
                 as $$ begin insert into public.seen values (new.name); return new; end $$;
             create trigger seen after insert on customers for each row execute function see();
             create rule kept as on delete to customers where old.id < 0 do instead nothing;
             create policy all_of_them on customers using (true);
             alter table customers enable row level security;
             create statistics customers_dependencies on name, dob from customers;
             comment on table customers is 'as they are';
             comment on column customers.dob is 'of birth'",
        )
        .await
        .unwrap();
    let before = catalogs(&mut owner).await;
    let pool = &service.pools.rebuild;
    let mut expected = vec![];
    for round in 0..6 {
        let name = format!("Customer {round}");
        create(&service, &login, &name).await;
        expected.push(name);
        owner.execute(format!("set role {role}").as_str()).await.unwrap();
        for question in [
            "select name from reports.names order by id",
            "select name from reports.own_rights order by id",
            "select name from reports.checked order by id",
            "select name from reports.states order by customer_id",
            "select c.name from reports.lengths join customers c using (id) order by id",
            "select name from customer_history order by customer_id",
            "select found from reports.found() found order by 1",
        ] {
            assert_eq!(texts(&mut owner, question).await, expected, "round {round}: {question}");
        }
        owner.execute("refresh materialized view reports.kept").await.unwrap();
        let kept = texts(&mut owner, "select name from reports.kept order by 1").await;
        assert_eq!(kept, expected, "round {round}");
        let refused = owner.execute("select actor from customer_history").await.unwrap_err();
        assert!(refused.to_string().contains("permission denied"), "{refused}");
        owner.execute("reset role").await.unwrap();
        assert_eq!(texts(&mut owner, "select name from seen order by 1").await, expected);
        assert_eq!(catalogs(&mut owner).await, before, "round {round}");
        if round % 3 == 2 {
            rollback(&Customers, pool).await.unwrap();
            rollback(&CustomerHistory, pool).await.unwrap();
        } else {
            rebuild(&Customers, pool).await.unwrap();
            rebuild(&CustomerHistory, pool).await.unwrap();
        }
    }
    let verified = verify(&Customers, &service.pools.long).await.unwrap();
    assert_eq!(verified.difference, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_and_indexes_of_an_operator_are_those_of_every_later_table() {
    let service = Service::start().await;
    let login = service.log_in_as(Role::Admin).await;
    let mut owner = owner_of(&service).await;
    let role = reporting_role(&mut owner).await;
    let statements = format!(
        "alter table served.customers set (autovacuum_vacuum_scale_factor = 0.01, fillfactor = 90,
                                           toast.autovacuum_enabled = false);
         alter table served.customers replica identity full;
         alter table customers alter column name set statistics 500;
         create index by_name on customers (lower(name)) where version > 0;
         alter table customers add constraint named check (name <> '');
         alter table customers add column noted text default 'none';
         grant select on served.customers to {role} with grant option"
    );
    owner.execute(statements.as_str()).await.unwrap();
    create(&service, &login, "Ada").await;
    let settings = "select concat_ws(' ', c.relacl, c.reloptions, t.reloptions, c.relreplident, a.attstattarget)
                    from pg_class c join pg_class t on t.oid = c.reltoastrelid
                    join pg_attribute a on a.attrelid = c.oid and a.attname = 'name'
                    where c.oid = 'served.customers'::regclass
                    union all
                    select indexdef from pg_indexes where schemaname = 'served'
                    union all
                    select pg_get_constraintdef(oid) from pg_constraint
                    where conrelid = 'served.customers'::regclass order by 1";
    let before = texts(&mut owner, settings).await;
    let pool = &service.pools.rebuild;
    for _ in 0..2 {
        rebuild(&Customers, pool).await.unwrap();
        assert_eq!(texts(&mut owner, settings).await, before);
    }
    // A setting of today is a setting of the table of yesterday, too.
    let change = format!(
        "alter table served.customers reset (fillfactor); alter table served.customers replica identity default;
         alter table customers alter column name set statistics -1; revoke all on served.customers from {role}"
    );
    owner.execute(change.as_str()).await.unwrap();
    let before = texts(&mut owner, settings).await;
    rollback(&Customers, pool).await.unwrap();
    assert_eq!(texts(&mut owner, settings).await, before);
    rebuild(&Customers, pool).await.unwrap();

    // What only the served table has stops a rollback, and no rebuild.
    owner
        .execute("alter table customers add constraint short check (length(name) < 999)")
        .await
        .unwrap();
    let refused = rollback(&Customers, pool).await.unwrap_err().to_string();
    assert!(
        refused.contains("constraint short of public.customers, which previous.customers lacks"),
        "{refused}"
    );
    owner
        .execute("alter table customers drop constraint short, add column late int")
        .await
        .unwrap();
    let refused = rollback(&Customers, pool).await.unwrap_err().to_string();
    assert!(refused.contains("column late"), "{refused}");
    rebuild(&Customers, pool).await.unwrap();
    rollback(&Customers, pool).await.unwrap();
}

/// Makes a function that fails while its own transaction keeps readers of the table out. An index that calls
/// it can be built before a swap, and not within one.
const OUTSIDE_SWAPS: &str = "
    create function outside_swaps(text) returns text immutable language plpgsql as $$
    begin
        if exists (select from pg_locks where pid = pg_backend_pid() and mode = 'AccessExclusiveLock'
                   and relation = 'public.customers'::regclass) then
            raise exception 'readers wait for an index';
        end if;
        return $1;
    end $$";

/// The definitions of the indexes of the table in this schema, without their names.
async fn indexes(owner: &mut PgConnection, schema: &str) -> Vec<String> {
    let question = format!(
        "select substring(indexdef from ' USING .*') from pg_indexes
         where schemaname = '{schema}' and tablename = 'customers' order by 1"
    );
    texts(owner, &question).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_reader_waits_for_an_index_that_a_standby_table_lacks() {
    let service = Service::start().await;
    let login = service.log_in_as(Role::Admin).await;
    create(&service, &login, "Ada").await;
    let mut owner = owner_of(&service).await;
    let pool = &service.pools.rebuild;
    rebuild(&Customers, pool).await.unwrap();
    owner.execute(OUTSIDE_SWAPS).await.unwrap();
    // Made on the table, on the partition, on the table only, as a constraint, and by the name of another.
    owner
        .execute(
            "create index named on customers (outside_swaps(name));
             create index local on served.customers (outside_swaps(name || '1')) with (fillfactor = 50);
             create index only_above on only customers (outside_swaps(name || '2') desc nulls last);
             create unique index one_each on customers (id, outside_swaps(name || '3')) include (dob);
             create index same_name on previous.customers (id);
             create index same_name on served.customers (outside_swaps(name || '4')) where version > 0",
        )
        .await
        .unwrap();
    owner
        .execute(
            "alter table customers add constraint once unique nulls not distinct (id, version)",
        )
        .await
        .unwrap();
    let mut expected = indexes(&mut owner, "served").await;
    expected.push(" USING btree (outside_swaps((name || '2'::text)) DESC NULLS LAST)".to_owned());
    expected.sort();
    rollback(&Customers, pool).await.unwrap();
    assert_eq!(indexes(&mut owner, "served").await, expected);
    let broken = "select indexrelid::regclass::text from pg_index
                  where not indisvalid and indrelid = 'served.customers'::regclass";
    assert_eq!(texts(&mut owner, broken).await, Vec::<String>::new());

    // Made after the indexes of the rebuilt table: the rebuild was stopped between them and the swap.
    let begun = Rebuild::begin(&Customers, pool).await.unwrap();
    owner.execute("create view low as select id from served.customers").await.unwrap();
    begun.run().await.unwrap_err();
    owner
        .execute(
            "drop view low; create index late on customers (outside_swaps(name || '5'));
             alter index served.local set (fillfactor = 60)",
        )
        .await
        .unwrap();
    let expected = indexes(&mut owner, "served").await;
    rebuild(&Customers, pool).await.unwrap();
    let found = indexes(&mut owner, "served").await;
    assert_eq!(found.len(), expected.len(), "{found:?} {expected:?}");
    for _ in 0..2 {
        rollback(&Customers, pool).await.unwrap();
        assert_eq!(
            indexes(&mut owner, "served").await.len(),
            expected.len(),
            "none is built twice"
        );
    }
    assert_eq!(verify(&Customers, &service.pools.long).await.unwrap().difference, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_is_made_while_a_swap_waits_is_built_before_the_next_attempt() {
    let service = Service::start().await;
    let login = service.log_in_as(Role::Admin).await;
    create(&service, &login, "Ada").await;
    let mut owner = owner_of(&service).await;
    rebuild(&Customers, &service.pools.rebuild).await.unwrap();
    owner.execute(OUTSIDE_SWAPS).await.unwrap();
    let mut maker = owner_of(&service).await;
    maker.execute("begin; create index late on customers (outside_swaps(name))").await.unwrap();
    let pool = service.pools.rebuild.clone();
    let swapping = tokio::spawn(async move { rollback(&Customers, &pool).await });
    until("the swap waits for the transaction that makes the index", async || {
        sqlx::query_scalar(
            "select exists (select from pg_locks where relation = 'public.customers'::regclass
                            and mode = 'AccessExclusiveLock' and not granted)",
        )
        .fetch_one(&mut owner)
        .await
        .unwrap()
    })
    .await;
    maker.execute("commit").await.unwrap();
    swapping.await.unwrap().unwrap();
    let found = indexes(&mut owner, "served").await;
    assert!(found.iter().any(|index| index.contains("outside_swaps")), "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_a_standby_table_cannot_have_stops_the_swap_by_name() {
    let service = Service::start().await;
    let login = service.log_in_as(Role::Admin).await;
    create(&service, &login, "Ada").await;
    let mut owner = owner_of(&service).await;
    let pool = &service.pools.rebuild;
    rebuild(&Customers, pool).await.unwrap();
    // The previous table has a row that the index refuses.
    owner
        .execute(
            "create function no_twin(text) returns text immutable language plpgsql as
             $$ begin if $1 = 'Twin' then raise exception 'a twin'; end if; return $1; end $$;
             update previous.customers set name = 'Twin';
             create index twins on customers (no_twin(name))",
        )
        .await
        .unwrap();
    let error = rollback(&Customers, pool).await.unwrap_err().to_string();
    assert!(error.contains("cannot be exchanged: index ") && error.contains("a twin"), "{error}");
    owner.execute("drop index twins").await.unwrap();
    // The swap itself builds none.
    owner.execute("create index late on customers (version)").await.unwrap();
    let error = owner.execute("select serve_tables('customers', 1, 'previous')").await.unwrap_err();
    assert!(error.to_string().contains("index served.customers_version_idx, which"), "{error}");
    rollback(&Customers, pool).await.unwrap();
}

/// What makes an object that stops a rebuild, its name there, and what removes it.
const OBSTACLES: [(&str, &str, &str); 16] = [
    (
        "create table orders (customer bigint constraint of_customer references customers)",
        "foreign key of_customer of table public.orders",
        "drop table orders",
    ),
    (
        "create table known as select id from customers;
         alter table known add primary key (id);
         alter table customers add constraint is_known foreign key (id) references known",
        "foreign key is_known of table public.customers",
        "drop table known cascade",
    ),
    ("create publication one for table customers", "publication one", "drop publication one"),
    (
        "create publication part for table served.customers",
        "publication part",
        "drop publication part",
    ),
    (
        "create publication several for tables in schema public",
        "publication several",
        "drop publication several",
    ),
    ("create publication every for all tables", "publication every", "drop publication every"),
    ("create view low as select id from served.customers", "view public.low", "drop view low"),
    (
        "create materialized view low as select id from served.customers",
        "materialized view public.low",
        "drop materialized view low",
    ),
    (
        "create function low() returns bigint language sql
         begin atomic select count(*) from served.customers; end",
        "function public.low()",
        "drop function low",
    ),
    (
        "create function low(served.customers) returns int language sql return 1",
        "function public.low(served.customers)",
        "drop function low",
    ),
    (
        "create table low (customer served.customers)",
        "column customer of table public.low",
        "drop table low",
    ),
    (
        "create table low (customers served.customers[])",
        "column customers of table public.low",
        "drop table low",
    ),
    (
        "create function low() returns trigger language plpgsql as $$ begin return new; end $$;
         create trigger low before insert on served.customers for each row execute function low()",
        "trigger low on served.customers",
        "drop function low cascade",
    ),
    (
        "create policy low on served.customers using (true)",
        "policy low on served.customers",
        "drop policy low on served.customers",
    ),
    (
        "alter table served.customers enable row level security",
        "row security of served.customers",
        "alter table served.customers disable row level security",
    ),
    (
        "create rule low as on delete to served.customers do instead nothing",
        "rule low on served.customers",
        "drop rule low on served.customers",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_survive_a_rebuild_stops_it_at_its_beginning_by_name() {
    let service = Service::start().await;
    let login = service.log_in_as(Role::Admin).await;
    create(&service, &login, "Ada").await;
    let mut owner = owner_of(&service).await;
    let pool = &service.pools.rebuild;
    rebuild(&Customers, pool).await.unwrap();
    for (make, name, remove) in OBSTACLES {
        owner.execute(make).await.unwrap();
        for error in [
            rebuild(&Customers, pool).await.unwrap_err().to_string(),
            rollback(&Customers, pool).await.unwrap_err().to_string(),
        ] {
            assert!(error.contains(&format!(" {name}; see")), "{make}: {error}");
        }
        owner.execute(remove).await.unwrap();
    }
    // All of them are named at once, and one of the replaced table as well.
    owner.execute("create view low as select id from previous.customers").await.unwrap();
    owner.execute("create publication every for all tables").await.unwrap();
    let refused = send(service.post("/projections/customers/rebuild").login(&login)).await;
    assert_eq!((refused.status, &refused.body["type"]), (409, &json!("/problems/obstructed")));
    let detail = refused.body["detail"].as_str().unwrap();
    assert!(detail.contains("publication every; view public.low"), "{detail}");
    owner.execute("drop view low; drop publication every").await.unwrap();
    rebuild(&Customers, pool).await.unwrap();
    assert_eq!(verify(&Customers, &service.pools.long).await.unwrap().difference, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_made_during_a_rebuild_stops_the_swap_and_the_status_names_it() {
    let service = Service::start().await;
    let login = service.log_in_as(Role::Admin).await;
    create(&service, &login, "Ada").await;
    let mut owner = owner_of(&service).await;
    let (pool, shell) = (&service.pools.rebuild, Shell::on(service.database_url()));
    let begun = Rebuild::begin(&Customers, pool).await.unwrap();
    owner.execute("create view low as select id from served.customers").await.unwrap();
    let error = begun.run().await.unwrap_err().to_string();
    assert!(error.contains("view public.low"), "{error}");

    let told = send(service.request(Method::GET, "/projections").login(&login)).await;
    let told = &told.body["projections"][0];
    assert_eq!(told["state"], "rebuild-stopped", "{told}");
    let error = told["rebuild"]["error"].as_str().unwrap();
    assert!(error.contains("the read table cannot be exchanged: view public.low"), "{error}");
    let printed = shell.run("projection status").await;
    let line = printed.stdout.lines().next().unwrap().to_owned();
    assert!(line.contains("rebuild interrupted at") && line.contains("view public.low"), "{line}");

    // The stopped rebuild is shown until the next one is at work; that one names the view, too.
    let failed = shell.run("projection rebuild customers").await;
    assert_eq!(failed.code, 1, "{failed:?}");
    assert!(failed.stderr.contains("view public.low"), "{failed:?}");
    owner.execute("drop view low").await.unwrap();
    let resumed = Rebuild::begin(&Customers, pool).await.unwrap();
    let at_work = status::of(&Customers, &service.pools.short).await.unwrap();
    assert_eq!((at_work.state, at_work.rebuild.unwrap().error), (State::Rebuilding, None));
    resumed.run().await.unwrap();
    let after = status::of(&Customers, &service.pools.short).await.unwrap();
    assert_eq!((after.state, after.rebuild), (State::Following, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_rebuild_is_resumed_by_the_code_that_filled_it_and_by_no_other() {
    let service = Service::start().await;
    let login = service.log_in_as(Role::Admin).await;
    create(&service, &login, "Ada").await;
    let mut owner = owner_of(&service).await;
    let (pool, shell) = (&service.pools.rebuild, Shell::on(service.database_url()));
    let filled = "select oid::text from pg_class where oid = 'shadow.customers'::regclass";
    // Filled and not swapped in.
    let stopped = async |owner: &mut PgConnection| {
        let begun = Rebuild::begin(&Customers, pool).await.unwrap();
        owner.execute("create view low as select id from served.customers").await.unwrap();
        begun.run().await.unwrap_err();
        owner.execute("drop view low").await.unwrap();
        texts(owner, filled).await
    };
    let first = stopped(&mut owner).await;
    drop(Rebuild::begin(&Customers, pool).await.unwrap());
    assert_eq!(texts(&mut owner, filled).await, first, "resumed");

    let code = texts(&mut owner, "select program from rebuilds").await;
    assert_eq!(code[0].len(), 16, "a fingerprint, not the version of the package: {code:?}");
    owner.execute("update rebuilds set program = '0.1.0'").await.unwrap();
    drop(Rebuild::begin(&Customers, pool).await.unwrap());
    let second = texts(&mut owner, filled).await;
    assert_ne!(second, first, "begun anew");
    assert_eq!(texts(&mut owner, "select program from rebuilds").await, code);

    let third = stopped(&mut owner).await;
    assert_eq!(third, second, "resumed");
    drop(Rebuild::restart(&Customers, pool).await.unwrap());
    assert_ne!(texts(&mut owner, filled).await, third, "begun anew");
    stopped(&mut owner).await;
    owner.execute("insert into shadow.customers select 999, 'Wrong', dob, 1, created_at, updated_at from customers").await.unwrap();
    let rebuilt = shell.run("projection rebuild customers --restart").await;
    assert_eq!(rebuilt.code, 0, "{rebuilt:?}");
    assert!(rebuilt.stdout.contains("no row differs"), "{rebuilt:?}");
    assert_eq!(verify(&Customers, &service.pools.long).await.unwrap().difference, None);
}

/// A database as the migrations before the one of partitions left it.
async fn before_partitions() -> String {
    let url = empty_database().await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let mut migrator = Migrator::new(folder).await.unwrap();
    let earlier = migrator.iter().filter(|migration| migration.version < 13).cloned().collect();
    migrator.migrations = Cow::Owned(earlier);
    migrator.set_locking(false);
    migrator.run(&mut PgConnection::connect(&url).await.unwrap()).await.unwrap();
    url
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_and_grants_of_an_older_installation_are_taken_along_or_named() {
    let url = before_partitions().await;
    let mut owner = PgConnection::connect(&url).await.unwrap();
    let role = reporting_role(&mut owner).await;
    owner
        .execute(
            "insert into customers values (7, 'Ada', '1990-12-10', 1, now(), now());
             create table previous.customers (like customers including all);
             insert into spare_tables (projection, version, place, checkpoint, complete)
                 values ('customers', 1, 'previous', 0, true);
             create materialized view kept as select id from customers;
             create publication one for table customers",
        )
        .await
        .unwrap();
    let secret = SecretString::from(url.clone());
    let error = schema::migrate(&secret, None).await.unwrap_err();
    let error = in_full(error);
    assert!(error.contains("materialized view public.kept; publication one"), "{error}");
    let plain: bool =
        sqlx::query_scalar("select relkind = 'r' from pg_class where oid = 'customers'::regclass")
            .fetch_one(&mut owner)
            .await
            .unwrap();
    assert!(plain, "a migration that fails leaves the table as it was");

    owner.execute("drop materialized view kept; drop publication one").await.unwrap();
    let views = VIEWS.replace("create materialized view", "create view");
    let views = views.split("create function").next().unwrap();
    owner.execute(format!("set role {role}; {views}; reset role").as_str()).await.unwrap();
    let options =
        "select concat_ws(' ', relname, relowner, relacl, reloptions, pg_get_viewdef(oid))
                   from pg_class where relnamespace = 'reports'::regnamespace order by 1";
    let before = texts(&mut owner, options).await;
    schema::migrate(&secret, None).await.unwrap();
    assert_eq!(texts(&mut owner, options).await, before);
    let pools = Pools::new(&secret).unwrap();
    // The table that a rebuild before the migration replaced.
    assert_eq!(rollback(&Customers, &pools.rebuild).await.unwrap(), 0);
    for _ in 0..2 {
        owner.execute(format!("set role {role}").as_str()).await.unwrap();
        for view in ["names", "own_rights", "checked", "kept"] {
            texts(&mut owner, &format!("select name from reports.{view}")).await;
        }
        owner.execute("reset role").await.unwrap();
        rebuild(&Customers, &pools.rebuild).await.unwrap();
        rebuild(&CustomerHistory, &pools.rebuild).await.unwrap();
    }
    assert_eq!(texts(&mut owner, options).await, before);
}

/// The chain of causes, as the command line prints it.
fn in_full(error: impl std::error::Error + Send + Sync + 'static) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
