//! The rights of the service's role: `customers migrate` grants them, and `customers doctor` checks them.

use crate::projections::{self, Projection};

/// The functions that run as their owner (`security definer`), because the service's role may not
/// change their tables itself. Each is documented in its migration.
pub(super) const FUNCTIONS: [&str; 24] = [
    "append_events",
    "append_event",
    "import_customers",
    "position_at",
    "positions_of_request",
    "positions_of_session",
    "skip_taken_ids",
    "add_account",
    "change_password",
    "rehash_password",
    "change_role",
    "disable_account",
    "record_key_change",
    "change_account",
    "add_service_key",
    "revoke_service_key",
    "create_shadow_tables",
    "index_shadow_tables",
    "index_standby_tables",
    "drop_shadow_tables",
    "serve_tables",
    "read_table_obstacles",
    "create_rebuild_lock",
    "try_rebuild_lock",
];

/// The tables that the service reads, apart from the read tables.
const TABLES: [&str; 16] = [
    "_sqlx_migrations",
    "events",
    "log_identities",
    "idempotency_keys",
    "imports",
    "external_ids",
    "taken_external_ids",
    "accounts",
    "service_keys",
    "cursor_keys",
    "projections",
    "projection_tables",
    "spare_tables",
    "rebuilds",
    "rebuild_parts",
    "parked_customers",
];

/// What a right is about; names stand in the schema `public`.
#[derive(Clone, Copy)]
enum Kind {
    Schema,
    Table,
    /// Columns of this table.
    Column(&'static str),
    Sequence,
    Function,
}

/// The role appends events and changes accounts through functions only.
const RIGHTS: [(&str, Kind, &[&str]); 10] = [
    ("usage", Kind::Schema, &["public", "served", "shadow", "previous"]),
    ("select", Kind::Table, &TABLES),
    ("insert", Kind::Table, &["rebuilds", "rebuild_parts", "parked_customers"]),
    ("update", Kind::Table, &["projections", "rebuilds", "rebuild_parts"]),
    ("delete", Kind::Table, &["idempotency_keys", "imports", "parked_customers"]),
    ("insert", Kind::Column("spare_tables"), &["projection", "version", "place"]),
    ("update", Kind::Column("spare_tables"), &["checkpoint"]),
    ("update", Kind::Column("service_keys"), &["last_used_at"]),
    ("usage", Kind::Sequence, &["customer_ids"]),
    ("execute", Kind::Function, &FUNCTIONS),
];

/// The rights on the rows of a read table.
const ROWS: [&str; 4] = ["select", "insert", "update", "delete"];

fn read_tables() -> impl Iterator<Item = &'static str> {
    projections::ALL.into_iter().map(Projection::table)
}

/// The statements that grant the rights to a role; `role` is its quoted name. The first one takes back what
/// earlier versions granted. The tables of `shadow` and `previous` have the rights of the live ones
/// already, except after the restore of a dump.
pub(super) fn grants(role: &str) -> String {
    let rows = ROWS.join(", ");
    let mut statements = vec![
        format!(
            "revoke insert, update, delete on public.accounts, public.spare_tables from {role}"
        ),
        format!("grant select on all tables in schema public to {role}"),
        format!("grant {rows} on all tables in schema shadow, previous to {role}"),
    ];
    for (privilege, kind, objects) in RIGHTS {
        let names = objects.join(", public.");
        let right = match kind {
            Kind::Schema => format!("{privilege} on schema {}", objects.join(", ")),
            Kind::Table => format!("{privilege} on table public.{names}"),
            Kind::Column(table) => {
                format!("{privilege} ({}) on table public.{table}", objects.join(", "))
            }
            Kind::Sequence => format!("{privilege} on sequence public.{names}"),
            Kind::Function => format!("{privilege} on function public.{names}"),
        };
        statements.push(format!("grant {right} to {role}"));
    }
    // The table, and its partition: the tables of rebuilds have the same rights as the latter.
    for table in read_tables() {
        statements.push(format!("grant {rows} on public.{table}, served.{table} to {role}"));
    }
    statements.join(";\n")
}

/// An SQL expression: whether the current role has all of them.
pub(super) fn are_granted() -> String {
    let mut conditions = vec![];
    for (privilege, kind, objects) in RIGHTS {
        conditions.extend(objects.iter().map(|name| match kind {
            Kind::Schema => format!("has_schema_privilege('{name}', '{privilege}')"),
            Kind::Table => format!("has_table_privilege('public.{name}', '{privilege}')"),
            Kind::Column(table) => {
                format!("has_column_privilege('public.{table}', '{name}', '{privilege}')")
            }
            Kind::Sequence => format!("has_sequence_privilege('public.{name}', '{privilege}')"),
            Kind::Function => {
                format!("has_function_privilege('public.{name}'::regproc, '{privilege}')")
            }
        }));
    }
    for privilege in ROWS {
        conditions.extend(
            read_tables()
                .map(|table| format!("has_table_privilege('public.{table}', '{privilege}')")),
        );
        conditions.push(format!(
            "(select bool_and(has_table_privilege(c.oid, '{privilege}'))
              from pg_class c join pg_namespace n on n.oid = c.relnamespace
              where n.nspname in ('served', 'shadow', 'previous') and c.relkind in ('r', 'p'))"
        ));
    }
    conditions.join("\nand ")
}
