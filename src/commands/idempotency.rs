//! Idempotency keys: a request that is repeated with the same key is answered, not executed again. The
//! transaction that appends also stores (account, key) -> fingerprint of the request, position of the
//! event; the answer is rebuilt from the event at that position. Refusals are not stored: they changed
//! nothing, and the same request may succeed later.

use aws_lc_rs::digest::{Context, SHA256};

use super::command::{CustomerCommand, ExternalIdChange, IfMatch};
use crate::events::customer::CustomerValues;
use crate::events::log::IdempotencyKey;
use crate::events::values::CustomerId;
use crate::postgres::Pool;

/// How many keys one step of the purge deletes; it takes milliseconds, so that requests do not wait.
const PURGE_STEP: i64 = 500;

/// A stored key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKey {
    pub fingerprint: Vec<u8>,
    pub position: i64,
}

/// SHA-256 of a parsed request: the same for both spellings of a route, and for any order and spacing of
/// the JSON. No hashed value has a line feed.
pub fn fingerprint(id: Option<CustomerId>, command: &CustomerCommand) -> Vec<u8> {
    let of_customer = id.map_or_else(String::new, |id| id.to_string());
    let versions = |if_match: &IfMatch| match if_match {
        IfMatch::Any => "*".to_owned(),
        IfMatch::OneOf(versions) => format!("{versions:?}"),
        IfMatch::NoneOf(versions) => format!("not {versions:?}"),
    };
    let values = |values: &CustomerValues| {
        let CustomerValues { name, dob, external_id } = values;
        format!(
            "{name}\n{dob}{}",
            external_id.as_ref().map_or(String::new(), |id| format!("\n{id}"))
        )
    };
    let text = match command {
        CustomerCommand::Create(of_new) => format!("create\n{}", values(of_new)),
        CustomerCommand::Update { name, dob, external_id, if_match } => {
            let external_id = match external_id {
                ExternalIdChange::Keep => String::new(),
                ExternalIdChange::Set(None) => "\nnone".to_owned(),
                ExternalIdChange::Set(Some(id)) => format!("\nset {id}"),
            };
            format!("update\n{of_customer}\n{name}\n{dob}\n{}{external_id}", versions(if_match))
        }
        CustomerCommand::UpdateExternal { values: of_new, if_match } => {
            format!("put\n{}\n{}", values(of_new), versions(if_match))
        }
        CustomerCommand::Delete { if_match } => {
            format!("delete\n{of_customer}\n{}", versions(if_match))
        }
        CustomerCommand::Restore { values: of_version, from_version, if_match } => {
            let (of_version, versions) = (values(of_version), versions(if_match));
            format!("restore\n{of_customer}\n{from_version}\n{of_version}\n{versions}")
        }
    };
    let mut context = Context::new(&SHA256);
    context.update(text.as_bytes());
    context.finish().as_ref().to_vec()
}

/// The stored key, if there is one.
pub async fn find(pool: &Pool, key: &IdempotencyKey) -> Result<Option<StoredKey>, sqlx::Error> {
    sqlx::query_as!(
        StoredKey,
        "select fingerprint, position from idempotency_keys where account = $1 and key = $2",
        key.account,
        key.key
    )
    .fetch_optional(pool)
    .await
}

/// Deletes keys that are older than a day, step by step.
pub async fn purge(pool: &Pool) -> Result<(), sqlx::Error> {
    loop {
        let deleted = sqlx::query!(
            "delete from idempotency_keys where (account, key) in (
                 select account, key from idempotency_keys
                 where created_at < now() - interval '24 hours'
                 order by created_at limit $1
             )",
            PURGE_STEP
        )
        .execute(pool)
        .await?
        .rows_affected();
        if i64::try_from(deleted).is_ok_and(|deleted| deleted < PURGE_STEP) {
            return Ok(());
        }
    }
}
