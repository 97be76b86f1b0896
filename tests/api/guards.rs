//! What a role can do that may only connect, and what the service's role cannot do without a trace.

use customers::events::account::AccountEvent;
use customers::events::log::payload::NewEvent;
use customers::events::log::read;
use customers::events::values::Role;
use customers::projections::customers::Customers;
use customers::projections::rebuild::rebuild;
use customers::schema::{self, guards};
use secrecy::SecretString;
use serde_json::json;
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::process::Command;

use crate::evolution;
use crate::harness::{
    Service, With as _, config_on, database, empty_database, folder, send, unique_name,
};
use crate::replica::program;

/// Creates a role that may log in; returns its name and its URL for the database.
pub async fn role(database_url: &str) -> (String, String) {
    let name = unique_name("role");
    let mut owner = PgConnection::connect(database_url).await.unwrap();
    owner.execute(format!("create role {name} login password 'secret'").as_str()).await.unwrap();
    let (_, host) = database_url.split_once('@').unwrap();
    let url = format!("postgres://{name}:secret@{host}");
    (name, url)
}

async fn code_of(connection: &mut PgConnection, statement: &str) -> String {
    let error = connection.execute(statement).await.expect_err(statement);
    error.as_database_error().unwrap().code().unwrap().into_owned()
}

const APPEND: &str = "select * from public.append_event(
    gen_random_uuid(), 'account', 'root', null, 'SessionOpened', '1',
    '{\"type\":\"SessionOpened\",\"session\":\"x\"}', '{\"actor\":\"root\"}', null, null, null)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_may_only_connect_reads_and_runs_nothing() {
    // One role owns and serves, as in `docker-compose.yml`.
    let service = Service::start().await;
    let (_, url) = role(service.database_url()).await;
    let mut stranger = PgConnection::connect(&url).await.unwrap();
    for statement in [
        APPEND,
        "select * from public.events",
        "select * from public.accounts",
        "select * from public.customers",
        "select nextval('public.customer_ids')",
        "select public.create_shadow_tables('customers', 1)",
        "select public.drop_shadow_tables('customers', 1)",
        "select public.serve_tables('customers', 1, 'shadow')",
        "select public.position_at(now())",
        "select * from public.change_role('root', 'admin', gen_random_uuid(), '{}', '{}')",
        "do $$ begin lock table locks.append in exclusive mode; end $$",
        "do $$ begin lock table locks.append in access share mode; end $$",
        "select * from shadow.customers",
        "create table public.mine (id int)",
    ] {
        assert_eq!(code_of(&mut stranger, statement).await, "42501", "{statement}");
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_object_of_the_schema_has_a_right_for_public() {
    let service = Service::start().await;
    // A rebuild makes tables, and a lock, while the service runs.
    rebuild(&Customers, &service.pools.rebuild).await.unwrap();
    // As after the restore of a dump without its privileges.
    for statement in [
        "grant execute on function append_event to public",
        "grant execute on function change_role to public",
        "grant usage on schema public to public",
        "grant select on accounts to public",
    ] {
        service.pools.long.execute(statement).await.unwrap();
    }
    let owner = SecretString::from(service.database_url());
    schema::migrate(&owner, None).await.unwrap();
    let rights: Vec<String> = sqlx::query_scalar(
        "with ours as (select oid, nspname, nspacl, nspowner from pg_namespace
                       where nspname !~ '^pg_' and nspname <> 'information_schema'),
              rights as (
             select 'schema ' || nspname as object, nspacl as acl from ours
             union all
             select 'table ' || nspname || '.' || relname,
                    coalesce(relacl, acldefault(case relkind when 'S' then 's' else 'r' end::\"char\", relowner))
             from pg_class c join ours on ours.oid = relnamespace
             union all
             select 'column ' || relname || '.' || attname, attacl
             from pg_attribute a join pg_class c on c.oid = attrelid join ours on ours.oid = relnamespace
             union all
             select 'function ' || proname, coalesce(proacl, acldefault('f', proowner))
             from pg_proc join ours on ours.oid = pronamespace
         )
         select object from rights, aclexplode(acl) a where a.grantee = 0",
    )
    .fetch_all(&service.pools.long)
    .await
    .unwrap();
    assert_eq!(rights, Vec::<String>::new());
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_of_a_role_that_may_only_connect_stop_nothing() {
    let url = empty_database().await;
    let (_, stranger) = role(&url).await;
    let mut stranger = PgConnection::connect(&stranger).await.unwrap();
    // The locks of earlier versions: of appends, imports, rebuilds, and of sqlx's migrations.
    let name = url.rsplit_once('/').unwrap().1.split('?').next().unwrap().to_owned();
    let migrations = 0x3d32_ad9e_i64 * i64::from(crc32(name.as_bytes()));
    for key in [7_166_761_325_952_853_362, 29_672_163_137_417_331, migrations] {
        stranger.execute(format!("select pg_advisory_lock({key})").as_str()).await.unwrap();
    }
    schema::migrate(&SecretString::from(url.clone()), None).await.unwrap();
    let service = Service::with(config_on(&url)).await;
    let login = service.log_in_as(Role::Admin).await;
    let ada = json!({"name": "Ada", "dob": "1990-12-10"});
    let created = send(service.post("/customers").login(&login).json(&ada)).await;
    assert_eq!(created.status, 201);
    let import = service.post("/customers/import").header("content-type", "text/csv");
    let imported = send(import.login(&login).body("name,dob\nAda,1990-12-10")).await;
    assert!(imported.text.contains("\"created\":1"), "{imported:?}");
    rebuild(&Customers, &service.pools.rebuild).await.unwrap();

    let functions: Vec<String> = sqlx::query_scalar(
        "select proname::text from pg_proc
         where pronamespace = 'public'::regnamespace and prosrc like '%advisory%'",
    )
    .fetch_all(&service.pools.long)
    .await
    .unwrap();
    assert_eq!(functions, Vec::<String>::new());
    service.stop().await;
}

/// CRC-32 (ISO 3309), with which sqlx makes the key of its lock from the name of the database.
pub fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 }
        })
    })
}

