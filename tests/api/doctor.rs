//! `customers doctor` reports privileges that the service does not need, and unsafe settings.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;

use customers::schema::{self, guards};
use secrecy::SecretString;
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::harness::{database, empty_database, folder, unique_name, variables};
use crate::own_redis::Redis;
use crate::process::command;

/// The names of the checks that fail.
async fn failing_checks(role: &SecretString) -> BTreeSet<&'static str> {
    let checks = guards::inspect(role).await.unwrap();
    checks.into_iter().filter(|check| check.advice.is_some()).map(|check| check.name).collect()
}

/// A database with a plain owner and a role of the service: a connection of the administrator, the names of
/// both, and the URL of the role.
async fn two_roles() -> (PgConnection, [String; 2], SecretString) {
    let url = empty_database().await;
    let mut admin = PgConnection::connect(&url).await.unwrap();
    let (owner, role) = (unique_name("owner"), unique_name("role"));
    for name in [&owner, &role] {
        let create = format!("create role {name} login password 'secret'");
        admin.execute(create.as_str()).await.unwrap();
    }
    let (_, host) = url.split_once('@').unwrap();
    let name = host.split_once('/').unwrap().1.split('?').next().unwrap();
    admin.execute(format!("alter database {name} owner to {owner}").as_str()).await.unwrap();
    let of = |role: &str| SecretString::from(format!("postgres://{role}:secret@{host}"));
    let service = of(&role);
    schema::migrate(&of(&owner), Some(&service)).await.unwrap();
    (admin, [owner, role], service)
}

#[tokio::test]
async fn each_right_that_the_role_lacks_is_noticed() {
    let (mut admin, [_, role], service) = two_roles().await;
    assert_eq!(failing_checks(&service).await, BTreeSet::new());
    // Everything that the migration has granted.
    let rights: Vec<String> = sqlx::query_scalar(
        "with rights as (
             select 'schema ' || nspname as object, null::name as attname, nspacl as acl from pg_namespace
             union all
             select case relkind when 'S' then 'sequence ' else 'table ' end || oid::regclass, null, relacl
             from pg_class
             union all
             select 'table ' || attrelid::regclass, attname, attacl from pg_attribute
             union all
             select 'function ' || oid::regprocedure, null, proacl from pg_proc
         )
         select privilege_type || coalesce(' (' || attname || ')', '') || ' on ' || object
         from rights, aclexplode(acl) where grantee = $1::regrole order by 1",
    )
    .bind(&role)
    .fetch_all(&mut admin)
    .await
    .unwrap();
    assert!(rights.len() > 50, "{rights:?}");
    let mut unnoticed = vec![];
    for right in rights {
        admin.execute(format!("revoke {right} from {role}").as_str()).await.unwrap();
        let noticed = match guards::inspect(&service).await {
            Ok(checks) => checks.iter().any(|check| {
                check.name == "the role has the privileges that it needs" && check.advice.is_some()
            }),
            // Without the schema there is no schema.
            Err(error) => error.to_string().contains("run `customers migrate`"),
        };
        if !noticed {
            unnoticed.push(right.clone());
        }
        admin.execute(format!("grant {right} to {role}").as_str()).await.unwrap();
    }
    assert_eq!(unnoticed, Vec::<String>::new());
    assert_eq!(failing_checks(&service).await, BTreeSet::new());
}

#[tokio::test]
async fn a_log_without_an_identity_is_named() {
    let (mut admin, _, service) = two_roles().await;
    admin.execute("delete from log_identities").await.unwrap();
    assert_eq!(failing_checks(&service).await, ["the log has an identity"].into());
}

#[tokio::test]
async fn what_is_not_or_wrongly_configured_is_a_check_among_the_others() {
    let url = database().await;
    let postgres = "PostgreSQL answers, accepts writes, and has the schema of this program";
    let redis = "Redis answers and takes writes";
    let replica = "the replica is a standby of this log, and does not lag";
    let pooler = "the pooler leads to this log";
    let with = |target: &str| {
        format!("{url}{}target_session_attrs={target}", if url.contains('?') { '&' } else { '?' })
    };
    let (standby, primary) = (with("standby"), with("read-write"));
    for (changes, check, advice) in [
        (vec![("REDIS_URL", "")], redis, "REDIS_URL: must be set"),
        (
            vec![("REDIS_URL", "rediss://h"), ("CUSTOMERS_REDIS_CA", "/nonexistent")],
            redis,
            "CUSTOMERS_REDIS_CA: cannot read /nonexistent",
        ),
        (vec![("CUSTOMERS_REDIS_CA", "/nonexistent")], redis, "CUSTOMERS_REDIS_CA: is set, so"),
        (vec![("DATABASE_URL", "")], postgres, "DATABASE_URL: must be set"),
        (vec![("DATABASE_URL", &standby)], postgres, "DATABASE_URL: the parameter target_session"),
        (vec![("DATABASE_POOL_URL", &standby)], pooler, "DATABASE_POOL_URL: the parameter target"),
        (vec![("DATABASE_READ_URL", &primary)], replica, "DATABASE_READ_URL: the parameter target"),
    ] {
        let mut doctor = command(&["doctor"], &folder("doctor"));
        doctor.envs(variables(&url)).envs(changes.iter().copied());
        let told = doctor.output().await.unwrap();
        let text = String::from_utf8(told.stdout).unwrap();
        assert_eq!(told.status.code(), Some(1), "{changes:?}: {text}");
        assert!(text.contains(&format!("FAIL  {check}: {advice}")), "{changes:?}: {text}");
        // The last check.
        assert!(text.contains("ok    the spool folder has room for its limit"), "{text}");
        assert_eq!(told.stderr, b"", "{changes:?}");
    }
}

