//! Changes of several parts of an account at once: all or nothing, in one transaction (migration 18).

use serde::Serialize;
use uuid::Uuid;

use super::account::{AccountError, Accounts};
use crate::clock;
use crate::events::account::AccountEvent;
use crate::events::log::NewEvent;
use crate::events::log::payload::EncodedMetadata;
use crate::events::metadata::Metadata;
use crate::events::values::{Role, Username};
use crate::postgres::Connection;

/// The parts of an account to change; `None` leaves a part as it is.
#[derive(Debug, Clone, Default)]
pub struct AccountChange {
    pub role: Option<Role>,
    pub password_hash: Option<String>,
    pub disabled: Option<bool>,
    /// Fail with [`AccountError::LastAdmin`] rather than take the last enabled admin away.
    pub must_keep_admin: bool,
}

/// A part of an account, as the API names its member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    Role,
    Password,
    Disabled,
}

/// A part that is another one now: its event, and the event's position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    pub part: Part,
    pub event: AccountEvent,
    pub position: i64,
}

/// What the database tells of a part: the position and the type of its event.
struct Row {
    position: i64,
    event_type: String,
}

impl AccountChange {
    /// The events of all parts that are named. A part that is so already gets none.
    fn events(&self) -> [(Part, Option<AccountEvent>); 3] {
        let state = |disabled| {
            if disabled {
                AccountEvent::AccountDisabled {}
            } else {
                AccountEvent::AccountEnabled {}
            }
        };
        [
            (Part::Role, self.role.map(|role| AccountEvent::RoleChanged { role })),
            (Part::Password, self.password_hash.as_ref().map(|_| AccountEvent::PasswordChanged {})),
            (Part::Disabled, self.disabled.map(state)),
        ]
    }
}

impl Accounts {
    /// Changes the parts that differ; returns them, in the order of their events. An account that is so already,
    /// and one that does not exist, has none.
    pub async fn change(
        &self,
        username: &Username,
        change: &AccountChange,
        metadata: Metadata,
    ) -> Result<Vec<Made>, AccountError> {
        let events = change.events();
        let command_id = clock::new_id();
        let metadata = EncodedMetadata::from(metadata);
        let (mut connection, backend) = self.connect().await?;
        let changed = call(&mut connection, username, change, command_id, &metadata).await;
        let rows = match changed {
            // As in `change!`: the lost backend may still commit.
            Err(error) if self.pool().server().report(&error) => {
                drop(connection);
                let mut other = self.pool().acquire().await?;
                backend.end(&mut other).await?;
                let recorded = recorded(&mut other, username, command_id).await?;
                if recorded.is_empty() {
                    call(&mut other, username, change, command_id, &metadata).await
                } else {
                    Ok(recorded)
                }
            }
            changed => changed,
        };
        let rows = rows.map_err(refused)?;
        let made = rows.into_iter().filter_map(|Row { position, event_type }| {
            let mut named =
                events.iter().filter_map(|(part, event)| Some((*part, event.as_ref()?)));
            let (part, event) = named.find(|(_, event)| event.event_type() == event_type)?;
            Some(Made { part, event: event.clone(), position })
        });
        Ok(made.collect())
    }
}

async fn call(
    connection: &mut Connection,
    username: &Username,
    change: &AccountChange,
    command_id: Uuid,
    metadata: &EncodedMetadata,
) -> Result<Vec<Row>, sqlx::Error> {
    let payload = |event: Option<AccountEvent>| event.map(|event| NewEvent::from(&event).payload);
    let [role, password, state] = change.events().map(|(_, event)| payload(event));
    sqlx::query_as!(
        Row,
        r#"select position as "position!", event_type as "event_type!"
           from change_account($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"#,
        username.as_str(),
        change.role.map(Role::as_str),
        change.password_hash.as_deref(),
        change.disabled,
        change.must_keep_admin,
        command_id,
        role,
        password,
        state,
        metadata.as_str()
    )
    .fetch_all(connection)
    .await
}

/// The events of a command, if the log has them.
async fn recorded(
    connection: &mut Connection,
    username: &Username,
    command_id: Uuid,
) -> Result<Vec<Row>, sqlx::Error> {
    sqlx::query_as!(
        Row,
        "select position, event_type from events
         where aggregate_type = 'account' and aggregate_id = $1 and command_id = $2
         order by position",
        username.as_str(),
        command_id
    )
    .fetch_all(connection)
    .await
}

/// The refusals of `change_account`.
fn refused(error: sqlx::Error) -> AccountError {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    match code.as_deref() {
        Some("CU005") => AccountError::LastAdmin,
        _ => error.into(),
    }
}