/// An installation with two roles: a connection of the service's role, and the URL of the owner.
async fn two_roles() -> (PgConnection, String) {
    let owner = database().await;
    let (_, url) = role(&owner).await;
    let (as_owner, as_role) = (SecretString::from(owner.clone()), SecretString::from(url.clone()));
    schema::migrate(&as_owner, Some(&as_role)).await.unwrap();
    (PgConnection::connect(&url).await.unwrap(), owner)
}

#[tokio::test]
async fn the_services_role_changes_no_account_without_its_event() {
    let (mut role, _) = two_roles().await;
    let add = "select position from add_account('eve', 'hash', 'viewer', gen_random_uuid(),
        '{\"type\":\"AccountAdded\",\"username\":\"eve\",\"role\":\"viewer\"}', '{\"actor\":\"eve\"}')";
    role.execute(add).await.unwrap();
    for statement in [
        "update accounts set role = 'admin'",
        "update accounts set password_hash = ''",
        "update accounts set disabled = true",
        "insert into accounts values ('mallory', 'hash', 'admin', false, now())",
        "delete from accounts",
        "insert into service_keys values (gen_random_uuid(), 'eve', 'x', sha256(''), now(), now())",
        "update service_keys set secret_hash = sha256('')",
        "update service_keys set expires_at = 'infinity'",
        "delete from service_keys",
    ] {
        assert_eq!(code_of(&mut role, statement).await, "42501", "{statement}");
    }
    // The event says what was changed.
    let quiet = "select * from change_role('eve', 'admin', gen_random_uuid(),
        '{\"type\":\"RoleChanged\",\"role\":\"viewer\"}', '{}')";
    let unknown = "select * from change_role('eve', 'emperor', gen_random_uuid(),
        '{\"type\":\"RoleChanged\",\"role\":\"emperor\"}', '{}')";
    let quiet_key =
        "select * from add_service_key('eve', gen_random_uuid(), 'x', sha256(''), now(),
        gen_random_uuid(), '{\"type\":\"ServiceKeyRevoked\"}', '{}')";
    let quiet_state = "select * from change_account('eve', null, null, true, false,
        gen_random_uuid(), null, null, '{\"type\":\"AccountEnabled\"}', '{}')";
    for statement in [quiet, unknown, quiet_key, quiet_state] {
        assert_eq!(code_of(&mut role, statement).await, "23514", "{statement}");
    }
    let left: (String, i64) =
        sqlx::query_as("select role, (select count(*) from events) from accounts")
            .fetch_one(&mut role)
            .await
            .unwrap();
    assert_eq!(left, ("viewer".to_owned(), 1));
}

