//! The settings of each connection, whatever role, database and cluster set. They are set after connecting
//! and not in the startup packet, which PgBouncer refuses.

use std::time::Duration;

/// Settings by name, for all connections of one purpose.
pub type Settings = &'static [(&'static str, &'static str)];

/// The settings of every connection. One that the server does not know is left out.
const PINNED: [(&str, &str); 10] = [
    // The names of tables in the statements of the service have no schema.
    ("search_path", "public"),
    // Events are appended, and tables filled, under locks: a snapshot from before the lock shows less.
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_deferrable", "off"),
    ("standard_conforming_strings", "on"),
    // Policies of others apply as PostgreSQL means them; off would refuse tables that have one.
    ("row_security", "on"),
    // Migration 8 compares definitions as PostgreSQL writes them without needless quotes.
    ("quote_all_identifiers", "off"),
    // Pools close idle connections themselves.
    ("idle_session_timeout", "0"),
    ("transaction_timeout", "0"),
    ("array_nulls", "on"),
    // By a wrong estimate a short statement was compiled for far longer than it runs; what runs for long here (lists,
    // COPY, indexes) waits for rows and computes little.
    ("jit", "off"),
];

/// A statement that sets the settings: those of the URL, [`PINNED`] and these, for the session or for the
/// transaction. `set_config` fails where a name or a value is refused.
pub(super) fn set_statement(
    of_url: &[(String, String)],
    settings: Settings,
    of_transaction: bool,
) -> String {
    let own = of_url.iter().map(|(name, value)| (&**name, &**value, false));
    let pinned = PINNED.into_iter().map(|(name, value)| (name, value, true));
    let given = settings.iter().map(|(name, value)| (*name, *value, false));
    let values: Vec<_> = own
        .chain(pinned)
        .chain(given)
        .map(|(name, value, optional)| format!("({}, {}, {optional})", quoted(name), quoted(value)))
        .collect();
    format!(
        "select count(pg_catalog.set_config(name, value, {of_transaction}))
         from (values {}) as setting (name, value, optional)
         where not optional or pg_catalog.current_setting(name, true) is not null",
        values.join(", ")
    )
}

/// How long PostgreSQL lets a statement run under these settings; `None` without a limit.
pub(super) fn statement_timeout(settings: Settings) -> Option<Duration> {
    let (_, value) = settings.iter().find(|(name, _)| *name == "statement_timeout")?;
    humantime::parse_duration(value).ok().filter(|limit| !limit.is_zero())
}

fn quoted(text: &str) -> String {
    // With `E` a backslash means the same whatever standard_conforming_strings is.
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}
