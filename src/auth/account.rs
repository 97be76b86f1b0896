//! Accounts. The password hash is in the table `accounts` only; each change of an account is an event in
//! the log, appended by the function that changes the row (migration 10).

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

use super::opaque_string;
use crate::clock;
use crate::events::account::{ACCOUNT, AccountEvent};
use crate::events::log::payload::EncodedMetadata;
use crate::events::log::{Append, AppendError, Appender, NewEvent};
use crate::events::metadata::Metadata;
use crate::events::values::{Role, Username, ValueError};
use crate::postgres::backend::Backend;
use crate::postgres::{Connection, Pool};

pub use super::opaque_string::TEXT_MAX as PASSWORD_TEXT_MAX;

/// Checks a new password: 8 to 1024 bytes, prepared by OpaqueString (RFC 8265).
pub fn check_password(password: &str) -> Result<(), ValueError> {
    opaque_string::check(password).map_err(ValueError)
}

/// One account, as its row and its events describe it.
#[derive(Debug, Clone)]
pub struct Account {
    pub username: Username,
    pub password_hash: String,
    pub role: Role,
    pub disabled: bool,
    pub created_at: DateTime<Utc>,
    /// The position of the last change that ended its sessions; 0 if there was none.
    pub changed: i64,
}

impl Account {
    /// Whether a log-in that was checked against `other` is still valid: hash, role and state are the
    /// same.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (&self.password_hash, self.role, self.disabled)
            == (&other.password_hash, other.role, other.disabled)
    }
}

/// The table of accounts.
#[derive(Clone)]
pub struct Accounts {
    pool: Pool,
    /// Appends the events of sessions. The events of accounts are appended in the transaction that
    /// changes the row.
    appender: Appender,
}

/// Why an account could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    #[error("the account {0} already exists")]
    Exists(Username),
    #[error("no such account: {0}")]
    Unknown(Username),
    #[error("no enabled admin would be left")]
    LastAdmin,
    #[error("an account has at most {KEYS_MAX} service keys; revoke one first")]
    TooManyKeys,
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// The most service keys of an account, as migration 18 limits them.
pub const KEYS_MAX: usize = 10;

/// The positions of a change that ended sessions, and of the change before it; 0 if there was none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    pub position: i64,
    pub previous: i64,
}

/// Calls a function of migration 10 or 18, which changes an account and appends the event in one transaction.
/// It has no row if there is nothing to change. If the connection was lost before the answer, its backend may
/// still commit: it is ended, and then the log tells whether the change was made; if not, the function is called
/// once more.
macro_rules! change {
    ($accounts:expr, $username:expr, $event:expr, $call:tt, $($argument:expr),+) => {{
        let pool = $accounts.pool();
        macro_rules! call {
            ($connection:expr) => {
                sqlx::query_as!(
                    Change,
                    r#"select position as "position!", previous as "previous!" from "# + $call,
                    $($argument),+
                )
                .fetch_optional($connection)
                .await
            };
        }
        let (mut connection, backend) = $accounts.connect().await?;
        match call!(&mut connection) {
            Err(error) if pool.server().report(&error) => {
                drop(connection);
                let mut other = pool.acquire().await?;
                backend.end(&mut other).await?;
                match recorded(&mut other, $username, $event.command_id).await? {
                    Some(change) => Ok(Some(change)),
                    None => call!(&mut other),
                }
            }
            answered => answered,
        }
    }};
}
pub(super) use change;

impl Accounts {
    #[must_use]
    pub fn new(pool: Pool, appender: Appender) -> Self {
        Self { pool, appender }
    }

