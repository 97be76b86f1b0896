//! Errors that say that the connection was lost.

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
