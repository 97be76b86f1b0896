//! The schema of the database: the owner migrates it, every process checks it at its start, and the
//! service's role gets only the rights that it needs.

/// Checks that the log cannot be changed.
pub mod guards;

/// The rights of the service's role.
mod rights;

use std::sync::LazyLock;

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::migrate::{Migrate as _, MigrateError, Migration, Migrator};
use sqlx::{Connection as _, Executor as _, PgConnection, PgExecutor};

use crate::postgres::Server;
use crate::postgres::address::AddressError;
use crate::postgres::server::{Demand, PATIENT_LIMIT};
use crate::postgres::settings::Settings;

/// The migrations of this program. [`migrate`] has a lock of its own, because every role that may connect
/// can hold the advisory lock of sqlx.
static MIGRATOR: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrator = sqlx::migrate!();
    migrator.set_locking(false);
    migrator
});

/// Takes all rights of PUBLIC on the owner's objects. The migrations do so, too; a dump that was restored
/// without its privileges has the defaults again, with EXECUTE for PUBLIC.
const REVOKES: &str = "
    do $$
    declare
        name text;
    begin
        revoke all on schema public, served, shadow, previous, locks from public;
        for name in
            select c.oid::regclass::text from pg_class c
            where c.relnamespace in ('public'::regnamespace, 'served'::regnamespace,
                                     'shadow'::regnamespace, 'previous'::regnamespace,
                                     'locks'::regnamespace)
              and c.relkind in ('r', 'p', 'S') and c.relowner = current_user::regrole
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

/// The tables that have rows and no statistics, as after `pg_restore`: without them PostgreSQL sorts where it
/// should read an index.
const WITHOUT_STATISTICS: &str = "
    select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname in ('public', 'served', 'shadow', 'previous') and c.relkind = 'r'
      and c.relowner = current_user::regrole and pg_relation_size(c.oid) > 0
      and not exists (select from pg_stats s
                      where s.schemaname = n.nspname and s.tablename = c.relname)";