    /// The pool for reads of the log.
    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The account of that name.
    pub async fn find(&self, username: &Username) -> Result<Option<Account>, sqlx::Error> {
        let row = sqlx::query!(
            r#"select a.password_hash, a.role, a.disabled, a.created_at,
                      (select coalesce(max(e.position), 0) from events e
                       where e.aggregate_type = 'account' and e.aggregate_id = a.username
                         and e.event_type in ('PasswordChanged', 'RoleChanged', 'AccountDisabled')
                      ) as "changed!"
               from accounts a where a.username = $1"#,
            username.as_str()
        )
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| {
            Ok(Account {
                username: username.clone(),
                password_hash: row.password_hash,
                role: stored_role(&row.role)?,
                disabled: row.disabled,
                created_at: row.created_at,
                changed: row.changed,
            })
        })
        .transpose()
    }

    /// All accounts by name, without their hashes and last changes.
    pub async fn list(&self) -> Result<Vec<Account>, sqlx::Error> {
        let rows = sqlx::query!(
            "select username, role, disabled, created_at from accounts order by username"
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|row| {
                Ok(Account {
                    username: Username::stored(&row.username)
                        .map_err(|error| sqlx::Error::Decode(Box::new(error)))?,
                    password_hash: String::new(),
                    role: stored_role(&row.role)?,
                    disabled: row.disabled,
                    created_at: row.created_at,
                    changed: 0,
                })
            })
            .collect()
    }

    /// Adds an account; [`AccountError::Exists`] if the name is taken.
    pub async fn add(
        &self,
        username: &Username,
        password_hash: &str,
        role: Role,
        metadata: Metadata,
    ) -> Result<(), AccountError> {
        let event = AccountEvent::AccountAdded { username: username.clone(), role };
        let event = NewChange::new(&event, metadata);
        let added = change!(
            self,
            username,
            event,
            "add_account($1, $2, $3, $4, $5, $6)",
            username.as_str(),
            password_hash,
            role.as_str(),
            event.command_id,
            event.payload,
            event.metadata.as_str()
        );
        added?.map(drop).ok_or_else(|| AccountError::Exists(username.clone()))
    }

    /// Replaces the password hash; with `old`, only if that is still the hash and the account is enabled.
    /// If no row matches, fails with [`AccountError::Unknown`].
    pub async fn change_password(
        &self,
        username: &Username,
        old: Option<&str>,
        password_hash: &str,
        metadata: Metadata,
    ) -> Result<Change, AccountError> {
        let event = NewChange::new(&AccountEvent::PasswordChanged {}, metadata);
        let changed = change!(
            self,
            username,
            event,
            "change_password($1, $2, $3, $4, $5, $6)",
            username.as_str(),
            old,
            password_hash,
            event.command_id,
            event.payload,
            event.metadata.as_str()
        );
        known(username, changed?)
    }

    /// Changes the role; [`AccountError::Unknown`] if there is no such account.
    pub async fn change_role(
        &self,
        username: &Username,
        role: Role,
        metadata: Metadata,
    ) -> Result<Change, AccountError> {
        let event = NewChange::new(&AccountEvent::RoleChanged { role }, metadata);
        let changed = change!(
            self,
            username,
            event,
            "change_role($1, $2, $3, $4, $5)",
            username.as_str(),
            role.as_str(),
            event.command_id,
            event.payload,
            event.metadata.as_str()
        );
        known(username, changed?)
    }

    /// Disables the account for log-ins; its name is never reused. [`AccountError::Unknown`] if there is no
    /// such account.
    pub async fn disable(
        &self,
        username: &Username,
        metadata: Metadata,
    ) -> Result<Change, AccountError> {
        let event = NewChange::new(&AccountEvent::AccountDisabled {}, metadata);
        let changed = change!(
            self,
            username,
            event,
            "disable_account($1, $2, $3, $4)",
            username.as_str(),
            event.command_id,
            event.payload,
            event.metadata.as_str()
        );
        known(username, changed?)
    }

    /// Replaces `old` by a hash with the current parameters; `false` if the hash has changed meanwhile.
    pub(super) async fn rehash(
        &self,
        username: &Username,
        old: &str,
        new: &str,
        metadata: Metadata,
    ) -> Result<bool, sqlx::Error> {
        let event = NewChange::new(&AccountEvent::PasswordRehashed {}, metadata);
        let changed = change!(
            self,
            username,
            event,
            "rehash_password($1, $2, $3, $4, $5, $6)",
            username.as_str(),
            old,
            new,
            event.command_id,
            event.payload,
            event.metadata.as_str()
        );
        Ok(changed?.is_some())
    }

    /// A connection for one change, and its backend; a fresh one, if the first is lost.
    pub(super) async fn connect(&self) -> Result<(Connection, Backend), sqlx::Error> {
        let connect = async || {
            let mut connection = self.pool.acquire().await?;
            let backend = Backend::of(&mut connection).await?;
            Ok((connection, backend))
        };
        match connect().await {
            Err(error) if self.pool.server().report(&error) => connect().await,
            connected => connected,
        }
    }

    /// The position of the last change before this one that ended sessions; 0 if there was none.
    pub(super) async fn change_before(
        &self,
        username: &Username,
        position: i64,
    ) -> Result<i64, sqlx::Error> {
        change_before(&self.pool, username, position).await
    }

    /// Appends events of the account's sessions.
    pub(super) async fn record(
        &self,
        username: &Username,
        events: &[AccountEvent],
        metadata: Metadata,
    ) -> Result<(), AppendError> {
        if events.is_empty() {
            return Ok(());
        }
        self.appender.append(appended(username, events, metadata)).await?;
        Ok(())
    }
}

/// The change that a command has made, if the log has it.
pub(super) async fn recorded(
    connection: &mut Connection,
    username: &Username,
    command_id: Uuid,
) -> Result<Option<Change>, sqlx::Error> {
    let position = sqlx::query_scalar!(
        "select position from events
         where aggregate_type = 'account' and aggregate_id = $1 and command_id = $2",
        username.as_str(),
        command_id
    );
    let Some(position) = position.fetch_optional(&mut *connection).await? else {
        return Ok(None);
    };
    let previous = change_before(connection, username, position).await?;
    Ok(Some(Change { position, previous }))
}

/// See [`Accounts::change_before`].
async fn change_before(
    executor: impl PgExecutor<'_>,
    username: &Username,
    position: i64,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select coalesce(max(position), 0) as "position!" from events
           where aggregate_type = 'account' and aggregate_id = $1 and position < $2
             and event_type in ('PasswordChanged', 'RoleChanged', 'AccountDisabled')"#,
        username.as_str(),
        position
    )
    .fetch_one(executor)
    .await
}

/// The event of a change, as the functions that change accounts take it.
pub(super) struct NewChange {
    pub command_id: Uuid,
    pub payload: String,
    pub metadata: EncodedMetadata,
}

impl NewChange {
    pub fn new(event: &AccountEvent, metadata: Metadata) -> Self {
        let payload = NewEvent::from(event).payload;
        Self { command_id: clock::new_id(), payload, metadata: metadata.into() }
    }
}

fn known(username: &Username, change: Option<Change>) -> Result<Change, AccountError> {
    change.ok_or_else(|| AccountError::Unknown(username.clone()))
}

/// Account events do not depend on earlier ones, so no sequence is expected.
fn appended(username: &Username, events: &[AccountEvent], metadata: Metadata) -> Append {
    Append {
        command_id: clock::new_id(),
        aggregate_type: ACCOUNT,
        aggregate_id: username.to_string(),
        expected: None,
        events: events.iter().map(NewEvent::from).collect(),
        metadata: metadata.into(),
        key: None,
        external_id: None,
    }
}

fn stored_role(text: &str) -> Result<Role, sqlx::Error> {
    Role::parse(text).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}