#[tokio::test]
async fn what_the_service_could_do_beyond_its_needs_is_named() {
    let (mut owner, [plain_owner, role], service) = two_roles().await;
    assert_eq!(failing_checks(&service).await, BTreeSet::new());

    let log = "the role writes to the log through functions only";
    let refuses = "the append-only trigger of the log is always enabled";
    let cases = [
        (format!("grant insert on events to {role}"), log),
        (format!("grant truncate on events to {role}"), log),
        (
            format!("alter role {role} createdb"),
            "the role has none of createdb, createrole, replication, bypassrls",
        ),
        (format!("alter role {role} superuser"), "the role is not a superuser"),
        (format!("alter role {plain_owner} superuser"), "the owner of the log is not a superuser"),
        (format!("grant insert (position) on events to {role}"), log),
        (
            format!("grant update (role) on accounts to {role}"),
            "the role changes accounts through functions only",
        ),
        (
            "grant usage on schema public to public".to_owned(),
            "PUBLIC has no right on schemas, tables, columns and functions",
        ),
        (
            format!("grant create on schema public to {role}"),
            "the role cannot create objects in the schema",
        ),
        (format!("alter table accounts owner to {role}"), "the role owns no table"),
        (
            format!("revoke update on projections from {role}"),
            "the role has the privileges that it needs",
        ),
        (
            "grant execute on function append_events to public".to_owned(),
            "PUBLIC has no right on schemas, tables, columns and functions",
        ),
        (
            "alter function append_events security invoker".to_owned(),
            "the functions of the service are security definer, search_path pinned",
        ),
        (
            format!("alter role {role} set synchronous_commit = off"),
            "acknowledged events are durable",
        ),
        ("alter table events disable trigger events_append_only".to_owned(), refuses),
        ("alter table events enable trigger events_append_only".to_owned(), refuses),
        ("drop trigger events_append_only on events".to_owned(), refuses),
    ];
    for (statement, expected) in cases {
        // Each mistake is checked before the next one is made, because mistakes can hide each other. Most
        // of them stay, so a later round may report them again.
        owner.execute(statement.as_str()).await.unwrap();
        let found = failing_checks(&service).await;
        assert!(found.contains(expected), "{statement}: {found:?}");
        if statement.contains("superuser") {
            let undo = statement.replace("superuser", "nosuperuser");
            owner.execute(undo.as_str()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn the_command_says_so_and_fails() {
    let url = database().await;
    let doctor = async |arguments: &[&str]| {
        let mut command = command(arguments, &folder("doctor"));
        command.envs(variables(&url)).output().await.unwrap()
    };
    // The role of the tests owns all tables.
    let told = doctor(&["doctor"]).await;
    assert_eq!(told.status.code(), Some(1), "{told:?}");
    let text = String::from_utf8(told.stdout).unwrap();
    assert!(
        text.contains(
            "\nok    the functions of the service are security definer, search_path pinned\n"
        ),
        "{text}"
    );
    assert!(text.contains("\nFAIL  the role is not a superuser: use a "), "{text}");
    let told = doctor(&["doctor", "--json"]).await;
    let lines = String::from_utf8(told.stdout).unwrap();
    assert_eq!(lines.lines().count(), 25);
    for line in lines.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["ok"] == true, line["advice"].is_null());
    }
}

#[tokio::test]
async fn one_failed_check_keeps_no_other_from_being_made() {
    let keys = folder("keys");
    std::fs::set_permissions(&keys, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut doctor = command(&["doctor"], &folder("doctor"));
    let told = doctor
        .envs(variables("postgres://nobody@127.0.0.1:1/nothing"))
        .env("REDIS_URL", "redis://127.0.0.1:1")
        .env("DATABASE_READ_URL", "postgres://nobody@127.0.0.1:1/nothing")
        .env("CUSTOMERS_KEYS_DIR", &keys)
        .env("CUSTOMERS_LISTEN", "0.0.0.0:8080")
        .env("CUSTOMERS_PUBLIC_URL", "http://customers.example")
        .env("CUSTOMERS_SPOOL_LIMIT", "1000000TiB")
        .output()
        .await
        .unwrap();
    assert_eq!(told.status.code(), Some(1), "{told:?}");
    let text = String::from_utf8(told.stdout).unwrap();
    for name in [
        "PostgreSQL answers, accepts writes, and has the schema of this program",
        "the replica is a standby of this log, and does not lag",
        "Redis answers and takes writes",
        "the signing keys are private",
        "clients reach the service by https, or on this machine only",
        "the spool folder has room for its limit",
    ] {
        assert!(text.contains(&format!("FAIL  {name}: ")), "{name}: {text}");
    }
    assert!(text.contains("ok    the proxies in front of the service are known"), "{text}");
    let mut doctor = command(&["doctor"], &folder("doctor"));
    doctor.envs(variables("postgres://nobody@127.0.0.1:1/nothing"));
    doctor.env("CUSTOMERS_PUBLIC_URL", "https://customers.example");
    let text = String::from_utf8(doctor.output().await.unwrap().stdout).unwrap();
    assert!(text.contains("FAIL  the proxies in front of the service are known: "), "{text}");
}

#[tokio::test]
async fn a_redis_that_ends_sessions_when_it_is_full_is_named() {
    let url = database().await;
    for (policy, expected) in
        [("noeviction", "ok    Redis keeps"), ("allkeys-lru", "FAIL  Redis keeps")]
    {
        let redis = Redis::start(&["--maxmemory-policy", policy]).await;
        let mut doctor = command(&["doctor"], &folder("doctor"));
        let told =
            doctor.envs(variables(&url)).env("REDIS_URL", redis.url()).output().await.unwrap();
        let text = String::from_utf8(told.stdout).unwrap();
        assert!(text.contains(expected), "{text}");
    }
}