/// Why the schema could not be migrated, or is not the one of this program.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    #[error("the database schema is not that of this program: run `customers migrate`")]
    NotMigrated,
    #[error("the URL of the database: {0}")]
    Address(#[from] AddressError),
    #[error("cannot query PostgreSQL")]
    Database(#[from] sqlx::Error),
    #[error("cannot migrate the schema")]
    Migrate(#[from] MigrateError),
}

/// A migration as it is shown: its number and its name.
pub type Step = (i64, String);

/// What a migration has done, or would do.
#[derive(Debug, PartialEq, Eq)]
pub enum Migrated {
    /// These steps; none if the schema was up to date.
    Steps(Vec<Step>),
    /// Nothing: the database has steps that this program does not know.
    Newer { database: i64, program: i64 },
}

/// A migration may take as long as it needs.
const UNLIMITED: Settings = &[
    ("lock_timeout", "0"),
    ("statement_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
];

/// For the checks at start.
const LIMITED: Settings = &[("lock_timeout", "2s"), ("statement_timeout", "5s")];

/// The connection of the owner, or of the service's role, outside all pools.
pub async fn connect(url: &SecretString) -> Result<PgConnection, SchemaError> {
    let server = Server::new(url.expose_secret(), Demand::Primary)?;
    Ok(server.connect("customers", LIMITED, PATIENT_LIMIT).await?)
}

/// As [`connect`], for work that may take long.
pub async fn connect_unlimited(url: &SecretString) -> Result<PgConnection, SchemaError> {
    let server = Server::new(url.expose_secret(), Demand::Primary)?;
    Ok(server.connect("customers", UNLIMITED, PATIENT_LIMIT).await?)
}

/// Applies the missing migrations as `owner`, and grants the rights to the service's role if that is
/// another one: all in one transaction, so no other session sees an object before its rights are set. A
/// schema that is newer than the program is not changed.
pub async fn migrate(
    owner: &SecretString,
    service: Option<&SecretString>,
) -> Result<Migrated, SchemaError> {
    let owner = Server::new(owner.expose_secret(), Demand::Primary)?;
    let mut connection = owner.connect("customers migrate", UNLIMITED, PATIENT_LIMIT).await?;
    create_migrations_table(&mut connection).await?;
    let mut transaction = connection.begin().await?;
    // A concurrent migration waits here.
    transaction.execute("lock table _sqlx_migrations in share row exclusive mode").await?;
    let migrated = missing(&mut transaction).await?;
    if matches!(migrated, Migrated::Steps(_)) {
        MIGRATOR.run(&mut *transaction).await?;
        transaction.execute(REVOKES).await?;
        if let Some(service) = service {
            let service = Server::new(service.expose_secret(), Demand::Primary)?;
            if service.username() != owner.username() {
                grant(&mut transaction, service.username()).await?;
            }
        }
    }
    transaction.commit().await?;
    analyze(&mut connection).await?;
    connection.close().await?;
    Ok(migrated)
}

/// Each table in a transaction of its own, and none that another one is analyzing: concurrent migrations, or
/// an autovacuum, would otherwise wait for each other in a circle.
async fn analyze(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let tables: Vec<String> =
        sqlx::query_scalar(WITHOUT_STATISTICS).fetch_all(&mut *connection).await?;
    for table in tables {
        connection.execute(format!("analyze (skip_locked) {table}").as_str()).await?;
    }
    Ok(())
}

/// What [`migrate`] would do; changes nothing.
pub async fn plan(owner: &SecretString) -> Result<Migrated, SchemaError> {
    missing(&mut connect(owner).await?).await
}

/// The steps that the database lacks.
async fn missing(connection: &mut PgConnection) -> Result<Migrated, SchemaError> {
    let applied = applied(connection).await?.unwrap_or_default();
    let newest = |versions: &mut dyn Iterator<Item = i64>| versions.max().unwrap_or(0);
    let database = newest(&mut applied.iter().map(|(version, _)| *version));
    let program = newest(&mut MIGRATOR.iter().map(|migration| migration.version));
    if database > program {
        return Ok(Migrated::Newer { database, program });
    }
    let is_missing =
        |migration: &&Migration| !applied.iter().any(|(version, _)| *version == migration.version);
    let steps = MIGRATOR.iter().filter(is_missing);
    Ok(Migrated::Steps(
        steps.map(|step| (step.version, step.description.clone().into_owned())).collect(),
    ))
}

/// The applied migrations with their checksums; `None` in a database that was never migrated.
async fn applied(
    connection: impl PgExecutor<'_>,
) -> Result<Option<Vec<(i64, Vec<u8>)>>, sqlx::Error> {
    let applied = sqlx::query_as("select version, checksum from _sqlx_migrations where success")
        .fetch_all(connection)
        .await;
    match applied {
        Ok(applied) => Ok(Some(applied)),
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42P01") => Ok(None),
        Err(error) => Err(error),
    }
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
    connection.execute(rights::grants(&role).as_str()).await?;
    Ok(())
}

/// Checks that the migrations of this program are applied, each with its checksum; otherwise fails with
/// [`SchemaError::NotMigrated`]. The database may have further ones: a newer program has migrated it, and
/// this one goes on until it is replaced.
pub async fn check(url: &SecretString) -> Result<(), SchemaError> {
    check_on(&mut connect(url).await?).await
}

/// As [`check`], on this connection.
pub async fn check_on(connection: impl PgExecutor<'_>) -> Result<(), SchemaError> {
    let applied = applied(connection).await?.ok_or(SchemaError::NotMigrated)?;
    let all = MIGRATOR.iter().all(|migration| {
        applied.iter().any(|(version, checksum)| {
            *version == migration.version && checksum.as_slice() == migration.checksum.as_ref()
        })
    });
    if !all {
        return Err(SchemaError::NotMigrated);
    }
    let newest = applied.iter().map(|(version, _)| *version).max().unwrap_or(0);
    let own = MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or(0);
    if newest > own {
        tracing::warn!(
            database = newest,
            program = own,
            "schema: the database is of a newer program"
        );
    }
    Ok(())
}

/// Whether the database has no table, view or sequence of anybody.
pub async fn is_empty(db: impl PgExecutor<'_>) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select not exists (
               select from pg_class c join pg_namespace n on n.oid = c.relnamespace
               where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
           ) as "is_empty!""#
    )
    .fetch_one(db)
    .await
}

/// The secret of the installation, which all its processes share: it signs the cursors of lists, and tells its
/// session cookies from those of other installations.
pub async fn cursor_key(db: impl PgExecutor<'_>) -> Result<String, sqlx::Error> {
    sqlx::query_scalar!("select key from cursor_keys").fetch_one(db).await
}
