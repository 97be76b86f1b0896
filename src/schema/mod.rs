//! The database's schema: brought up to date by its owner, checked by everybody who starts, and
//! opened to the service's own role as far as it needs and no further.

/// What keeps the log from being changed, asked of the database.
pub mod guards;

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, PgConnection};

use crate::projections;

/// The migrations of this program.
pub static MIGRATOR: Migrator = sqlx::migrate!();

/// The functions that change what the service's role may not touch: they run as their owner. The
/// migrations say what each of them does.
const FUNCTIONS: [&str; 7] = [
    "append_events",
    "append_event",
    "import_customers",
    "create_shadow_tables",
    "index_shadow_tables",
    "drop_shadow_tables",
    "serve_tables",
];

/// What the service's role may do; `{role}` is its name, quoted. It appends through functions and
/// in no other way.
const GRANTS: &str = "
    revoke execute on function {functions} from public;
    grant usage on schema public, shadow, previous to {role};
    grant select on all tables in schema public to {role};
    grant execute on function {functions} to {role};
    grant usage on sequence customer_ids to {role};
    grant insert, update on accounts to {role};
    grant update on projections to {role};
    grant insert, update on spare_tables, rebuilds, rebuild_parts to {role};
    grant insert, delete on parked_customers to {role};
    grant delete on idempotency_keys, imports to {role};
";

/// Why the schema is not what this program needs.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    #[error("the database's schema is not this program's: run `customers migrate`")]
    NotMigrated,
    #[error("PostgreSQL")]
    Database(#[from] sqlx::Error),
    #[error("PostgreSQL")]
    Migrate(#[from] MigrateError),
}

/// Applies what is missing, as `owner`. When the service connects as another role, that role is
/// given what it needs.
pub async fn migrate(
    owner: &SecretString,
    service: Option<&SecretString>,
) -> Result<(), SchemaError> {
    let owner: PgConnectOptions = owner.expose_secret().parse()?;
    let mut connection = owner.connect().await?;
    MIGRATOR.run(&mut connection).await?;
    if let Some(service) = service {
        let service: PgConnectOptions = service.expose_secret().parse()?;
        if service.get_username() != owner.get_username() {
            grant(&mut connection, service.get_username()).await?;
        }
    }
    Ok(connection.close().await?)
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

/// Every migration of this program is applied, as it was written.
///
/// # Errors
/// [`SchemaError::NotMigrated`] when one is missing or another.
pub async fn check(url: &SecretString) -> Result<(), SchemaError> {
    // Not over a pool: that would go on trying, and then say only that it took too long.
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

/// The secret that signs the cursors of lists: the same for all processes of an installation.
pub async fn cursor_key(db: impl sqlx::PgExecutor<'_>) -> Result<String, sqlx::Error> {
    sqlx::query_scalar!("select key from cursor_keys").fetch_one(db).await
}
