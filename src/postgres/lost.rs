//! Errors that say that the connection was lost.

use sqlx::error::DatabaseError;

/// Whether the connection was lost, or leads to a server that accepts no writes any more: on another
/// connection the statement may succeed. It may also have been carried out.
#[must_use]
pub fn is_lost(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            // Connection exception; server shutting down, crashed, starting, idle session ended;
            // transaction idle for too long; read-only server.
            code.starts_with("08") || code.starts_with("57P") || matches!(&*code, "25P03" | "25006")
        }),
        _ => false,
    }
}

/// Whether a pooler has refused or ended the connection: PgBouncer does so with this code when it has too many
/// clients (`max_client_conn`), or no backend in time (`query_wait_timeout`). Its other clients go on.
#[must_use]
pub fn is_refused_by_pooler(error: &sqlx::Error) -> bool {
    has_code(error, "08P01")
}

/// Whether a lost connection says nothing about others: a pooler refused it, or its own transaction was idle
/// for too long.
pub(super) fn concerns_one_connection(error: &sqlx::Error) -> bool {
    is_refused_by_pooler(error) || has_code(error, "25P03")
}

fn has_code(error: &sqlx::Error, expected: &str) -> bool {
    let code = error.as_database_error().and_then(DatabaseError::code);
    code.is_some_and(|code| code == expected)
}
