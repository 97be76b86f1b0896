//! Guards: checks that the database protects the log from the service's role and from all other roles.
//! Each is one boolean SQL expression.

use secrecy::SecretString;
use sqlx::Connection as _;

use super::SchemaError;
use super::rights::{self, FUNCTIONS};
use crate::check::Check;

/// One check, and the advice for its failure.
struct Guard {
    name: &'static str,
    holds: &'static str,
    advice: &'static str,
}

const fn guard(name: &'static str, holds: &'static str, advice: &'static str) -> Guard {
    Guard { name, holds, advice }
}

/// All guards, in the order in which they are printed. They need a migrated schema.
const GUARDS: [Guard; 16] = [
    guard(
        "PostgreSQL is 15 or newer",
        "current_setting('server_version_num')::int >= 150000",
        "upgrade the server",
    ),
    guard(
        "acknowledged events are durable",
        "current_setting('fsync') = 'on' and current_setting('full_page_writes') = 'on'
         and current_setting('synchronous_commit') <> 'off'",
        "turn fsync, full_page_writes and synchronous_commit on",
    ),
    guard(
        "the role is not a superuser",
        "not (select rolsuper from pg_roles where rolname = current_user)",
        "use a dedicated role: a superuser can remove every guard",
    ),
    guard(
        "the role has none of createdb, createrole, replication, bypassrls",
        "(select not (rolcreatedb or rolcreaterole or rolreplication or rolbypassrls)
          from pg_roles where rolname = current_user)",
        "alter role ... nocreatedb nocreaterole noreplication nobypassrls",
    ),
    guard(
        "the owner of the log is not a superuser",
        "not (select rolsuper from pg_roles r join pg_class c on c.relowner = r.oid
              where c.oid = 'public.events'::regclass)",
        "let a plain role own the tables: the functions run with the rights of their owner",
    ),
    guard(
        "the role owns no table",
        "not exists (select from pg_class where relnamespace = 'public'::regnamespace
                     and pg_has_role(current_user, relowner, 'member'))",
        "let another role own the tables (CUSTOMERS_OWNER_DATABASE_URL) and migrate again",
    ),
    guard(
        "the role writes to the log through functions only",
        "not has_table_privilege('public.events', 'insert, update, delete, truncate, trigger')
         and not has_any_column_privilege('public.events', 'insert, update')",
        "revoke insert, update, delete, truncate, trigger on events from the role",
    ),
    guard(
        "the role changes accounts through functions only",
        "not has_table_privilege('public.accounts', 'insert, update, delete, truncate, trigger')
         and not has_any_column_privilege('public.accounts', 'insert, update')
         and not has_table_privilege('public.service_keys', 'insert, update, delete, truncate, trigger')
         and not has_any_column_privilege('public.service_keys', 'insert')
         and not exists (select from pg_attribute a
                         where a.attrelid = 'public.service_keys'::regclass and a.attnum > 0
                           and a.attname <> 'last_used_at'
                           and has_column_privilege(a.attrelid, a.attnum, 'update'))",
        "revoke insert, update, delete, truncate, trigger on accounts and service_keys from the role",
    ),
    guard(
        "the role cannot create objects in the schema",
        "not has_schema_privilege('public', 'create')",
        "revoke create on schema public from the role (and from public)",
    ),
    guard(
        "the role has the privileges that it needs",
        "{rights}",
        "run customers migrate as the owner, with DATABASE_URL naming the role",
    ),
    guard(
        "row security hides no row of the service's tables from the role",
        "not exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
                     where n.nspname in ('public', 'served', 'shadow', 'previous')
                       and c.relkind in ('r', 'p') and row_security_active(c.oid)
                       and c.relowner = (select relowner from pg_class
                                         where oid = 'public.events'::regclass)
                       and (select bool_or(p.polpermissive and p.polcmd = '*'
                                           and pg_get_expr(p.polqual, p.polrelid) = 'true'
                                           and coalesce(pg_get_expr(p.polwithcheck, p.polrelid), 'true')
                                               = 'true')
                                   and bool_and(p.polpermissive)
                            from pg_policy p
                            where p.polrelid = c.oid
                              and exists (select from unnest(p.polroles) role
                                          where role = 0 or pg_has_role(current_user, role, 'member'))
                           ) is not true)",
        "give the role a policy that lets it see and write all rows, or disable row security on the table",
    ),
    guard(
        "PUBLIC has no right on schemas, tables, columns and functions",
        "not exists (
             select from pg_namespace n, aclexplode(n.nspacl) acl
             where n.nspname in ('public', 'served', 'shadow', 'previous', 'locks') and acl.grantee = 0
             union all
             select from pg_class c join pg_namespace n on n.oid = c.relnamespace,
                         aclexplode(c.relacl) acl
             where n.nspname in ('public', 'served', 'shadow', 'previous', 'locks') and acl.grantee = 0
               and c.relowner = (select relowner from pg_class where oid = 'public.events'::regclass)
             union all
             select from pg_attribute a, pg_class c, pg_namespace n, aclexplode(a.attacl) acl
             where c.oid = a.attrelid and n.oid = c.relnamespace
               and n.nspname in ('public', 'served', 'shadow', 'previous', 'locks') and acl.grantee = 0
               and c.relowner = (select relowner from pg_class where oid = 'public.events'::regclass)
             union all
             select from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) acl
             where p.pronamespace = 'public'::regnamespace and acl.grantee = 0
               and p.proowner = (select relowner from pg_class where oid = 'public.events'::regclass)
               and not exists (select from pg_depend d
                               where d.classid = 'pg_proc'::regclass and d.objid = p.oid
                                 and d.deptype = 'e')
         )",
        "revoke it; on schema public as the owner of that schema",
    ),
    guard(
        "the functions of the service are security definer, search_path pinned",
        "(select bool_and(p.prosecdef and 'search_path=pg_catalog, pg_temp' = any(p.proconfig))
          from {functions} join pg_proc p on p.oid = function.oid)",
        "a function was replaced: restore it from migrations/",
    ),
    guard(
        "the append-only trigger of the log is always enabled",
        "exists (select from pg_trigger where tgrelid = 'public.events'::regclass
                 and tgname = 'events_append_only' and tgenabled = 'A')",
        "alter table events enable always trigger events_append_only",
    ),
    guard(
        "the log has an identity",
        "exists (select from public.log_identities where ended_at is null)",
        "run customers log restart as the owner of the tables",
    ),
    guard(
        "the log does not end in the future",
        "not exists (select from (select recorded_at from public.events order by position desc limit 1) e
                     where e.recorded_at > clock_timestamp() + interval '1 minute')",
        "set the clock of PostgreSQL right; if it is right, every new event gets a time after that of the \
         last one",
    ),
];

