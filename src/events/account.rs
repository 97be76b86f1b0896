//! Events of accounts and their sessions: the auditor's record of log-ins, log-outs and changes of
//! accounts. No event contains a secret.

use serde::{Deserialize, Serialize};
use strum::VariantNames as _;

use super::account_key::{ClientId, KeyExpiry, KeyName};
use super::upcast;
use super::values::{Role, Username};

/// The `aggregate_type` of accounts in the log.
pub const ACCOUNT: &str = "account";

/// The payload is internally tagged, like that of a customer's event.
#[derive(
    Debug, Clone, PartialEq, Eq, Serialize, Deserialize, strum::IntoStaticStr, strum::VariantNames,
)]
#[serde(tag = "type")]
pub enum AccountEvent {
    AccountAdded {
        username: Username,
        role: Role,
    },
    AccountDisabled {},
    /// May log in again. It has no session: what disabled it has ended them.
    AccountEnabled {},
    RoleChanged {
        role: Role,
    },
    PasswordChanged {},
    /// The same password, hashed with the current parameters and in the prepared spelling. No session ends.
    PasswordRehashed {},
    SessionOpened {
        session: String,
        /// The service key that opened it; `None` for a log-in with the password.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        client_id: Option<ClientId>,
    },
    /// The session's cookie arrived for the first time: from now on, its token without the cookie is a
    /// token replay.
    SessionBound {
        session: String,
    },
    SessionClosed {
        session: String,
        jti: String,
        cause: CloseCause,
    },
    /// A bound session's token arrived without its cookie, or with another cookie. The metadata has the
    /// address of that request, the payload that of the log-in.
    TokenReplayDetected {
        session: String,
        jti: String,
        opened_ip: String,
        opened_user_agent: String,
    },
    LoginThrottled {
        by: ThrottledBy,
    },
    /// A key with which programs get tokens of the account. Its secret is in no event.
    ServiceKeyAdded {
        client_id: ClientId,
        name: KeyName,
        expires_at: KeyExpiry,
    },
    /// The key opens no more sessions, and those that it has opened end.
    ServiceKeyRevoked {
        client_id: ClientId,
    },
}

/// Why a session ended before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CloseCause {
    LogOut,
    PasswordChanged,
    RoleChanged,
    AccountDisabled,
    SessionLimit,
    KeyRevoked,
}

/// The limit of failed log-ins that was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ThrottledBy {
    Account,
    Address,
    /// Failed password changes of one session.
    Session,
    /// Wrong secrets of one service key.
    Key,
}

impl AccountEvent {
    /// The names of all account events.
    pub const TYPES: &'static [&'static str] = Self::VARIANTS;

    #[must_use]
    pub fn event_type(&self) -> &'static str {
        self.into()
    }

    /// Why the event ends every session that was opened before it; `None` if it ends none, or only some. The index
    /// `changes_of_accounts` covers the same event types.
    #[must_use]
    pub fn ends_all_sessions(&self) -> Option<CloseCause> {
        match self {
            Self::PasswordChanged {} => Some(CloseCause::PasswordChanged),
            Self::RoleChanged { .. } => Some(CloseCause::RoleChanged),
            Self::AccountDisabled {} => Some(CloseCause::AccountDisabled),
            Self::AccountAdded { .. }
            | Self::AccountEnabled {}
            | Self::PasswordRehashed {}
            | Self::SessionOpened { .. }
            | Self::SessionBound { .. }
            | Self::SessionClosed { .. }
            | Self::TokenReplayDetected { .. }
            | Self::LoginThrottled { .. }
            | Self::ServiceKeyAdded { .. }
            | Self::ServiceKeyRevoked { .. } => None,
        }
    }

    /// Whether a Redis epoch is trusted only after the event is applied to it. The index
    /// `events_of_sessions` covers the same event types.
    #[must_use]
    pub fn changes_sessions(&self) -> bool {
        match self {
            Self::SessionBound { .. }
            | Self::SessionClosed { .. }
            | Self::TokenReplayDetected { .. }
            | Self::ServiceKeyRevoked { .. } => true,
            Self::AccountAdded { .. }
            | Self::AccountDisabled {}
            | Self::AccountEnabled {}
            | Self::RoleChanged { .. }
            | Self::PasswordChanged {}
            | Self::PasswordRehashed {}
            | Self::SessionOpened { .. }
            | Self::LoginThrottled { .. }
            | Self::ServiceKeyAdded { .. } => self.ends_all_sessions().is_some(),
        }
    }
}

impl cqrs_es::DomainEvent for AccountEvent {
    fn event_type(&self) -> String {
        self.event_type().to_owned()
    }

    fn event_version(&self) -> String {
        upcast::current_version(self.event_type()).to_owned()
    }
}
