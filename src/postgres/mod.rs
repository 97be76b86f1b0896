//! PostgreSQL beyond queries: which server, its connections and their settings, transactions, COPY.

/// URLs, as libpq takes them.
pub mod address;

/// The password file of libpq.
mod passfile;

/// TLS: modes and certificates.
mod tls;

/// The parameter `options`.
mod startup_options;

/// The settings of each connection.
pub mod settings;

/// One server: its hosts, and connections that are used no more.
pub mod server;

/// The watch over a server, which may become another one.
mod watch;

/// Poolers that a connection cannot pass through.
mod pooler_check;

/// Errors that say that the connection was lost.
pub mod lost;

/// How long an answer is waited for.
pub mod answer_limit;

/// Connections whose statements are answered within a limit, or fail.
pub mod connection;

/// The processes of PostgreSQL behind connections.
pub mod backend;

/// Pools that try a statement once more after a lost connection.
pub mod pool;

/// What a pool measures.
pub mod pool_metrics;

/// Transactions, which a dropped future does not leave open.
pub mod transaction;

/// A connection that is kept from one transaction to the next.
pub mod kept;

/// Rows in the binary format of COPY, in both directions.
pub mod copy;

pub use self::connection::Connection;
pub use self::lost::is_lost;
pub use self::pool::Pool;
pub use self::server::Server;
