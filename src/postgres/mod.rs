//! PostgreSQL beyond queries: which server, its connections and their settings, transactions, COPY.

/// URLs, as libpq takes them.
pub mod address;

/// The password file of libpq.
mod passfile;

/// TLS: modes and certificates.
mod tls;

/// The parameter `options`.
mod startup_options;

/// One server: its hosts, the settings of each connection, and connections that are used no more.
pub mod server;

/// Errors that say that the connection was lost.
pub mod lost;

/// Pools that try a statement once more after a lost connection.
pub mod pool;

/// Begins transactions, which a dropped future does not leave open.
pub mod transaction;

/// Rows in the binary format of COPY, in both directions.
pub mod copy;

pub use self::lost::is_lost;
pub use self::pool::Pool;
pub use self::server::Server;