/// Appends one event through both functions, which must agree; returns the SQLSTATE of the refusal.
async fn append(
    role: &mut PgConnection,
    (aggregate_type, event_type, event_version): (&str, &str, &str),
    payload: &str,
) -> Option<String> {
    let single = "select position from append_event(
        gen_random_uuid(), $1, '7', null, $2, $3, $4, '{}', null, null, null)";
    let batch = "select position from append_events(
        array[0], array[gen_random_uuid()], array[$1], array['7'], array[null::bigint], array[1],
        array[$2], array[$3], array[$4], array['{}'], array[null::text], array[null::text],
        array[null::bytea], array[null::bigint])";
    let mut answers = vec![];
    for query in [single, batch] {
        let position: Result<i64, sqlx::Error> = sqlx::query_scalar(query)
            .bind(aggregate_type)
            .bind(event_type)
            .bind(event_version)
            .bind(payload)
            .fetch_one(&mut *role)
            .await;
        answers.push(position.err().map(|error| match error {
            sqlx::Error::Database(error) => error.code().unwrap().into_owned(),
            error => panic!("{error}"),
        }));
    }
    assert_eq!(answers[0], answers[1], "{event_type} {payload}");
    answers.swap_remove(0)
}

#[tokio::test]
async fn the_functions_append_known_events_of_their_shape_and_no_others() {
    let (mut role, _) = two_roles().await;
    for event in evolution::customer_events() {
        let new = NewEvent::from(&event);
        let kind = ("customer", new.event_type.as_ref(), new.event_version.as_ref());
        assert_eq!(append(&mut role, kind, &new.payload).await, None, "{}", new.payload);
    }
    for event in evolution::account_events() {
        let new = NewEvent::from(&event);
        let kind = ("account", new.event_type.as_ref(), new.event_version.as_ref());
        let is_change = matches!(
            event,
            AccountEvent::AccountAdded { .. }
                | AccountEvent::AccountDisabled {}
                | AccountEvent::AccountEnabled {}
                | AccountEvent::ServiceKeyAdded { .. }
                | AccountEvent::ServiceKeyRevoked { .. }
                | AccountEvent::RoleChanged { .. }
                | AccountEvent::PasswordChanged {}
                | AccountEvent::PasswordRehashed {}
        );
        let refusal = is_change.then(|| "23514".to_owned());
        assert_eq!(append(&mut role, kind, &new.payload).await, refusal, "{}", new.payload);
    }
    // What service keys add to the events of sessions.
    let opened = r#"{"type":"SessionOpened","session":"x","client_id":"y"}"#;
    let closed = r#"{"type":"SessionClosed","session":"x","jti":"y","cause":"key-revoked"}"#;
    let throttled = r#"{"type":"LoginThrottled","by":"key"}"#;
    for payload in [opened, closed, throttled] {
        let kind = payload.split('"').nth(3).unwrap();
        assert_eq!(append(&mut role, ("account", kind, "1"), payload).await, None, "{payload}");
    }
    let before = read::head(&mut role).await.unwrap();
    let created = ("customer", "CustomerCreated", "1");
    for (kind, payload) in [
        (("weird", "Nonsense", "1"), r#"{"type":"Nonsense"}"#),
        (("customer", "Nonsense", "1"), r#"{"type":"Nonsense"}"#),
        (("account", "CustomerDeleted", "1"), r#"{"type":"CustomerDeleted"}"#),
        (
            ("customer", "CustomerCreated", "9"),
            r#"{"type":"CustomerCreated","name":"A","dob":"1990-12-10"}"#,
        ),
        (created, r#"{"type":"CustomerUpdated","name":"A","dob":"1990-12-10"}"#),
        (created, r#"{"type":"CustomerCreated","name":"","dob":"1990-12-10"}"#),
        (created, r#"{"type":"CustomerCreated","name":7,"dob":"1990-12-10"}"#),
        (created, r#"{"type":"CustomerCreated","name":"A","dob":"soon"}"#),
        (created, r#"{"type":"CustomerCreated","name":"A"}"#),
        (created, r#"{"type":"CustomerCreated","name":"A","dob":"1990-12-10","vip":true}"#),
        (
            ("account", "SessionOpened", "1"),
            r#"{"type":"SessionOpened","session":"x","client_id":7}"#,
        ),
        (("account", "SessionOpened", "1"), r#"{"type":"SessionOpened","client_id":"x"}"#),
        (
            ("account", "SessionClosed", "1"),
            r#"{"type":"SessionClosed","session":"x","cause":"key-revoked"}"#,
        ),
        (("account", "LoginThrottled", "1"), r#"{"type":"LoginThrottled","by":"key","x":1}"#),
        (created, "[]"),
        (created, "null"),
    ] {
        assert_eq!(append(&mut role, kind, payload).await.as_deref(), Some("23514"), "{payload}");
    }
    assert_eq!(read::head(&mut role).await.unwrap(), before);
}

#[tokio::test]
async fn checkpoints_are_positions_of_the_log_and_only_complete_tables_are_served() {
    let (mut role, owner) = two_roles().await;
    for statement in [
        "update projections set checkpoint = 999999",
        "insert into spare_tables (projection, version, place, checkpoint)
         values ('customers', 1, 'previous', 1)",
        "insert into spare_tables (projection, version, place, complete)
         values ('customers', 1, 'previous', true)",
    ] {
        let code = code_of(&mut role, statement).await;
        assert!(["23514", "42501"].contains(&code.as_str()), "{statement}: {code}");
    }
    // Empty tables, as complete as the role can make them.
    for statement in [
        "select create_shadow_tables('customers', 1)",
        "insert into spare_tables (projection, version, place) values ('customers', 1, 'shadow')",
        "update spare_tables set checkpoint = 0",
        "select index_shadow_tables('customers', 1)",
    ] {
        role.execute(statement).await.unwrap();
    }
    for place in ["shadow", "previous"] {
        let serve = format!("select serve_tables('customers', 1, '{place}')");
        assert_eq!(code_of(&mut role, &serve).await, "P0001", "{place}");
    }
    let mut owner = PgConnection::connect(&owner).await.unwrap();
    let served: bool =
        sqlx::query_scalar("select exists (select from pg_tables where schemaname = 'previous')")
            .fetch_one(&mut owner)
            .await
            .unwrap();
    assert!(!served);
}

#[tokio::test]
async fn the_roles_of_the_production_file_pass_the_doctor() {
    let superuser: reqwest::Url = empty_database().await.parse().unwrap();
    let folder = folder("roles");
    let (owner, service, name) = (unique_name("owner"), unique_name("service"), unique_name("db"));
    for secret in ["owner_password", "service_password"] {
        std::fs::write(folder.join(secret), format!("{secret}-of-{name}\n")).unwrap();
    }
    let mut script = std::fs::read_to_string("deploy/postgres-init.sh").unwrap();
    for (deployed, here) in [
        ("/run/secrets", folder.display().to_string()),
        ("customers_owner", owner.clone()),
        ("customers_service", service.clone()),
        // Its other roles belong to other tests.
        ("database customers, postgres from", format!("database {name} from")),
        ("database customers ", format!("database {name} ")),
        ("psql ", format!("{} ", program("psql").display())),
    ] {
        assert!(script.contains(deployed), "deploy/postgres-init.sh no longer has {deployed}");
        script = script.replace(deployed, &here);
    }
    let run = Command::new("sh")
        .args(["-c", &script])
        .env("PGHOST", superuser.host_str().unwrap())
        .env("PGPORT", superuser.port().unwrap_or(5432).to_string())
        .env("PGPASSWORD", superuser.password().unwrap_or_default())
        .env("POSTGRES_USER", superuser.username())
        .output()
        .await
        .unwrap();
    assert!(run.status.success(), "{run:?}");
    let url = |role: &str, secret: &str| {
        let mut url = superuser.clone();
        url.set_username(role).unwrap();
        url.set_password(Some(&format!("{secret}-of-{name}"))).unwrap();
        url.set_path(&name);
        SecretString::from(url.to_string())
    };
    let service = url(&service, "service_password");
    schema::migrate(&url(&owner, "owner_password"), Some(&service)).await.unwrap();
    let checks = guards::inspect(&service).await.unwrap();
    let failing: Vec<_> = checks.iter().filter(|check| check.advice.is_some()).collect();
    assert!(failing.is_empty(), "{failing:?}");
    // Another role cannot even connect.
    let (_, stranger) = role(superuser.as_str()).await;
    let mut stranger: reqwest::Url = stranger.parse().unwrap();
    stranger.set_path(&name);
    let error = PgConnection::connect(stranger.as_str()).await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().code().unwrap(), "42501", "{error}");
}
