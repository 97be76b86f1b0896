//! PostgreSQL beyond queries: which server, its connections and their settings, transactions, COPY.

/// URLs, as libpq takes them.
pub mod address;

/// One server: its hosts, the settings of each connection, and connections that are used no more.
pub mod server;

/// Pools that try a statement once more after a lost connection.
pub mod pool;

/// Begins transactions, which a dropped future does not leave open.
pub mod transaction;

/// Rows in the binary format of COPY, in both directions.
pub mod copy;

pub use self::pool::Pool;
pub use self::server::Server;

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
