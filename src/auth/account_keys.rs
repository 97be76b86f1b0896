//! The service keys of accounts (migration 18): added, listed, revoked, and found by their client id.

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::account::{AccountError, Accounts, Change, NewChange, change, recorded};
use super::key_secret::{KeySecret, has_hash};
use crate::events::account::AccountEvent;
use crate::events::account_key::{ClientId, KeyExpiry, KeyName};
use crate::events::metadata::Metadata;
use crate::events::values::{Username, ValueError};

/// A use of a key is noted at most once in this time: it tells whether the key is still needed, and needs no more
/// writes than that.
const USE_NOTED_EVERY: TimeDelta = TimeDelta::minutes(1);

/// A service key, without its secret.
#[derive(Debug, Clone)]
pub struct ServiceKey {
    pub client_id: ClientId,
    pub username: Username,
    pub name: KeyName,
    pub created_at: DateTime<Utc>,
    pub expires_at: KeyExpiry,
    /// When it last opened a session, to the minute; `None` if it never did.
    pub last_used_at: Option<DateTime<Utc>>,
    secret_hash: Vec<u8>,
}

/// A key that was added, with its secret.
pub struct NewKey {
    pub client_id: ClientId,
    pub secret: KeySecret,
}

struct Row {
    client_id: Uuid,
    username: String,
    name: String,
    secret_hash: Vec<u8>,
    created_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
    last_used_at: Option<DateTime<Utc>>,
}

impl ServiceKey {
    /// Whether this is its secret. Says nothing of its expiry.
    pub(super) fn has_secret(&self, secret: &str) -> bool {
        has_hash(secret, &self.secret_hash)
    }
}

impl Accounts {
    /// Adds a key with a new secret. [`AccountError::Unknown`] if there is no such account,
    /// [`AccountError::TooManyKeys`] if it has as many keys as it may have.
    pub async fn add_key(
        &self,
        username: &Username,
        name: &KeyName,
        expires_at: KeyExpiry,
        metadata: Metadata,
    ) -> Result<NewKey, AccountError> {
        let (client_id, secret) = (ClientId::new_random(), KeySecret::new_random());
        let event = AccountEvent::ServiceKeyAdded { client_id, name: name.clone(), expires_at };
        let event = NewChange::new(&event, metadata);
        let added = change!(
            self,
            username,
            event,
            "add_service_key($1, $2, $3, $4, $5, $6, $7, $8)",
            username.as_str(),
            client_id.get(),
            name.as_str(),
            secret.hash(),
            expires_at.time(),
            event.command_id,
            event.payload,
            event.metadata.as_str()
        );
        match added.map_err(refused)? {
            Some(_) => Ok(NewKey { client_id, secret }),
            None => Err(AccountError::Unknown(username.clone())),
        }
    }

    /// Removes a key, so that it opens no more sessions; `false` if the account has no such key.
    pub async fn remove_key(
        &self,
        username: &Username,
        client_id: ClientId,
        metadata: Metadata,
    ) -> Result<bool, AccountError> {
        let event = NewChange::new(&AccountEvent::ServiceKeyRevoked { client_id }, metadata);
        let removed = change!(
            self,
            username,
            event,
            "revoke_service_key($1, $2, $3, $4, $5)",
            username.as_str(),
            client_id.get(),
            event.command_id,
            event.payload,
            event.metadata.as_str()
        );
        Ok(removed?.is_some())
    }

    /// The keys of an account, the oldest first, expired ones too.
    pub async fn keys(&self, username: &Username) -> Result<Vec<ServiceKey>, sqlx::Error> {
        let rows = sqlx::query_as!(
            Row,
            "select client_id, username, name, secret_hash, created_at, expires_at, last_used_at
             from service_keys where username = $1 order by client_id",
            username.as_str()
        );
        rows.fetch_all(self.pool()).await?.into_iter().map(stored).collect()
    }

    /// The key of that id.
    pub(super) async fn find_key(
        &self,
        client_id: ClientId,
    ) -> Result<Option<ServiceKey>, sqlx::Error> {
        let row = sqlx::query_as!(
            Row,
            "select client_id, username, name, secret_hash, created_at, expires_at, last_used_at
             from service_keys where client_id = $1",
            client_id.get()
        );
        row.fetch_optional(self.pool()).await?.map(stored).transpose()
    }

    /// Notes that the key has opened a session.
    pub(super) async fn note_use(
        &self,
        client_id: ClientId,
        at: DateTime<Utc>,
    ) -> Result<(), sqlx::Error> {
        sqlx::query!(
            "update service_keys set last_used_at = $2
             where client_id = $1 and (last_used_at is null or last_used_at <= $3)",
            client_id.get(),
            at,
            at - USE_NOTED_EVERY
        )
        .execute(self.pool())
        .await?;
        Ok(())
    }
}

fn stored(row: Row) -> Result<ServiceKey, sqlx::Error> {
    let invalid = |error: ValueError| sqlx::Error::Decode(Box::new(error));
    Ok(ServiceKey {
        client_id: ClientId::stored(row.client_id),
        username: Username::stored(&row.username).map_err(invalid)?,
        name: KeyName::parse(&row.name).map_err(invalid)?,
        created_at: row.created_at,
        expires_at: KeyExpiry::stored(row.expires_at),
        last_used_at: row.last_used_at,
        secret_hash: row.secret_hash,
    })
}

/// The refusals of `add_service_key`.
fn refused(error: sqlx::Error) -> AccountError {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    match code.as_deref() {
        Some("CU006") => AccountError::TooManyKeys,
        _ => error.into(),
    }
}
