//! The schema of the database: the owner migrates it, every process checks it at its start, and the
//! service's role gets only the rights that it needs.

/// Checks that the log cannot be changed.
pub mod guards;

use std::sync::LazyLock;

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::migrate::{Migrate as _, MigrateError, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, PgConnection};

use crate::projections;

/// The migrations of this program. [`migrate`] has a lock of its own, because every role that may connect
/// can hold the advisory lock of sqlx.
static MIGRATOR: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrator = sqlx::migrate!();
    migrator.set_locking(false);
    migrator
});

/// The functions that run as their owner (`security definer`), because the service's role may not
/// change their tables itself. Each is documented in its migration.
const FUNCTIONS: [&str; 15] = [
    "append_events",
    "append_event",
    "import_customers",
    "position_at",
    "add_account",
    "change_password",
    "rehash_password",
    "change_role",
    "disable_account",
    "create_shadow_tables",
    "index_shadow_tables",
    "drop_shadow_tables",
    "serve_tables",
    "create_rebuild_lock",
    "try_rebuild_lock",
];

/// The rights of the service's role; `{role}` is its quoted name. It appends events and changes accounts
/// through functions only. The first line takes back what earlier versions granted.
const GRANTS: &str = "
    revoke insert, update, delete on accounts, spare_tables from {role};
    grant usage on schema public, shadow, previous to {role};
    grant select on all tables in schema public to {role};
    grant execute on function {functions} to {role};
    grant usage on sequence customer_ids to {role};
    grant update on projections to {role};
    grant insert (projection, version, place), update (checkpoint) on spare_tables to {role};
    grant insert, update on rebuilds, rebuild_parts to {role};
    grant insert, delete on parked_customers to {role};
    grant delete on idempotency_keys, imports to {role};
";

/// Takes all rights of PUBLIC on the owner's objects. The migrations do so, too; a dump that was restored
/// without its privileges has the defaults again, with EXECUTE for PUBLIC.
const REVOKES: &str = "
    do $$
    declare
        name text;
    begin
        revoke all on schema public, shadow, previous, locks from public;
        for name in
            select c.oid::regclass::text from pg_class c
            where c.relnamespace in ('public'::regnamespace, 'shadow'::regnamespace,
                                     'previous'::regnamespace, 'locks'::regnamespace)
              and c.relkind in ('r', 'S') and c.relowner = current_user::regrole
        loop
            execute 'revoke all on ' || name || ' from public';
        end loop;
        for name in
            select p.oid::regprocedure::text from pg_proc p
            where p.pronamespace = 'public'::regnamespace and p.proowner = current_user::regrole
        loop
            execute 'revoke all on routine ' || name || ' from public';
        end loop;
    end
    $$";

/// Why the schema could not be migrated, or is not the one of this program.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    #[error("the database schema is not that of this program: run `customers migrate`")]
    NotMigrated,
    #[error("cannot query PostgreSQL")]
    Database(#[from] sqlx::Error),
    #[error("cannot migrate the schema")]
    Migrate(#[from] MigrateError),
}

/// Applies the missing migrations as `owner`, and grants the rights to the service's role if that is
/// another one: all in one transaction, so no other session sees an object before its rights are set.
pub async fn migrate(
    owner: &SecretString,
    service: Option<&SecretString>,
) -> Result<(), SchemaError> {
    let owner: PgConnectOptions = owner.expose_secret().parse()?;
    let mut connection = owner.connect().await?;
    create_migrations_table(&mut connection).await?;
    let mut transaction = connection.begin().await?;
    // A concurrent migration waits here.
    transaction.execute("lock table _sqlx_migrations in share row exclusive mode").await?;
    MIGRATOR.run(&mut *transaction).await?;
    transaction.execute(REVOKES).await?;
    if let Some(service) = service {
        let service: PgConnectOptions = service.expose_secret().parse()?;
        if service.get_username() != owner.get_username() {
            grant(&mut transaction, service.get_username()).await?;
        }
    }
    transaction.commit().await?;
    Ok(connection.close().await?)
}

/// Creates the table of applied migrations, if it is missing. Of concurrent statements that create it,
/// all but one fail.
async fn create_migrations_table(connection: &mut PgConnection) -> Result<(), MigrateError> {
    match connection.ensure_migrations_table().await {
        Err(_) => connection.ensure_migrations_table().await,
        created => created,
    }
}

async fn grant(connection: &mut PgConnection, role: &str) -> Result<(), sqlx::Error> {
    let role = format!("\"{}\"", role.replace('"', "\"\""));
    let grants = GRANTS.replace("{functions}", &FUNCTIONS.join(", ")).replace("{role}", &role);
    connection.execute(grants.as_str()).await?;
    for table in projections::ALL.iter().map(|projection| projection.table()) {
        let grant = format!("grant insert, update, delete on {table} to {role}");
        connection.execute(grant.as_str()).await?;
    }
    Ok(())
}

/// Checks that the migrations of this program are applied, each with its checksum; otherwise fails with
/// [`SchemaError::NotMigrated`].
pub async fn check(url: &SecretString) -> Result<(), SchemaError> {
    // A pool would retry until its time limit and report only a timeout.
    let mut connection = PgConnection::connect(url.expose_secret()).await?;
    let applied: Result<Vec<(i64, Vec<u8>)>, sqlx::Error> =
        sqlx::query_as("select version, checksum from _sqlx_migrations where success")
            .fetch_all(&mut connection)
            .await;
    let applied = match applied {
        Ok(applied) => applied,
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42P01") => {
            return Err(SchemaError::NotMigrated);
        }
        Err(error) => return Err(error.into()),
    };
    let all = MIGRATOR.iter().all(|migration| {
        applied.iter().any(|(version, checksum)| {
            *version == migration.version && checksum.as_slice() == migration.checksum.as_ref()
        })
    });
    if all { Ok(()) } else { Err(SchemaError::NotMigrated) }
}

/// Whether the database has no table, view or sequence of anybody.
pub async fn is_empty(db: impl sqlx::PgExecutor<'_>) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select not exists (
               select from pg_class c join pg_namespace n on n.oid = c.relnamespace
               where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
           ) as "is_empty!""#
    )
    .fetch_one(db)
    .await
}

/// The secret that signs the cursors of lists. All processes of an installation share it.
pub async fn cursor_key(db: impl sqlx::PgExecutor<'_>) -> Result<String, sqlx::Error> {
    sqlx::query_scalar!("select key from cursor_keys").fetch_one(db).await
}