/// Evaluates every guard as the role of `service`. One that PostgreSQL cannot evaluate fails, and keeps no
/// other from being evaluated.
pub async fn inspect(service: &SecretString) -> Result<Vec<Check>, SchemaError> {
    let mut connection = super::connect(service).await?;
    match super::check_on(&mut connection).await {
        // Of the rights of the role; the guard on them fails, too.
        Err(SchemaError::Database(sqlx::Error::Database(_))) => {}
        checked => checked?,
    }
    let functions = FUNCTIONS.map(|name| format!("('public.{name}'::regproc::oid)"));
    let functions = format!("(values {}) function (oid)", functions.join(", "));
    let rights = rights::are_granted();
    let mut checks = Vec::with_capacity(GUARDS.len());
    for guard in GUARDS {
        let holds = guard.holds.replace("{functions}", &functions).replace("{rights}", &rights);
        let question = format!("select coalesce({holds}, false)");
        let answer = sqlx::query_scalar(&question).fetch_one(&mut connection).await;
        let advice = match answer {
            Ok(true) => None,
            Ok(false) => Some(guard.advice.to_owned()),
            Err(sqlx::Error::Database(error)) => Some(format!("cannot be checked: {error}")),
            Err(error) => return Err(error.into()),
        };
        checks.push(Check::new(guard.name, advice));
    }
    connection.close().await?;
    Ok(checks)
}
