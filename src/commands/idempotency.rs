//! A request that is sent again under the same `Idempotency-Key` is answered, not done again. The
//! log keeps (account, key) -> fingerprint of what was asked, position of what it led to, written in
//! the transaction that appends; the answer is made again from the event at that position. Refusals
//! are not kept: they changed nothing, and may be none the next time.

use aws_lc_rs::digest::{Context, SHA256};
use sqlx::PgPool;

use super::command::{CustomerCommand, IfMatch};
use crate::events::log::IdempotencyKey;
use crate::events::values::CustomerId;

/// How many keys one step of the purge takes: a few milliseconds, so that nobody waits for it.
const PURGE_STEP: i64 = 500;

/// What is kept of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKey {
    pub fingerprint: Vec<u8>,
    pub position: i64,
}

/// SHA-256 of what is asked for: the same for both spellings of a route, and whatever the order and
/// the spacing of the JSON. No text that is hashed holds a line feed.
pub fn fingerprint(id: Option<CustomerId>, command: &CustomerCommand) -> Vec<u8> {
    let of_customer = id.map_or_else(String::new, |id| id.to_string());
    let versions = |if_match: &IfMatch| match if_match {
        IfMatch::Any => "*".to_owned(),
        IfMatch::OneOf(versions) => format!("{versions:?}"),
    };
    let text = match command {
        CustomerCommand::Create { name, dob } => format!("create\n{name}\n{dob}"),
        CustomerCommand::Update { name, dob, if_match } => {
            format!("update\n{of_customer}\n{name}\n{dob}\n{}", versions(if_match))
        }
        CustomerCommand::Delete { if_match } => {
            format!("delete\n{of_customer}\n{}", versions(if_match))
        }
    };
    let mut context = Context::new(&SHA256);
    context.update(text.as_bytes());
    context.finish().as_ref().to_vec()
}

/// What is kept of the key, if anything is.
pub async fn find(pool: &PgPool, key: &IdempotencyKey) -> Result<Option<StoredKey>, sqlx::Error> {
    sqlx::query_as!(
        StoredKey,
        "select fingerprint, position from idempotency_keys where account = $1 and key = $2",
        key.account,
        key.key
    )
    .fetch_optional(pool)
    .await
}

/// Forgets keys that are older than a day, step by step.
pub async fn purge(pool: &PgPool) -> Result<(), sqlx::Error> {
    loop {
        let forgotten = sqlx::query!(
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
        if i64::try_from(forgotten).is_ok_and(|forgotten| forgotten < PURGE_STEP) {
            return Ok(());
        }
    }
}
